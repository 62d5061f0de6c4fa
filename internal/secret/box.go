package secret

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"
)

// KeySize is the length of a seal secret in bytes.
const KeySize = 32

// BoxOverhead is what sealing adds to a plaintext: a 24-byte random nonce in
// front and a 16-byte tag behind.
const BoxOverhead = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// ErrOpen means that a sealed box was not sealed under this secret, for this
// purpose and this context, or was changed since.
var ErrOpen = errors.New("secret: sealed data does not open: wrong seal secret, or changed data")

// Box seals data at rest with XChaCha20-Poly1305 under a key derived from a
// seal secret. Safe for concurrent use. The derived key stays in memory, on the
// heap, for as long as the Box.
type Box struct {
	aead cipher.AEAD
}

// NewBox derives the box of one purpose ("share", "node key", "soft device"):
// HKDF-SHA256(sealSecret, no salt, info "keycustodian v1 " + purpose), 32 bytes.
// The seal secret must have KeySize bytes.
func NewBox(sealSecret *Bytes, purpose string) (*Box, error) {
	var aead cipher.AEAD
	var err error
	sealSecret.With(func(p []byte) {
		if len(p) != KeySize {
			err = errors.New("secret: a seal secret has 32 bytes")
			return
		}
		var key []byte
		if key, err = hkdf.Key(sha256.New, p, nil, "keycustodian v1 "+purpose, KeySize); err != nil {
			return
		}
		aead, err = chacha20poly1305.NewX(key)
		Wipe(key)
	})
	if err != nil {
		return nil, err
	}
	return &Box{aead: aead}, nil
}

// Seal returns nonce (24) || ciphertext || tag (16). context is authenticated,
// not stored. The nonce is random: 192 bits allow any number of calls.
func (b *Box) Seal(plaintext, context []byte) []byte {
	out := make([]byte, chacha20poly1305.NonceSizeX, len(plaintext)+BoxOverhead)
	rand.Read(out)
	return b.aead.Seal(out, out, plaintext, context)
}

// Open returns the plaintext, which the caller wipes, or [ErrOpen].
func (b *Box) Open(sealed, context []byte) ([]byte, error) {
	if len(sealed) < BoxOverhead {
		return nil, ErrOpen
	}
	nonce, ciphertext := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plaintext, err := b.aead.Open(nil, nonce, ciphertext, context)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}
