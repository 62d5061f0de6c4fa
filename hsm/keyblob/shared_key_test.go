package keyblob_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// A key goes on signing after it was wrapped: wrapping wipes copies only.
func TestWrapLeavesTheKeyUsable(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dkek := secret.Random(keyblob.DKEKSize)
	digest := make([]byte, 32)
	for range 3 {
		if _, err := keyblob.Wrap(dkek, keyblob.EC{Key: key}); err != nil {
			t.Fatalf("wrap: %v", err)
		}
		signature, err := ecdsa.SignASN1(rand.Reader, key, digest)
		if err != nil {
			t.Fatalf("sign: %v", err)
		}
		if !ecdsa.VerifyASN1(&key.PublicKey, digest, signature) {
			t.Fatal("the signature does not verify")
		}
	}
}
