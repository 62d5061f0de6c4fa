package soft

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// symmetric returns the AES key in a slot for an input of this size.
func (d *Device) symmetric(ctx context.Context, op string, slot hsm.Slot, size int) (*key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := d.key(op, slot)
	if err != nil {
		return nil, err
	}
	if k.block == nil {
		return nil, d.fail(op, hsm.ErrBadInput, "only an AES key does this")
	}
	if size > maxSymmetric {
		return nil, d.fail(op, hsm.ErrTooLarge, fmt.Sprintf("at most %d bytes", maxSymmetric))
	}
	return k, nil
}

// Seal encrypts with AES-GCM: nonce (12) || ciphertext || tag (16).
func (d *Device) Seal(ctx context.Context, slot hsm.Slot, plaintext, additional []byte) ([]byte, error) {
	const op = "seal"
	k, err := d.symmetric(ctx, op, slot, max(len(plaintext), len(additional)))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(k.block)
	if err != nil {
		return nil, d.fail(op, hsm.ErrUnsupported, err.Error())
	}
	return gcm.Seal(nil, nil, plaintext, additional), nil
}

// Open reverses Seal.
func (d *Device) Open(ctx context.Context, slot hsm.Slot, sealed, additional []byte) ([]byte, error) {
	const op = "open"
	const overhead = 12 + 16
	k, err := d.symmetric(ctx, op, slot, max(len(sealed)-overhead, len(additional)))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(k.block)
	if err != nil {
		return nil, d.fail(op, hsm.ErrUnsupported, err.Error())
	}
	plaintext, err := gcm.Open(nil, nil, sealed, additional)
	if err != nil {
		return nil, d.fail(op, hsm.ErrDecryption, "")
	}
	return plaintext, nil
}

// CMAC returns the 16-byte AES-CMAC of a message.
func (d *Device) CMAC(ctx context.Context, slot hsm.Slot, message []byte) ([]byte, error) {
	k, err := d.symmetric(ctx, "CMAC", slot, len(message))
	if err != nil {
		return nil, err
	}
	mac := keyblob.CMAC(k.block, message)
	return mac[:], nil
}

// Random returns n bytes from the system's generator.
func (d *Device) Random(ctx context.Context, n int) ([]byte, error) {
	const op = "random"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.RLock()
	err := d.ready(op)
	d.mu.RUnlock()
	switch {
	case err != nil:
		return nil, err
	case n < 0:
		return nil, d.fail(op, hsm.ErrBadInput, "a negative number of bytes")
	case n > hsm.MaxRandom:
		return nil, d.fail(op, hsm.ErrTooLarge, fmt.Sprintf("at most %d bytes", hsm.MaxRandom))
	}
	out := make([]byte, n)
	rand.Read(out)
	return out, nil
}
