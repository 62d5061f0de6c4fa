package keyblob_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// The sizes that the vendor's tools and devices show. RSA is of type 5: type 6
// would have 971 and 1867.
func TestSizes(t *testing.T) {
	none := []byte{}
	for _, test := range []struct {
		key  keyblob.PrivateKey
		size int
	}{
		{keyblob.RSA{Key: everyKey(t)["rsa-2048"].(keyblob.RSA).Key, Algorithms: none}, 587},
		{keyblob.RSA{Key: everyKey(t)["rsa-4096"].(keyblob.RSA).Key, Algorithms: none}, 1099},
		{keyblob.EC{Key: newEC(t, elliptic.P256()), Algorithms: none}, 363},
		{keyblob.AES{Key: random(32)}, 94},
	} {
		blob, err := keyblob.Wrap(secret.Random(32), test.key)
		if err != nil {
			t.Fatal(err)
		}
		if len(blob) != test.size {
			t.Errorf("%s: %d bytes, want %d", test.key.Type(), len(blob), test.size)
		}
	}
}

// Every type and size comes back as it went.
func TestRoundTrip(t *testing.T) {
	keys := newKeys(t, secret.Random(32))
	for name, key := range everyKey(t) {
		blob, err := keys.Wrap(key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back, err := keys.Unwrap(blob)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !same(key, back) {
			t.Errorf("%s: another key came back", name)
		}
		again, err := keys.Wrap(key)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) == string(blob) {
			t.Errorf("%s: two blobs of one key are alike", name)
		}
	}
}

// everyKey returns one key of each type and size, made once: RSA takes its time.
func everyKey(t *testing.T) map[string]keyblob.PrivateKey {
	t.Helper()
	all, err := madeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var madeOnce = sync.OnceValues(func() (map[string]keyblob.PrivateKey, error) {
	all := make(map[string]keyblob.PrivateKey)
	for _, bits := range []int{1024, 2048, 3072, 4096} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		all[fmt.Sprintf("rsa-%d", bits)] = keyblob.RSA{Key: key}
	}
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return nil, err
		}
		all[curve.Params().Name] = keyblob.EC{Key: key}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	all["ed25519"] = keyblob.Ed25519{Key: private}
	for _, size := range []int{16, 24, 32} {
		all[fmt.Sprintf("aes-%d", 8*size)] = keyblob.AES{Key: random(size)}
	}
	return all, nil
})

func newKeys(t testing.TB, dkek *secret.Bytes) *keyblob.Keys {
	t.Helper()
	keys, err := keyblob.NewKeys(dkek)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Wipe)
	return keys
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func same(a, b keyblob.PrivateKey) bool {
	switch a := a.(type) {
	case keyblob.RSA:
		b, ok := b.(keyblob.RSA)
		// A blob of type 5 does not say which prime is the first.
		p, q := a.Key.Primes[0], a.Key.Primes[1]
		if p.Cmp(q) < 0 {
			p, q = q, p
		}
		return ok && a.Key.PublicKey.Equal(&b.Key.PublicKey) && a.Key.D.Cmp(b.Key.D) == 0 &&
			p.Cmp(b.Key.Primes[0]) == 0 && q.Cmp(b.Key.Primes[1]) == 0
	case keyblob.EC:
		b, ok := b.(keyblob.EC)
		return ok && a.Key.Equal(b.Key)
	case keyblob.Ed25519:
		b, ok := b.(keyblob.Ed25519)
		return ok && a.Key.Equal(b.Key)
	case keyblob.AES:
		b, ok := b.(keyblob.AES)
		return ok && string(a.Key) == string(b.Key)
	}
	return false
}
