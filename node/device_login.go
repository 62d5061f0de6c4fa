package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

var (
	// ErrPINRejected: the device rejected this very PIN before; it was not sent
	// again.
	ErrPINRejected = errors.New("node: the device rejected this PIN before, so it was not sent again: enter the right one (device pin change or unblock)")
	// ErrLastTry: one more wrong PIN would block the device, so none was sent.
	ErrLastTry = errors.New("node: only one try is left before the device blocks its PIN, so none was sent: unblock it with the SO-PIN (device pin unblock)")
	// ErrNoPIN: the device wants a PIN and there is none.
	ErrNoPIN = errors.New("node: the device wants a PIN and none is known: enter it, or give the device's URI a pin-source")
	// ErrPINDerived: the PIN follows from what seals the device, so none other was
	// set: nothing would give it at the next start.
	ErrPINDerived = errors.New("node: the device's PIN follows from its seal secret, so another one was not set: the node would not have it at its next start")

	errNoSOPIN = errors.New("the SO-PIN is needed: give the device's URI a so-pin-source, or enter it")
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
		return doing(err, "log in to the device")
	}
	defer pin.Wipe()
	if err := d.guard(ctx, userPINKind, pin, func() error { return d.token.Login(ctx, pin) }); err != nil {
		return doing(err, "log in to the device")
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

// withPIN sends one PIN for an operation, and then takes note of what it did;
// one at a time.
func (n *Node) withPIN(ctx context.Context, what string, kind pinKind, pin *hsm.Secret, send func(hsm.Token) error, then func(*deviceRoom) error) error {
	d := n.device
	if d == nil {
		return n.Sealed()
	}
	if err := take(ctx, d.logins); err != nil {
		return err
	}
	defer give(d.logins)
	if err := d.guard(ctx, kind, pin, func() error { return send(d.token) }); err != nil {
		return doing(err, "%s", what)
	}
	return then(d)
}

// EnterPIN gives the node the device's PIN, which it keeps in locked memory
// until it ends. A wrong one is a *hsm.PINError and costs one try.
func (n *Node) EnterPIN(ctx context.Context, pin *hsm.Secret) error {
	return n.withPIN(ctx, "enter PIN", userPINKind, pin,
		func(t hsm.Token) error { return t.Login(ctx, pin) },
		func(d *deviceRoom) error {
			d.entered.Swap(pin.Clone()).Wipe()
			d.suspect()
			return nil
		})
}

// ChangePIN replaces the device's user PIN. Where the PIN comes from a file, put
// the new one there as well: the old one is never sent again. [ErrPINDerived],
// and nothing is sent, where there is no such place.
func (n *Node) ChangePIN(ctx context.Context, old, new *hsm.Secret) error {
	if n.device != nil && n.device.token.PINDerived {
		return doing(ErrPINDerived, "change PIN")
	}
	return n.withPIN(ctx, "change PIN", userPINKind, old,
		func(t hsm.Token) error { return t.ChangePIN(ctx, old, new) },
		func(d *deviceRoom) error { return d.pinIs(ctx, new, old) })
}

// UnblockPIN sets a new user PIN and full tries with the SO-PIN. A nil soPIN is
// the one that was entered, or that comes from where the device's URI says; a nil
// new is the PIN that a login would fetch, so that the two agree again.
// [ErrPINDerived] where another one than that is given and would be lost.
func (n *Node) UnblockPIN(ctx context.Context, soPIN, new *hsm.Secret) error {
	const what = "unblock PIN"
	d := n.device
	if d == nil {
		return n.Sealed()
	}
	if new != nil && d.token.PINDerived {
		return doing(ErrPINDerived, what)
	}
	fetched := new == nil
	if fetched {
		var err error
		if new, err = d.sourcePIN(ctx); err != nil {
			return doing(err, what)
		}
		defer new.Wipe()
	}
	if soPIN == nil {
		var err error
		if soPIN, err = d.fetchSOPIN(ctx); err != nil {
			return doing(err, what)
		}
		defer soPIN.Wipe()
	}
	return n.withPIN(ctx, what, soPINKind, soPIN,
		func(t hsm.Token) error { return t.UnblockPIN(ctx, soPIN, new) },
		func(d *deviceRoom) error {
			err := d.pinIs(ctx, new, nil)
			if fetched { // it may change at its source, as by a reseal
				d.entered.Swap(nil).Wipe()
			}
			return err
		})
}

// sourcePIN is the PIN that every start finds, whatever a person entered since.
func (d *deviceRoom) sourcePIN(ctx context.Context) (*hsm.Secret, error) {
	if d.token.PIN == nil {
		return nil, &api.Error{Code: api.CodeBadRequest, Message: "the new PIN is needed: the device's URI has no pin-source", Hint: "nodectl device pin unblock --new-source prompt"}
	}
	return d.token.PIN(ctx)
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
		return doing(err, "the PIN is changed, but the file %q could not be", rejectedFile)
	}
	return nil
}
