package soft

import (
	"context"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// Initialise wipes the device and prepares it for shares. Old keys are not in
// the new file, which takes the old one's place in one step.
func (d *Device) Initialise(ctx context.Context, options hsm.InitOptions) error {
	const op = "initialise"
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.checkInit(op, options); err != nil {
		return err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.RLock()
	s, closed := d.state, d.closed
	d.mu.RUnlock()
	if closed {
		return d.fail(op, hsm.ErrGone, "")
	}
	if s.initialised {
		var err error
		if s, err = d.spendSOTry(op, s, options.SOPIN); err != nil {
			return err
		}
	}
	soPIN := soBytes(options.SOPIN)
	defer soPIN.Wipe()
	fresh := newState(s.serial)
	fresh.label, fresh.initialised, fresh.soLeft = options.Label, true, s.soLeft
	fresh.shares, fresh.missing = options.Shares, options.Shares
	if fresh.tries = options.Tries; fresh.tries == 0 {
		fresh.tries = defaultTries
	}
	fresh.left = fresh.tries
	fresh.setPINs(options.PIN, soPIN)
	return d.begin(op, fresh)
}

// begin starts a new life of the device from this state.
func (d *Device) begin(op string, fresh state) error {
	d.mu.Lock()
	err := d.rewrite(fresh, nil)
	if err == nil {
		err = d.takeState(fresh)
	}
	if err == nil {
		d.life++
		d.loggedIn, d.used = false, 0
		d.entries, d.cache = map[hsm.Slot]*entry{}, &cache{}
	}
	d.mu.Unlock()
	if err != nil {
		return d.fail(op, hsm.ErrStorage, err.Error())
	}
	return d.sync(context.Background(), op)
}

func (d *Device) checkInit(op string, o hsm.InitOptions) error {
	switch {
	case o.Shares < 1 || o.Shares > maxShares:
		return d.fail(op, hsm.ErrBadInput, "a DKEK has 1 to 255 shares: without them no key could ever leave the device")
	case o.Tries < 0 || o.Tries > maxTries:
		return d.fail(op, hsm.ErrBadInput, "PIN tries are 1 to 10")
	case len(o.Label) > maxInitLabel:
		return d.fail(op, hsm.ErrBadInput, "a label has up to 32 bytes")
	case !goodPIN(o.PIN):
		return d.fail(op, hsm.ErrBadPINFormat, "")
	}
	soPIN := soBytes(o.SOPIN)
	if soPIN == nil {
		return d.fail(op, hsm.ErrBadPINFormat, "")
	}
	soPIN.Wipe()
	return nil
}

// ImportShare XORs a share into the DKEK.
func (d *Device) ImportShare(ctx context.Context, share *hsm.Secret) (hsm.DKEKStatus, error) {
	const op = "import share"
	if err := ctx.Err(); err != nil {
		return hsm.DKEKStatus{}, err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.RLock()
	err, s := d.ready(op), d.state
	d.mu.RUnlock()
	switch {
	case err != nil:
		return hsm.DKEKStatus{}, err
	case share.Len() != hsm.ShareSize:
		return hsm.DKEKStatus{}, d.fail(op, hsm.ErrBadInput, "a share has 32 bytes")
	case s.missing == 0:
		return hsm.DKEKStatus{}, d.fail(op, hsm.ErrTooManyShares, "")
	}
	s.dkek = s.withShare(share)
	s.missing--
	if err := d.persist(op, s); err != nil {
		return hsm.DKEKStatus{}, err // a sum that was not stored wipes itself when collected
	}
	return s.dkekStatus(), nil
}

// DKEK says how many shares are in, and the KCV once all are.
func (d *Device) DKEK(ctx context.Context) (hsm.DKEKStatus, error) {
	if err := ctx.Err(); err != nil {
		return hsm.DKEKStatus{}, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.ready("DKEK"); err != nil {
		return hsm.DKEKStatus{}, err
	}
	return d.state.dkekStatus(), nil
}

func (s state) dkekStatus() hsm.DKEKStatus {
	status := hsm.DKEKStatus{Shares: s.shares, Missing: s.missing}
	if s.missing == 0 {
		if keys, err := keyblob.NewKeys(s.dkek); err == nil {
			status.KCV = keys.KCV()
			keys.Wipe()
		}
	}
	return status
}
