package keyblob

import (
	"crypto/ed25519"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// ed25519Bits is the size field of an Ed25519 blob.
const ed25519Bits = 255

func (k Ed25519) encode(w *writer) error {
	if len(k.Key) != ed25519.PrivateKeySize {
		return fmt.Errorf("%w: a key of %d bytes", ErrMalformed, len(k.Key))
	}
	if err := checkEd25519(k.Key); err != nil {
		return err
	}
	w.uint16(ed25519Bits)
	w.lv(k.Key[:ed25519.SeedSize])
	w.lv(k.Key[ed25519.SeedSize:])
	return nil
}

func decodeEd25519(r *reader, size int, algorithms []byte) (PrivateKey, error) {
	if size != ed25519Bits {
		return nil, fmt.Errorf("%w: size %d", ErrUnsupported, size)
	}
	seed := r.lv(ed25519.SeedSize, "seed")
	public := r.lv(ed25519.PublicKeySize, "public key")
	if err := r.end(); err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: seed and public key have 32 bytes", ErrMalformed)
	}
	key := make(ed25519.PrivateKey, 0, ed25519.PrivateKeySize)
	key = append(append(key, seed...), public...)
	if err := checkEd25519(key); err != nil {
		secret.Wipe(key)
		return nil, err
	}
	return Ed25519{Key: key, Algorithms: algorithms}, nil
}

// checkEd25519 refuses a foreign public half: signing under one gives away the
// private scalar.
func checkEd25519(key ed25519.PrivateKey) error {
	made := ed25519.NewKeyFromSeed(key[:ed25519.SeedSize])
	defer secret.Wipe(made)
	if !equal(made, key) {
		return fmt.Errorf("%w: public key does not belong to the seed", ErrMalformed)
	}
	return nil
}
