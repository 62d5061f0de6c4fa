package node_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

var digest = sha256.Sum256([]byte("what is signed"))

// verify checks a signature over digest with the standard library alone.
func verify(t *testing.T, public crypto.PublicKey, signature []byte) {
	t.Helper()
	good := false
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(public, digest[:], signature)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(public, digest[:], signature)
	}
	if !good {
		t.Fatalf("the signature does not verify under %T", public)
	}
}

func options(key *node.Key) crypto.SignerOpts {
	if key.Type() == hsm.Ed25519 {
		return crypto.Hash(0)
	}
	return crypto.SHA256
}

func TestKeysOfEveryKindAreMadeAndUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		for _, keyType := range []hsm.KeyType{hsm.RSA2048, hsm.ECDSAP224, hsm.ECDSAP256, hsm.ECDSAP384, hsm.ECDSAP521, hsm.Ed25519, hsm.AES128, hsm.AES256} {
			key := l.create(m, string(keyType), keyType)
			if !keyType.Symmetric() {
				signature, err := key.Sign(rand.Reader, digest[:], options(key))
				if err != nil {
					t.Fatalf("%s: %v", keyType, err)
				}
				verify(t, key.Public(), signature)
				if err := key.Verify(t.Context(), digest[:], signature, options(key)); err != nil {
					t.Fatalf("%s: %v", keyType, err)
				}
			}
			if keyType.Symmetric() || keyType.Family() == hsm.FamilyRSA {
				sealed, err := key.Encrypt(t.Context(), []byte("plain"), []byte("more"))
				if err != nil {
					t.Fatalf("%s: %v", keyType, err)
				}
				opened, err := key.DecryptContext(t.Context(), sealed, []byte("more"))
				if err != nil || string(opened) != "plain" {
					t.Fatalf("%s: decrypted %q, %v", keyType, opened, err)
				}
			}
		}
	})
}
