package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
)

var (
	// ErrPINRejected: the device rejected this very PIN before; it was not sent
	// again.
	ErrPINRejected = errors.New("node: the device rejected this PIN before, so it was not sent again: enter the right one (device pin change or unblock)")
	// ErrLastTry: one more wrong PIN would block the device, so none was sent.
	ErrLastTry = errors.New("node: only one try is left before the device blocks its PIN, so none was sent: unblock it with the SO-PIN (device pin unblock)")
	// ErrNoPIN: the device wants a PIN and there is none.
	ErrNoPIN = errors.New("node: the device wants a PIN and none is known: enter it, or give the device's URI a pin-source")
)

func isPINTrouble(err error) bool {
	for _, trouble := range []error{ErrPINRejected, ErrLastTry, ErrNoPIN, hsm.ErrNoSecret, hsm.ErrPINBlocked, hsm.ErrNotLoggedIn, hsm.ErrBadPINFormat} {
		if errors.Is(err, trouble) {
			return true
		}
	}
	var wrong *hsm.PINError
	return errors.As(err, &wrong)
}

// login logs in once, unless somebody else just has.
func (d *deviceRoom) login(ctx context.Context) error {
	if err := take(ctx, d.logins); err != nil {
		return err
	}
	defer give(d.logins)
	if info, err := d.token.Info(ctx); err == nil && info.LoggedIn {
		return nil
	}
	pin, err := d.pin(ctx)
	if err != nil {
		return fmt.Errorf("node: log in to the device: %w", err)
	}
	defer pin.Wipe()
	if err := d.guard(ctx, userPINKind, pin, func() error { return d.token.Login(ctx, pin) }); err != nil {
		return fmt.Errorf("node: log in to the device: %w", err)
	}
	return nil
}

// pin returns the PIN that a person entered, or asks where it comes from. The
// caller wipes it.
func (d *deviceRoom) pin(ctx context.Context) (*hsm.Secret, error) {
	if entered := d.entered.Load(); entered != nil {
		return entered.Clone(), nil
	}
	if d.token.PIN == nil {
		return nil, ErrNoPIN
	}
	return d.token.PIN(ctx)
}

// guard sends one PIN, if that is safe: not one that the device rejected before,
// and not on the last try. What was sent is on disk before it is sent, so that a
// crash in between cannot make this node send it twice.
func (d *deviceRoom) guard(ctx context.Context, kind pinKind, pin *hsm.Secret, send func() error) error {
	info, err := d.token.Info(ctx)
	if err != nil {
		return err
	}
	if kind == soPINKind && info.State == hsm.Blank {
		return send() // it becomes the device's SO-PIN; nothing is compared
	}
	left := -1
	if tries, err := d.token.Tries(ctx); err == nil {
		left = tries.User
		if kind == soPINKind {
			left = tries.SO
		}
	}
	mark, err := d.rejected.mark(kind, info.Serial, pin)
	if err != nil {
		return err
	}
	if err := d.rejected.refuses(mark, left); err != nil {
		return err
	}
	if left == 0 {
		return hsm.ErrPINBlocked
	}
	if left == 1 {
		return ErrLastTry
	}
	if err := d.rejected.sending(mark, left); err != nil {
		return fmt.Errorf("the PIN was not sent, because that could not be recorded: %w", err)
	}
	err = send()
	var wrong *hsm.PINError
	var known *hsm.Error
	switch {
	case errors.As(err, &wrong):
		return errors.Join(err, d.rejected.reject(mark))
	case err == nil || errors.As(err, &known):
		return errors.Join(err, d.rejected.clear(mark))
	}
	return err // nobody knows whether it cost a try: the record stays
}

// EnterPIN gives the node the device's PIN, which it keeps in locked memory
// until it ends. A wrong one is a *hsm.PINError and costs one try.
func (n *Node) EnterPIN(ctx context.Context, pin *hsm.Secret) error {
	d := n.device
	if d == nil {
		return n.Sealed()
	}
	if err := take(ctx, d.logins); err != nil {
		return err
	}
	defer give(d.logins)
	if err := d.guard(ctx, userPINKind, pin, func() error { return d.token.Login(ctx, pin) }); err != nil {
		return fmt.Errorf("node: enter PIN: %w", err)
	}
	d.entered.Swap(pin.Clone()).Wipe()
	d.suspect()
	return nil
}

// ChangePIN replaces the device's user PIN. Where the PIN comes from a file, put
// the new one there as well: the old one is never sent again.
func (n *Node) ChangePIN(ctx context.Context, old, new *hsm.Secret) error {
	d := n.device
	if d == nil {
		return n.Sealed()
	}
	if err := take(ctx, d.logins); err != nil {
		return err
	}
	defer give(d.logins)
	if err := d.guard(ctx, userPINKind, old, func() error { return d.token.ChangePIN(ctx, old, new) }); err != nil {
		return fmt.Errorf("node: change PIN: %w", err)
	}
	return d.pinIs(ctx, new, old)
}

// UnblockPIN sets a new user PIN and full tries with the SO-PIN.
func (n *Node) UnblockPIN(ctx context.Context, soPIN, new *hsm.Secret) error {
	d := n.device
	if d == nil {
		return n.Sealed()
	}
	if err := take(ctx, d.logins); err != nil {
		return err
	}
	defer give(d.logins)
	if err := d.guard(ctx, soPINKind, soPIN, func() error { return d.token.UnblockPIN(ctx, soPIN, new) }); err != nil {
		return fmt.Errorf("node: unblock PIN: %w", err)
	}
	return d.pinIs(ctx, new, nil)
}

// pinIs takes note of a new PIN. A source that still holds the old one would
// cost a try at every login: that one is known to be wrong now.
func (d *deviceRoom) pinIs(ctx context.Context, new, old *hsm.Secret) error {
	d.entered.Swap(new.Clone()).Wipe()
	d.suspect()
	err := d.rejected.forget(userPINKind)
	if info, infoErr := d.token.Info(ctx); infoErr == nil && old != nil && !old.Equal(new) {
		mark, markErr := d.rejected.mark(userPINKind, info.Serial, old)
		if markErr == nil {
			markErr = d.rejected.reject(mark)
		}
		err = errors.Join(err, markErr)
	}
	if err != nil {
		return fmt.Errorf("node: the PIN is changed, but the file %q could not be: %w", rejectedFile, err)
	}
	return nil
}
