package keyblob

import (
	"crypto/rsa"
	"fmt"
	"math"
	"math/big"

	"github.com/keycustodian/keycustodian/internal/secret"
)

func (k RSA) encode(w *writer) error {
	if k.Key == nil || k.Key.N == nil || k.Key.D == nil {
		return fmt.Errorf("%w: no key", ErrMalformed)
	}
	bits := k.Key.N.BitLen()
	if err := checkBits(bits); err != nil {
		return err
	}
	if len(k.Key.Primes) != 2 {
		return fmt.Errorf("%w: %d primes: only two", ErrUnsupported, len(k.Key.Primes))
	}
	// The error of Validate is about numbers and tells none of them.
	if err := k.Key.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	size := (bits + 7) / 8
	if k.Key.D.Sign() <= 0 || k.Key.D.Cmp(k.Key.N) >= 0 {
		return fmt.Errorf("%w: private exponent out of range", ErrMalformed)
	}
	w.uint16(bits)
	w.number(k.Key.D, size)
	w.number(k.Key.N, size)
	w.lv(big.NewInt(int64(k.Key.E)).Bytes())
	return nil
}

// decodeRSA reads d, n, e. The primes, which make signing four times faster and
// which crypto/rsa wants, follow from these.
func decodeRSA(r *reader, bits int, algorithms []byte) (PrivateKey, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	size := (bits + 7) / 8
	d := takeInt(r, size, "private exponent")
	defer wipeInts(d)
	n, e, err := takePublic(r, bits)
	if err != nil {
		return nil, err
	}
	p, q, err := primes(n, d, e)
	if err != nil {
		return nil, err
	}
	return finishRSA(&rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: n, E: e},
		D:         new(big.Int).Set(d), Primes: []*big.Int{p, q},
	}, algorithms)
}

// decodeRSACRT reads dP, dQ, p, qInv, q, n, e, and computes d.
func decodeRSACRT(r *reader, bits int, algorithms []byte) (PrivateKey, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	half := (bits + 15) / 16
	key := new(rsa.PrivateKey)
	key.Precomputed.Dp = takeInt(r, half, "dP")
	key.Precomputed.Dq = takeInt(r, half, "dQ")
	p := takeInt(r, half, "p")
	key.Precomputed.Qinv = takeInt(r, half, "qInv")
	q := takeInt(r, half, "q")
	key.Primes = []*big.Int{p, q}
	n, e, err := takePublic(r, bits)
	if err != nil {
		RSA{Key: key}.Wipe()
		return nil, err
	}
	key.N, key.E = n, e
	if key.D, err = privateExponent(p, q, e); err != nil {
		RSA{Key: key}.Wipe()
		return nil, err
	}
	return finishRSA(key, algorithms)
}

func finishRSA(key *rsa.PrivateKey, algorithms []byte) (PrivateKey, error) {
	key.Precompute()
	if err := key.Validate(); err != nil {
		RSA{Key: key}.Wipe()
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return RSA{Key: key, Algorithms: algorithms}, nil
}

func checkBits(bits int) error {
	if bits < minRSABits || bits > maxRSABits || bits%8 != 0 {
		return fmt.Errorf("%w: %d bits: %d to %d, whole bytes", ErrUnsupported, bits, minRSABits, maxRSABits)
	}
	return nil
}

func takeInt(r *reader, size int, name string) *big.Int {
	b := r.number(size, name)
	defer secret.Wipe(b)
	return new(big.Int).SetBytes(b)
}

// takePublic takes n, e and the end of the plaintext.
func takePublic(r *reader, bits int) (*big.Int, int, error) {
	size := (bits + 7) / 8
	n := takeInt(r, size, "modulus")
	e := takeInt(r, size, "public exponent")
	if err := r.end(); err != nil {
		return nil, 0, err
	}
	if n.BitLen() != bits {
		return nil, 0, fmt.Errorf("%w: modulus does not have the %d bits it should", ErrMalformed, bits)
	}
	if n.Bit(0) == 0 {
		return nil, 0, fmt.Errorf("%w: modulus is even", ErrMalformed)
	}
	if !e.IsInt64() || e.Int64() > math.MaxInt32 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, 0, fmt.Errorf("%w: public exponent: odd, 3 to 2^31-1", ErrUnsupported)
	}
	return n, int(e.Int64()), nil
}

// privateExponent returns e^-1 mod lcm(p-1, q-1), as FIPS 186-5 wants it.
func privateExponent(p, q *big.Int, e int) (*big.Int, error) {
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	defer wipeInts(p1, q1)
	if p1.Sign() <= 0 || q1.Sign() <= 0 {
		return nil, fmt.Errorf("%w: primes", ErrMalformed)
	}
	lambda := new(big.Int).GCD(nil, nil, p1, q1)
	lambda.Mul(lambda.Div(p1, lambda), q1)
	defer wipeInts(lambda)
	d := new(big.Int).ModInverse(big.NewInt(int64(e)), lambda)
	if d == nil {
		return nil, fmt.Errorf("%w: public exponent does not fit the primes", ErrMalformed)
	}
	return d, nil
}
