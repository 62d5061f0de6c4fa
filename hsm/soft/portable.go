package soft

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// portable returns the key as keyblob wraps it. It shares memory with k, but an
// EC key is a value of its own: crypto/ecdsa keeps the scalar once for each
// *ecdsa.PrivateKey and lends it out, so what one wrap wipes of its copy would
// else be missing in a signature or wrap beside it.
func (k *key) portable() keyblob.PrivateKey {
	switch p := k.private.(type) {
	case *rsa.PrivateKey:
		return keyblob.RSA{Key: p}
	case *ecdsa.PrivateKey:
		own := *p
		return keyblob.EC{Key: &own}
	case ed25519.PrivateKey:
		return keyblob.Ed25519{Key: p}
	}
	return keyblob.AES{Key: k.raw}
}

// fromPortable takes over an unwrapped key. Which algorithms its old device
// allowed it is not kept: this device allows what the custodian asks.
func fromPortable(wrapped keyblob.PrivateKey) (hsm.KeyType, *key, error) {
	switch p := wrapped.(type) {
	case keyblob.RSA:
		return typed(fmt.Sprintf("rsa-%d", p.Key.N.BitLen()), &key{private: p.Key})
	case keyblob.EC:
		name := map[string]string{"P-224": "ecdsa-p224", "P-256": "ecdsa-p256", "P-384": "ecdsa-p384", "P-521": "ecdsa-p521"}
		return typed(name[p.Key.Curve.Params().Name], &key{private: p.Key})
	case keyblob.Ed25519:
		return typed(string(hsm.Ed25519), &key{private: p.Key})
	case keyblob.AES:
		k, err := newAES(p.Key)
		if err != nil {
			return "", nil, err
		}
		return typed(fmt.Sprintf("aes-%d", 8*len(p.Key)), k)
	}
	return "", nil, errors.New("unknown kind of key")
}

func typed(name string, k *key) (hsm.KeyType, *key, error) {
	keyType := hsm.KeyType(name)
	if typeNumbers[keyType] == 0 {
		return "", nil, fmt.Errorf("the software device holds no %s keys", name)
	}
	return keyType, k, nil
}
