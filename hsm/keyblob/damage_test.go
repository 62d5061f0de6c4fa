package keyblob_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// One flipped bit anywhere is refused: in the check value as another DKEK, in
// every other place as damage, before a byte is decrypted or a length believed.
func TestEveryFlippedBitIsRefused(t *testing.T) {
	keys := newKeys(t, secret.Random(32))
	blob, err := keys.Wrap(keyblob.EC{Key: newEC(t, elliptic.P256())})
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(blob) {
		changed := bytes.Clone(blob)
		changed[bit/8] ^= 1 << (bit % 8)
		want := keyblob.ErrDamaged
		if bit/8 < keyblob.KCVSize {
			want = keyblob.ErrWrongDKEK
		}
		if _, err := keys.Unwrap(changed); !errors.Is(err, want) {
			t.Fatalf("bit %d: got %v, want %v", bit, err, want)
		}
	}
}

func TestEveryTruncationAndExtensionIsRefused(t *testing.T) {
	keys := newKeys(t, secret.Random(32))
	blob, err := keys.Wrap(keyblob.AES{Key: random(32)})
	if err != nil {
		t.Fatal(err)
	}
	for n := range blob {
		if _, err := keys.Unwrap(blob[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	for _, more := range []int{1, 16, keyblob.MaxBlob} {
		if _, err := keys.Unwrap(append(bytes.Clone(blob), make([]byte, more)...)); err == nil {
			t.Errorf("%d bytes longer: accepted", more)
		}
	}
}

func TestAnotherDKEKIsSaidSo(t *testing.T) {
	blob, err := keyblob.Wrap(secret.Random(32), keyblob.AES{Key: random(32)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = keyblob.Unwrap(secret.Random(32), blob)
	if !errors.Is(err, keyblob.ErrWrongDKEK) || errors.Is(err, keyblob.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// Under a right MAC too, a blob is refused that says more than is understood, or
// has other padding than the format's.
func TestUnwrapRefusesForeignLayout(t *testing.T) {
	keys := newKeys(t, fixedDKEK())
	oid, none := fromHex(t, "6086480165030401"), []byte(nil)
	// 8 random bytes, size, key, padding: two blocks.
	good := append(append(make([]byte, 8), 0, 16), append(random(16), 0x80, 0, 0, 0, 0, 0)...)
	ec, err := keys.Wrap(keyblob.EC{Key: newEC(t, elliptic.P256())})
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, b byte) []byte {
		p := bytes.Clone(good)
		p[at] = b
		return p
	}
	for name, test := range map[string]struct {
		blob []byte
		want error
	}{
		"as it should be":             {sealWith(t, 15, good, oid, none, none, none), nil},
		"another AES identifier":      {sealWith(t, 15, good, []byte{1}, none, none, none), nil},
		"another EC identifier":       {sealWith(t, 12, open(t, ec), []byte{1}, none, none, none), keyblob.ErrUnsupported},
		"an access condition":         {sealWith(t, 15, good, oid, none, []byte{1}, none), keyblob.ErrUnsupported},
		"a key identifier":            {sealWith(t, 15, good, oid, none, none, []byte{1}), keyblob.ErrUnsupported},
		"an unknown type":             {sealWith(t, 99, good, oid, none, none, none), keyblob.ErrUnsupported},
		"a long algorithm list":       {sealWith(t, 15, good, oid, random(65), none, none), keyblob.ErrMalformed},
		"no ciphertext":               {sealWith(t, 15, nil, oid, none, none, none), keyblob.ErrMalformed},
		"padding without its mark":    {sealWith(t, 15, changed(26, 0), oid, none, none, none), keyblob.ErrMalformed},
		"padding with something else": {sealWith(t, 15, changed(31, 1), oid, none, none, none), keyblob.ErrMalformed},
		"a block of padding too many": {sealWith(t, 15, append(bytes.Clone(good), make([]byte, 16)...), oid, none, none, none), keyblob.ErrMalformed},
	} {
		if _, err := keys.Unwrap(test.blob); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

// What Unwrap would refuse is not wrapped: such a backup would be none.
func TestWrapRefuses(t *testing.T) {
	keys := newKeys(t, secret.Random(32))
	mixed := *newEC(t, elliptic.P256())
	mixed.PublicKey = newEC(t, elliptic.P256()).PublicKey
	one := newRSA(t, 1024)
	wrong := &rsa.PrivateKey{PublicKey: one.PublicKey, D: new(big.Int).Add(one.D, big.NewInt(2)), Primes: one.Primes}
	long := &rsa.PrivateKey{PublicKey: one.PublicKey, D: new(big.Int).Lsh(one.D, 2000), Primes: one.Primes}
	ed := random(64)
	for name, test := range map[string]struct {
		key  keyblob.PrivateKey
		want error
	}{
		"RSA without a key":         {keyblob.RSA{}, keyblob.ErrMalformed},
		"RSA with another exponent": {keyblob.RSA{Key: wrong}, keyblob.ErrMalformed},
		"RSA with a long exponent":  {keyblob.RSA{Key: long}, keyblob.ErrMalformed},
		"RSA without primes":        {keyblob.RSA{Key: &rsa.PrivateKey{PublicKey: one.PublicKey, D: one.D}}, keyblob.ErrUnsupported},
		"EC without a key":          {keyblob.EC{}, keyblob.ErrMalformed},
		"EC without a curve":        {keyblob.EC{Key: &ecdsa.PrivateKey{}}, keyblob.ErrMalformed},
		"EC with another's public":  {keyblob.EC{Key: &mixed}, keyblob.ErrMalformed},
		"Ed25519 without a key":     {keyblob.Ed25519{}, keyblob.ErrMalformed},
		"Ed25519 of random bytes":   {keyblob.Ed25519{Key: ed}, keyblob.ErrMalformed},
		"AES of 20 bytes":           {keyblob.AES{Key: random(20)}, keyblob.ErrUnsupported},
		"AES without a key":         {keyblob.AES{}, keyblob.ErrUnsupported},
		"a long algorithm list":     {keyblob.AES{Key: random(16), Algorithms: random(65)}, keyblob.ErrUnsupported},
	} {
		if _, err := keys.Wrap(test.key); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	if _, err := keys.Wrap(nil); err == nil {
		t.Error("no key: wrapped")
	}
}

func TestKeysRefuse(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := keyblob.NewKeys(secret.Random(n)); err == nil {
			t.Errorf("a DKEK of %d bytes: taken", n)
		}
	}
	if _, err := keyblob.NewKeys(nil); err == nil {
		t.Error("no DKEK: taken")
	}
	keys, err := keyblob.NewKeys(secret.Random(32))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := keys.Wrap(keyblob.AES{Key: random(16)})
	if err != nil {
		t.Fatal(err)
	}
	keys.Wipe()
	keys.Wipe()
	if _, err := keys.Wrap(keyblob.AES{Key: random(16)}); !errors.Is(err, keyblob.ErrWiped) {
		t.Errorf("wrap after a wipe: %v", err)
	}
	if _, err := keys.Unwrap(blob); !errors.Is(err, keyblob.ErrWiped) {
		t.Errorf("unwrap after a wipe: %v", err)
	}
}

// The header is read without any key, of types that Unwrap does not know too.
func TestParseHeader(t *testing.T) {
	dkek := secret.Random(32)
	keys := newKeys(t, dkek)
	blob, err := keys.Wrap(keyblob.EC{Key: newEC(t, elliptic.P384()), Algorithms: []byte{0x73, 0x92}})
	if err != nil {
		t.Fatal(err)
	}
	header, err := keyblob.ParseHeader(blob)
	if err != nil {
		t.Fatal(err)
	}
	if header.KCV != keys.KCV() || header.Type != keyblob.TypeEC || string(header.Algorithms) != "\x73\x92" ||
		string(header.DefaultAlgorithm) != string(fromHex(t, "04007f00070202020203")) ||
		len(header.AccessConditions) != 0 || len(header.KeyOID) != 0 {
		t.Errorf("got %+v", header)
	}
	blob[8] = 99
	header, err = keyblob.ParseHeader(blob)
	if err != nil || header.Type.OfVendor() || !strings.Contains(header.Type.String(), "99") {
		t.Errorf("unknown type: %+v, %v", header, err)
	}
	for n := range 60 {
		if _, err := keyblob.ParseHeader(blob[:n]); !errors.Is(err, keyblob.ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if keyblob.TypeEd25519.OfVendor() || !keyblob.TypeRSACRT.OfVendor() {
		t.Error("OfVendor is wrong")
	}
}
