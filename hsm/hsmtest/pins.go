package hsmtest

import (
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
)

// wrong wants err to be a rejected PIN with so many tries left.
func (b *bench) wrong(err error, so bool, left int) {
	b.t.Helper()
	var rejected *hsm.PINError
	if !errors.As(err, &rejected) {
		b.t.Fatalf("got %v, want a rejected PIN", err)
	}
	if rejected.SO != so || rejected.Left != left && rejected.Left != -1 {
		b.t.Errorf("rejected with %+v, want SO %v and %d left", *rejected, so, left)
	}
	if left == 0 && !errors.Is(err, hsm.ErrPINBlocked) {
		b.t.Error("the last try is gone and the error is not ErrPINBlocked")
	}
}

func (b *bench) tries(user int) {
	b.t.Helper()
	tries, err := b.Tries(b.t.Context())
	b.ok(err, "Tries")
	if tries.User != user && tries.User != -1 {
		b.t.Errorf("%d tries left, want %d", tries.User, user)
	}
}

func (s Suite) pin(t *testing.T) {
	b := s.ready(t, nil)
	ctx := t.Context()
	b.generate(1, s.small(b))

	b.wrong(b.Login(ctx, text("000000")), false, 2)
	b.tries(2)
	_, err := b.List(ctx)
	b.refused(err, hsm.ErrNotLoggedIn, "List after a wrong PIN")
	s.needsLogin(b)
	b.login()
	b.tries(3)

	// What cannot be a PIN is not sent, so it costs no try.
	b.refused(b.Login(ctx, text("1")), hsm.ErrBadPINFormat, "Login with one digit")
	b.tries(3)

	b.wrong(b.ChangePIN(ctx, text("000000"), text("111111")), false, 2)
	b.refused(b.ChangePIN(ctx, text(userPIN), text("12345")), hsm.ErrBadPINFormat, "ChangePIN to five digits")
	b.ok(b.ChangePIN(ctx, text(userPIN), text("111111")), "ChangePIN")
	b.tries(3)
	b.wrong(b.Login(ctx, text(userPIN)), false, 2)
	b.ok(b.Login(ctx, text("111111")), "Login with the changed PIN")

	for left := 2; left >= 0; left-- {
		b.wrong(b.Login(ctx, text("000000")), false, left)
	}
	b.refused(b.Login(ctx, text("111111")), hsm.ErrPINBlocked, "Login when blocked")
	b.refused(b.ChangePIN(ctx, text("111111"), text("222222")), hsm.ErrPINBlocked, "ChangePIN when blocked")
	b.tries(0)
	b.ok(b.UnblockPIN(ctx, text(b.soPIN), text(userPIN)), "UnblockPIN")
	b.tries(3)
	b.login()
	if objects := b.list(); len(objects) != 1 {
		t.Errorf("%d keys after unblocking, want 1", len(objects))
	}
}

// needsLogin wants every operation with keys to be refused, also for a slot
// that is empty: a stranger learns nothing.
func (s Suite) needsLogin(b *bench) {
	b.t.Helper()
	ctx := b.t.Context()
	for _, slot := range []hsm.Slot{1, 2} {
		for what, do := range map[string]func() error{
			"DKEK":     func() error { _, err := b.DKEK(ctx); return err },
			"Generate": func() error { _, err := b.Generate(ctx, slot, s.small(b), hsm.Attributes{}); return err },
			"Delete":   func() error { return b.Delete(ctx, slot) },
			"Wrap":     func() error { _, err := b.Wrap(ctx, slot); return err },
			"Unwrap":   func() error { _, err := b.Unwrap(ctx, slot, nil, hsm.Attributes{}); return err },
			"Sign":     func() error { _, err := b.Sign(ctx, slot, nil, hsm.SignOptions{}); return err },
			"Decrypt":  func() error { _, err := b.Decrypt(ctx, slot, nil, hsm.DecryptOptions{}); return err },
			"ECDH":     func() error { _, err := b.ECDH(ctx, slot, nil); return err },
			"Seal":     func() error { _, err := b.Seal(ctx, slot, nil, nil); return err },
			"Open":     func() error { _, err := b.Device.Open(ctx, slot, nil, nil); return err },
			"CMAC":     func() error { _, err := b.CMAC(ctx, slot, nil); return err },
			"Random":   func() error { _, err := b.Random(ctx, 1); return err },
		} {
			b.refused(do(), hsm.ErrNotLoggedIn, what+" without login")
		}
	}
}

func (s Suite) soPIN(t *testing.T) {
	if !s.SpendSOTries {
		t.Skip("wrong SO-PINs are not allowed on this device")
	}
	b := s.ready(t, nil)
	ctx := t.Context()
	const wrongSO = "0000000000000000"
	b.generate(1, s.small(b))
	tries, err := b.Tries(ctx)
	b.ok(err, "Tries")
	left := tries.SO
	spend := func(err error) {
		t.Helper()
		left--
		b.wrong(err, true, left)
	}
	o := hsm.InitOptions{SOPIN: text(wrongSO), PIN: text(userPIN), Shares: 1}
	spend(b.Initialise(ctx, o))
	spend(b.UnblockPIN(ctx, text(wrongSO), text("111111")))
	b.refused(b.UnblockPIN(ctx, text("abc"), text("111111")), hsm.ErrBadPINFormat, "a short SO-PIN")
	b.state(hsm.Ready)
	b.login()
	if objects := b.list(); len(objects) != 1 {
		t.Errorf("a refused Initialise left %d keys of 1", len(objects))
	}
	if tries, err := b.Tries(ctx); err != nil || tries.User != 3 && tries.User != -1 {
		t.Errorf("a refused UnblockPIN changed the tries to %d (%v)", tries.User, err)
	}
}
