package soft

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Resealing is what Reseal changes.
type Resealing struct {
	// Seal is the new seal secret, 32 bytes. The caller keeps and wipes it.
	Seal *hsm.Secret
	// PIN and SOPIN are for a host whose PINs follow from its seal secret.
	PIN, SOPIN PINChange
}

// PINChange puts New in the place of Old, where Old is what the device has;
// otherwise that PIN was given by a person, and stays. The zero value changes
// nothing.
type PINChange struct{ Old, New *hsm.Secret }

// Reseal writes the file anew under another seal secret, and the PINs that
// change with it, in one step: after a crash the file is whole under one secret
// with its PINs, or whole under the other with those. DKEK, keys, tries and the
// login stay. It costs no try: who has the seal secret has the device.
//
// After an error that is not a *hsm.Error ask [Device.SealedUnder].
func (d *Device) Reseal(ctx context.Context, r Resealing) error {
	const op = "reseal"
	if err := ctx.Err(); err != nil {
		return err
	}
	box, err := secret.NewBox(r.Seal, purpose)
	if err != nil {
		return d.fail(op, hsm.ErrBadInput, err.Error())
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.resealIn(op, box, r); err != nil {
		return err
	}
	return d.sync(context.Background(), op)
}

func (d *Device) resealIn(op string, box *secret.Box, r Resealing) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.fail(op, hsm.ErrGone, "")
	}
	s := d.state
	if err := s.changePINs(r.PIN, r.SOPIN); err != nil {
		return d.fail(op, err, "the new PIN")
	}
	if err := d.rewriteIn(box, s, d.entries); err != nil {
		return d.fail(op, hsm.ErrStorage, err.Error())
	}
	d.state = s
	return nil
}

// changePINs replaces the PINs that are the old ones.
func (s *state) changePINs(pin, soPIN PINChange) error {
	if !s.initialised {
		return nil
	}
	if pin.New != nil && s.isPIN(pin.Old) {
		if !goodPIN(pin.New) {
			return hsm.ErrBadPINFormat
		}
		s.pin = s.check('U', pin.New)
	}
	if soPIN.New == nil {
		return nil
	}
	old, next := soBytes(soPIN.Old), soBytes(soPIN.New)
	defer old.Wipe()
	defer next.Wipe()
	if old != nil && s.isSOPIN(old) {
		if next == nil {
			return hsm.ErrBadPINFormat
		}
		s.soPIN = s.check('S', next)
	}
	return nil
}

// SealedUnder reports whether the file, as it is now, opens under this seal
// secret.
func (d *Device) SealedUnder(seal *hsm.Secret) (bool, error) {
	const op = "seal"
	box, err := secret.NewBox(seal, purpose)
	if err != nil {
		return false, d.fail(op, hsm.ErrBadInput, err.Error())
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return false, d.fail(op, hsm.ErrGone, "")
	}
	is, err := d.log.sealedIn(box)
	if err != nil {
		return false, fmt.Errorf("soft: %s: %w", op, err)
	}
	return is, nil
}
