package keyblob

import (
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"
)

// Both ways find the same primes; the slow one is too rare to meet from outside.
func TestPrimes(t *testing.T) {
	for range 20 {
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		one := big.NewInt(1)
		p1, q1 := new(big.Int).Sub(key.Primes[0], one), new(big.Int).Sub(key.Primes[1], one)
		phi := new(big.Int).Mul(p1, q1)
		// Devices may take d modulo phi where crypto/rsa takes the least.
		wide := new(big.Int).ModInverse(big.NewInt(int64(key.E)), phi)
		for name, d := range map[string]*big.Int{"least": key.D, "modulo phi": wide} {
			p, q, err := primes(key.N, d, key.E)
			if err != nil || p.Cmp(q) <= 0 || new(big.Int).Mul(p, q).Cmp(key.N) != 0 {
				t.Fatalf("%s: %v", name, err)
			}
			multiple := new(big.Int).Mul(d, big.NewInt(int64(key.E)))
			multiple.Sub(multiple, one)
			slowP, slowQ, err := primesByRoot(key.N, multiple)
			if err != nil || slowP.Cmp(p) != 0 || slowQ.Cmp(q) != 0 {
				t.Fatalf("%s, by root: %v", name, err)
			}
			multiple.Add(multiple, big.NewInt(2))
			if _, _, err := primesByRoot(key.N, multiple); err == nil {
				t.Errorf("%s: a wrong exponent found primes", name)
			}
		}
	}
}
