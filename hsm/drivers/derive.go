package drivers

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// derivedPINs are the PINs of a software device that have no source: they follow
// from its seal secret, and change with it. One that has a source is nil.
type derivedPINs struct {
	mu         sync.Mutex
	pin, soPIN *secret.Bytes
}

// derivePINs gives the token the PINs that have no source.
func derivePINs(token *hsm.Token, seal *secret.Bytes) (*derivedPINs, error) {
	pins := &derivedPINs{}
	if token.PIN == nil {
		pins.pin = secret.New(0)
		token.PIN = func(context.Context) (*secret.Bytes, error) { return pins.copyOf(&pins.pin), nil }
	}
	if token.SOPIN == nil {
		pins.soPIN = secret.New(0)
		token.SOPIN = func(context.Context) (*secret.Bytes, error) { return pins.copyOf(&pins.soPIN), nil }
	}
	return pins, pins.follow(seal)
}

func (d *derivedPINs) copyOf(pin **secret.Bytes) *secret.Bytes {
	d.mu.Lock()
	defer d.mu.Unlock()
	return (*pin).Clone()
}

// follow makes them those of a seal secret.
func (d *derivedPINs) follow(seal *secret.Bytes) error {
	pin, soPIN, err := derive(seal)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, change := range []struct{ to, from **secret.Bytes }{{&d.pin, &pin}, {&d.soPIN, &soPIN}} {
		if *change.to != nil {
			*change.to, *change.from = *change.from, *change.to
		}
		(*change.from).Wipe()
	}
	return nil
}

// reseal seals a device under its host's next secret and gives it the PINs that
// follow from that, in one step of the device.
func (d *derivedPINs) reseal(ctx context.Context, device *soft.Device, present, next *secret.Bytes) error {
	if is, err := device.SealedUnder(next); is || err != nil {
		return errors.Join(err, d.follow(next))
	}
	oldPIN, oldSO, err := derive(present)
	if err != nil {
		return err
	}
	defer oldPIN.Wipe()
	defer oldSO.Wipe()
	newPIN, newSO, err := derive(next)
	if err != nil {
		return err
	}
	defer newPIN.Wipe()
	defer newSO.Wipe()
	change := soft.Resealing{Seal: next}
	d.mu.Lock()
	if d.pin != nil {
		change.PIN = soft.PINChange{Old: oldPIN, New: newPIN}
	}
	if d.soPIN != nil {
		change.SOPIN = soft.PINChange{Old: oldSO, New: newSO}
	}
	d.mu.Unlock()
	err = device.Reseal(ctx, change)
	// Also where it may not be durable yet, the device has the new PINs.
	if is, _ := device.SealedUnder(next); is {
		err = errors.Join(err, d.follow(next))
	}
	return err
}

// keepApart refuses to change a host's seal secret where its device has a source
// of its own that gives the same one: when that source changes too, the device
// would not open any more.
func keepApart(device *soft.Device, present *secret.Bytes) error {
	same, err := device.SealedUnder(present)
	if err == nil && same {
		return fmt.Errorf("drivers: %w that gives the same secret: take seal-source out of the device's URI and start again, then both change together", hsm.ErrOwnSeal)
	}
	return err
}

// derive makes the PIN and the SO-PIN that follow from a seal secret.
func derive(seal *secret.Bytes) (pin, soPIN *secret.Bytes, err error) {
	if pin, err = derived(seal, "PIN", userPIN); err == nil {
		soPIN, err = derived(seal, "SO-PIN", soPINOf)
	}
	return pin, soPIN, err
}

func derived(seal *secret.Bytes, what string, form func(key []byte) []byte) (pin *secret.Bytes, err error) {
	seal.With(func(p []byte) {
		var key []byte
		if key, err = hkdf.Key(sha256.New, p, nil, "keycustodian v1 soft device "+what, 32); err == nil {
			pin = secret.Take(form(key))
			secret.Wipe(key)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("drivers: derive %s: %w", what, err)
	}
	return pin, nil
}

// userPIN makes 15 digits, the longest PIN. That ten does not divide 256 costs
// less than a bit.
func userPIN(key []byte) []byte {
	pin := make([]byte, 15)
	for i := range pin {
		pin[i] = '0' + key[i]%10
	}
	return pin
}

// soPINOf makes 16 hexadecimal digits.
func soPINOf(key []byte) []byte { return hex.AppendEncode(nil, key[:8]) }
