package soft

import (
	"context"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// persist makes s the state, durably. Callers hold changing. After an *hsm.Error
// nothing has changed.
func (d *Device) persist(op string, s state) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return d.fail(op, hsm.ErrGone, "")
	}
	record := s.encode()
	_, err := d.log.append(record)
	secret.Wipe(record)
	if err == nil {
		err = d.takeState(s)
	}
	if err == nil {
		d.compact()
	}
	d.mu.Unlock()
	if err != nil {
		return d.fail(op, hsm.ErrStorage, err.Error())
	}
	return d.sync(context.Background(), op)
}

// present says what state a PIN operation starts from. Callers hold changing.
func (d *Device) present(ctx context.Context, op string) (state, error) {
	if err := ctx.Err(); err != nil {
		return state{}, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	switch {
	case d.closed:
		return state{}, d.fail(op, hsm.ErrGone, "")
	case !d.state.initialised:
		return state{}, d.fail(op, hsm.ErrNotInitialised, "")
	}
	return d.state, nil
}

func (d *Device) setLoggedIn(in bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loggedIn = in
}

// spendTry counts a try of the user PIN before it is compared, so that a kill
// in between cannot give a try back, and returns the state with it spent.
func (d *Device) spendTry(op string, s state, pin *secret.Bytes) (state, error) {
	if s.left == 0 {
		return s, d.fail(op, hsm.ErrPINBlocked, "")
	}
	if !goodPIN(pin) {
		return s, d.fail(op, hsm.ErrBadPINFormat, "")
	}
	s.left--
	if err := d.persist(op, s); err != nil {
		return s, d.fail(op, hsm.ErrStorage, "the try could not be stored, so the PIN was not compared: "+err.Error())
	}
	if !s.isPIN(pin) {
		d.setLoggedIn(false)
		return s, d.fail(op, &hsm.PINError{Left: s.left}, "")
	}
	return s, nil
}

// spendSOTry does the same for the SO-PIN, of which a right one gives no try
// back: there are 15 wrong ones in the life of a device.
func (d *Device) spendSOTry(op string, s state, soPIN *secret.Bytes) (state, error) {
	if s.soLeft == 0 {
		return s, d.fail(op, hsm.ErrPINBlocked, "the SO-PIN itself: this device cannot be initialised or unblocked any more; replace it")
	}
	bytes := soBytes(soPIN)
	if bytes == nil {
		return s, d.fail(op, hsm.ErrBadPINFormat, "")
	}
	defer bytes.Wipe()
	spent := s
	spent.soLeft--
	if err := d.persist(op, spent); err != nil {
		return s, d.fail(op, hsm.ErrStorage, "the try could not be stored, so the SO-PIN was not compared: "+err.Error())
	}
	if !s.isSOPIN(bytes) {
		return spent, d.fail(op, &hsm.PINError{SO: true, Left: spent.soLeft}, "")
	}
	return s, nil // what the caller stores next has the try again
}

// Login compares the user PIN, at the cost of a try until it was right.
func (d *Device) Login(ctx context.Context, pin *hsm.Secret) error {
	const op = "login"
	d.changing.Lock()
	defer d.changing.Unlock()
	s, err := d.present(ctx, op)
	if err != nil {
		return err
	}
	if s, err = d.spendTry(op, s, pin); err != nil {
		return err
	}
	s.left = s.tries
	if err := d.persist(op, s); err != nil {
		return d.fail(op, hsm.ErrStorage, err.Error())
	}
	d.setLoggedIn(true)
	return nil
}

// Tries says how many wrong PINs are left.
func (d *Device) Tries(ctx context.Context) (hsm.PINTries, error) {
	if err := ctx.Err(); err != nil {
		return hsm.PINTries{}, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return hsm.PINTries{}, d.fail("tries", hsm.ErrGone, "")
	}
	return hsm.PINTries{User: d.state.left, SO: d.state.soLeft, UserMax: d.state.tries, SOMax: soTries}, nil
}

// ChangePIN replaces the user PIN; a wrong old one costs a try. The login stays.
func (d *Device) ChangePIN(ctx context.Context, old, new *hsm.Secret) error {
	const op = "change PIN"
	d.changing.Lock()
	defer d.changing.Unlock()
	return d.setPIN(ctx, op, new, func(s state) (state, error) { return d.spendTry(op, s, old) })
}

// UnblockPIN sets a new user PIN with full tries, and logs out.
func (d *Device) UnblockPIN(ctx context.Context, soPIN, new *hsm.Secret) error {
	const op = "unblock PIN"
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.setPIN(ctx, op, new, func(s state) (state, error) { return d.spendSOTry(op, s, soPIN) }); err != nil {
		return err
	}
	d.setLoggedIn(false)
	return nil
}

// setPIN stores a new user PIN with full tries, once spend has found the other
// one right. Callers hold changing.
func (d *Device) setPIN(ctx context.Context, op string, new *hsm.Secret, spend func(state) (state, error)) error {
	s, err := d.present(ctx, op)
	if err != nil {
		return err
	}
	if !goodPIN(new) {
		return d.fail(op, hsm.ErrBadPINFormat, "the new PIN")
	}
	if s, err = spend(s); err != nil {
		return err
	}
	s.pin, s.left = s.check('U', new), s.tries
	return d.persist(op, s)
}
