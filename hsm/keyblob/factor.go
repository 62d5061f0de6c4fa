package keyblob

import (
	"fmt"
	"math/big"
)

// maxGCD bounds the search of primes for gcd(p-1, q-1). The share of keys whose
// gcd is 2m falls with the square of m; the others take the slow way.
const maxGCD = 256

// primes factors n = p*q, p > q, given a private exponent d of e. math/big
// takes time that depends on the numbers; this runs once for each unwrap, on
// the host that is about to hold the key.
//
// e*d - 1 is a multiple of lcm(p-1, q-1) = phi/g with a small g, so that
// g*(e*d-1) = k*phi with k under e*g. Since n is above phi by half its length
// only, k is the quotient by n, rounded up. phi gives p+q, that and n give p
// and q. Microseconds, against milliseconds for the general way.
func primes(n, d *big.Int, e int) (p, q *big.Int, err error) {
	one := big.NewInt(1)
	multiple := new(big.Int).Mul(d, big.NewInt(int64(e)))
	multiple.Sub(multiple, one)
	defer wipeInts(multiple)
	if multiple.Sign() <= 0 {
		return nil, nil, fmt.Errorf("%w: private exponent", ErrMalformed)
	}
	k, phi, remainder, product := new(big.Int), new(big.Int), new(big.Int), new(big.Int)
	defer wipeInts(k, phi, remainder, product)
	for g := int64(1); g <= maxGCD; g++ {
		product.Mul(multiple, big.NewInt(g))
		k.Div(product, n)
		k.Add(k, one)
		if phi.QuoRem(product, k, remainder); remainder.Sign() != 0 {
			continue
		}
		if p, q = split2(n, phi); p != nil {
			return p, q, nil
		}
	}
	return primesByRoot(n, multiple)
}

// split2 solves x^2 - (n+1-phi)x + n = 0; nil where that has no whole roots.
func split2(n, phi *big.Int) (p, q *big.Int) {
	sum := new(big.Int).Sub(n, phi)
	sum.Add(sum, big.NewInt(1))
	root := new(big.Int).Mul(sum, sum)
	root.Sub(root, new(big.Int).Lsh(n, 2))
	defer wipeInts(sum, root)
	if sum.Sign() <= 0 || root.Sign() <= 0 {
		return nil, nil
	}
	root.Sqrt(root)
	p = new(big.Int).Add(sum, root)
	p.Rsh(p, 1)
	q = new(big.Int).Sub(sum, p)
	product := new(big.Int).Mul(p, q)
	defer wipeInts(product)
	if product.Cmp(n) != 0 {
		wipeInts(p, q)
		return nil, nil
	}
	return p, q
}

// primesByRoot looks for a square root of 1 other than 1 and -1 (SP 800-56B,
// appendix C.1); each base finds one with a chance of a half or better. A base
// of which the power is not 1 ends the search: then d is not n's.
func primesByRoot(n, multiple *big.Int) (p, q *big.Int, err error) {
	one := big.NewInt(1)
	minusOne := new(big.Int).Sub(n, one)
	twos := multiple.TrailingZeroBits()
	odd := new(big.Int).Rsh(multiple, twos)
	x, y := new(big.Int), new(big.Int)
	defer wipeInts(odd, x, y)
	for base := int64(2); base < 42; base++ {
		x.Exp(big.NewInt(base), odd, n)
		y.SetInt64(0)
		for range twos {
			y.Mul(x, x)
			y.Mod(y, n)
			if y.Cmp(one) == 0 {
				break
			}
			x.Set(y)
		}
		if y.Cmp(one) != 0 {
			break
		}
		if x.Cmp(one) == 0 || x.Cmp(minusOne) == 0 {
			continue
		}
		p = new(big.Int).GCD(nil, nil, x.Sub(x, one), n)
		q = new(big.Int).Div(n, p)
		if p.Cmp(q) < 0 {
			p, q = q, p
		}
		return p, q, nil
	}
	return nil, nil, fmt.Errorf("%w: private exponent does not belong to the modulus", ErrMalformed)
}
