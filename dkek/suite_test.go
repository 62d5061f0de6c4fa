package dkek_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
)

func TestSuites(t *testing.T) {
	s := deal(t, firstPlan(2, 2), nil)
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	check(t, err)
	token, err := dkek.TokenRecipientKey(private)
	check(t, err)
	for _, c := range []struct {
		name  string
		key   *dkek.RecipientKey
		suite dkek.Suite
		size  int // of the public key
	}{
		{"default", newKey(t, dkek.Suite{}), dkek.Hybrid(), 1216},
		{"X25519", newKey(t, dkek.X25519()), dkek.X25519(), 32},
		{"P-256", newKey(t, dkek.P256()), dkek.P256(), 65},
		{"P-256 in a token", token, dkek.P256(), 65},
	} {
		t.Run(c.name, func(t *testing.T) {
			public := c.key.Public()
			check(t, public.Validate())
			if public.Suite != c.suite || len(public.Bytes) != c.size {
				t.Fatalf("suite %v with %d bytes", public.Suite, len(public.Bytes))
			}
			sealed, err := s.bundles[id(1)].SealRelease(s.Sharing, public, transcript)
			check(t, err)
			if sealed.Suite != c.suite {
				t.Fatalf("the release records suite %v", sealed.Suite)
			}
			bundle, err := dkek.OpenRelease(c.key, sealed, transcript, s.Sharing, id(1))
			check(t, err)
			check(t, bundle.Check(s.Sharing))
		})
	}
}

func TestUnknownSuitesAndKeysAreRefused(t *testing.T) {
	s := deal(t, firstPlan(2, 2), nil)
	weak := dkek.Suite{KEM: 0x0020, KDF: 0x0001, AEAD: 0x0001} // AES-128
	none := dkek.Suite{KEM: 0x0020, KDF: 0x0001, AEAD: 0xffff} // export only
	for _, suite := range []dkek.Suite{weak, none, {KEM: 1, KDF: 1, AEAD: 1}} {
		if _, err := dkek.NewRecipientKey(suite); !errors.Is(err, dkek.WrongSuite) {
			t.Errorf("%v: %v", suite, err)
		}
		key := newKey(t, dkek.X25519()).Public()
		key.Suite = suite
		if _, err := s.bundles[id(1)].SealRelease(s.Sharing, key, transcript); !errors.Is(err, dkek.WrongSuite) {
			t.Errorf("%v: %v", suite, err)
		}
	}
	for _, key := range []dkek.PublicKey{
		{Suite: dkek.Hybrid()},
		{Suite: dkek.Hybrid(), Bytes: make([]byte, 1<<20)},
		{Suite: dkek.Hybrid(), Bytes: newKey(t, dkek.X25519()).Public().Bytes},
		{Suite: dkek.P256(), Bytes: make([]byte, 65)},
	} {
		if key.Validate() == nil {
			t.Errorf("a key of %d bytes is taken for %v", len(key.Bytes), key.Suite)
		}
	}
}
