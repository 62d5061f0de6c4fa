package keyblob_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// A key goes on signing while it is wrapped: wrapping wipes copies only.
func TestWrapLeavesTheKeyUsable(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dkek := secret.Random(keyblob.DKEKSize)
	digest := make([]byte, 32)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if _, err := keyblob.Wrap(dkek, keyblob.EC{Key: key}); err != nil {
					t.Errorf("wrap: %v", err)
					return
				}
				signature, err := ecdsa.SignASN1(rand.Reader, key, digest)
				if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, digest, signature) {
					t.Errorf("sign: no valid signature: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
}
