package hsmtest

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
)

// Fixture is a device under test.
type Fixture struct {
	// Device is blank, or may be initialised with SOPIN.
	Device hsm.Device
	// SOPIN is 16 hexadecimal digits; empty is "3537363231383830".
	SOPIN string
	// Reopen closes Device and opens the same one again. Nil: the device does
	// not outlive its handle, or cannot be opened twice; tests of that are left
	// out.
	Reopen func(t *testing.T) hsm.Device
}

// Suite says what to test.
type Suite struct {
	// Open returns a device, closed by the test's cleanup. It is called more
	// than once in one test unless Single is set.
	Open func(t *testing.T) Fixture
	// Single: there is one physical device. Tests that need two are left out.
	Single bool
	// Types are the key types to test; nil is all of hsm.KeyTypes. Those that
	// the device does not claim must be refused.
	Types []hsm.KeyType
	// SpendSOTries allows wrong SO-PINs, which a card counts for its life.
	SpendSOTries bool
}

// Run checks that a driver keeps the contract of hsm.Device.
func Run(t *testing.T, suite Suite) {
	if suite.Types == nil {
		suite.Types = hsm.KeyTypes()
	}
	t.Run("Identity", suite.identity)
	t.Run("Blank", suite.blank)
	t.Run("Initialise", suite.initialise)
	t.Run("Shares", suite.shares)
	t.Run("PIN", suite.pin)
	t.Run("SOPIN", suite.soPIN)
	t.Run("Slots", suite.slots)
	t.Run("Attributes", suite.attributes)
	t.Run("Keys", suite.keys)
	t.Run("Blobs", suite.blobs)
	t.Run("Random", suite.random)
	t.Run("Context", suite.context)
	t.Run("Reopen", suite.reopen)
	t.Run("Concurrency", suite.concurrency)
	t.Run("Close", suite.close)
}

func (s Suite) identity(t *testing.T) {
	b, _ := s.open(t)
	info, err := b.Info(t.Context())
	b.ok(err, "Info")
	if info.Kind == "" || info.Serial == "" || info.Slots < 1 {
		t.Errorf("kind %q, serial %q, %d slots: all three are needed", info.Kind, info.Serial, info.Slots)
	}
	again, err := b.Info(t.Context())
	b.ok(err, "Info")
	if again.Serial != info.Serial {
		t.Errorf("the serial changed from %q to %q", info.Serial, again.Serial)
	}
	c := b.Capabilities()
	if c.BlobKind == "" || len(c.Types) == 0 {
		t.Errorf("capabilities name no blob kind or no type: %+v", c)
	}
	for _, keyType := range c.Types {
		if !slices.Contains(hsm.KeyTypes(), keyType) {
			t.Errorf("unknown type %q among the capabilities", keyType)
		}
	}
	if s.Single {
		return
	}
	other, _ := s.open(t)
	if second, err := other.Info(t.Context()); err != nil || second.Serial == info.Serial {
		t.Errorf("two devices share the serial %q (%v)", second.Serial, err)
	}
}

func (s Suite) blank(t *testing.T) {
	b, _ := s.open(t)
	info, err := b.Info(t.Context())
	b.ok(err, "Info")
	if info.State != hsm.Blank {
		t.Skipf("the device is %s, not blank", info.State)
	}
	b.refused(b.Login(t.Context(), text(userPIN)), hsm.ErrNotInitialised, "Login")
	_, err = b.List(t.Context())
	b.refused(err, hsm.ErrNotInitialised, "List")
	_, err = b.Generate(t.Context(), 1, s.small(b), hsm.Attributes{})
	b.refused(err, hsm.ErrNotInitialised, "Generate")
}

func (s Suite) initialise(t *testing.T) {
	b, _ := s.open(t)
	good := func() hsm.InitOptions {
		return hsm.InitOptions{SOPIN: text(b.soPIN), PIN: text(userPIN), Shares: 1}
	}
	for _, c := range []struct {
		name   string
		change func(o *hsm.InitOptions)
		want   error
	}{
		{"no shares", func(o *hsm.InitOptions) { o.Shares = 0 }, hsm.ErrBadInput},
		{"256 shares", func(o *hsm.InitOptions) { o.Shares = 256 }, hsm.ErrBadInput},
		{"11 tries", func(o *hsm.InitOptions) { o.Tries = 11 }, hsm.ErrBadInput},
		{"long label", func(o *hsm.InitOptions) { o.Label = string(make([]byte, 33)) }, hsm.ErrBadInput},
		{"short PIN", func(o *hsm.InitOptions) { o.PIN = text("12345") }, hsm.ErrBadPINFormat},
		{"long PIN", func(o *hsm.InitOptions) { o.PIN = text("1234567890123456") }, hsm.ErrBadPINFormat},
		{"no PIN", func(o *hsm.InitOptions) { o.PIN = nil }, hsm.ErrBadPINFormat},
		{"SO-PIN that is not hexadecimal", func(o *hsm.InitOptions) { o.SOPIN = text("35373632318838xy") }, hsm.ErrBadPINFormat},
		{"short SO-PIN", func(o *hsm.InitOptions) { o.SOPIN = text("1234567") }, hsm.ErrBadPINFormat},
	} {
		o := good()
		c.change(&o)
		b.refused(b.Initialise(t.Context(), o), c.want, c.name)
	}
	o := good()
	o.Label = "one"
	b.ok(b.Initialise(t.Context(), o), "Initialise")
	b.state(hsm.SharesMissing)
	info, err := b.Info(t.Context())
	b.ok(err, "Info")
	if info.Label != "one" || info.LoggedIn {
		t.Errorf("label %q, logged in %v after Initialise", info.Label, info.LoggedIn)
	}
	tries, err := b.Tries(t.Context())
	b.ok(err, "Tries")
	if tries.User != 3 && tries.User != -1 {
		t.Errorf("%d tries by default, want 3", tries.User)
	}

	// The second time it wipes all, needs the same SO-PIN, and keeps the serial.
	b.prepare(nil)
	b.generate(1, s.small(b))
	b.init(1)
	b.state(hsm.SharesMissing)
	b.login()
	if objects := b.list(); len(objects) != 0 {
		t.Errorf("%d keys survived Initialise", len(objects))
	}
	if second, err := b.Info(t.Context()); err != nil || second.Serial != info.Serial {
		t.Errorf("Initialise changed the serial to %q (%v)", second.Serial, err)
	}
}

func (s Suite) shares(t *testing.T) {
	b, _ := s.open(t)
	ctx := t.Context()
	const n = 3
	shares, sum := make([][]byte, n), make([]byte, hsm.ShareSize)
	for i := range shares {
		shares[i] = random(hsm.ShareSize)
		subtle.XORBytes(sum, sum, shares[i])
	}
	b.init(n)
	_, err := b.ImportShare(ctx, hsm.NewSecret(bytes.Clone(shares[0])))
	b.refused(err, hsm.ErrNotLoggedIn, "ImportShare before login")
	for _, order := range [][]int{{0, 1, 2}, {2, 0, 1}} {
		b.init(n)
		b.login()
		_, err = b.ImportShare(ctx, hsm.NewSecret(random(31)))
		b.refused(err, hsm.ErrBadInput, "a share of 31 bytes")
		for i, which := range order {
			_, err := b.Generate(ctx, 1, s.small(b), hsm.Attributes{})
			b.refused(err, hsm.ErrSharesMissing, "Generate with shares missing")
			_, err = b.Unwrap(ctx, 1, random(400), hsm.Attributes{})
			b.refused(err, hsm.ErrSharesMissing, "Unwrap with shares missing")
			share := hsm.NewSecret(bytes.Clone(shares[which]))
			status, err := b.ImportShare(ctx, share)
			b.ok(err, "ImportShare")
			if !share.Equal(hsm.NewSecret(bytes.Clone(shares[which]))) {
				t.Error("ImportShare changed the caller's share")
			}
			if status.Shares != n || status.Missing != n-1-i || (status.Missing > 0 && status.KCV != hsm.KCV{}) {
				t.Errorf("after %d of %d shares: %+v", i+1, n, status)
			}
		}
		b.state(hsm.Ready)
		status, err := b.DKEK(ctx)
		b.ok(err, "DKEK")
		if want := (hsm.DKEKStatus{Shares: n, KCV: kcv(sum)}); status != want {
			t.Errorf("in order %v: DKEK is %+v, want %+v", order, status, want)
		}
		_, err = b.ImportShare(ctx, hsm.NewSecret(bytes.Clone(shares[0])))
		b.refused(err, hsm.ErrTooManyShares, "a fourth share")
	}
}

func (s Suite) random(t *testing.T) {
	b := s.ready(t, nil)
	one, err := b.Random(t.Context(), hsm.MaxRandom)
	b.ok(err, "Random")
	two, err := b.Random(t.Context(), hsm.MaxRandom)
	b.ok(err, "Random")
	if len(one) != hsm.MaxRandom || bytes.Equal(one, two) {
		t.Error("Random is short or repeats itself")
	}
	none, err := b.Random(t.Context(), 0)
	if err != nil || len(none) != 0 {
		t.Errorf("Random(0): %d bytes, %v", len(none), err)
	}
	_, err = b.Random(t.Context(), hsm.MaxRandom+1)
	b.refused(err, hsm.ErrTooLarge, "too many random bytes")
	_, err = b.Random(t.Context(), -1)
	b.refused(err, hsm.ErrBadInput, "a negative number of random bytes")
}

func (s Suite) context(t *testing.T) {
	b := s.ready(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Generate(ctx, 1, s.small(b), hsm.Attributes{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Generate with an ended context: %v", err)
	}
	if err := b.Login(ctx, text("000000")); !errors.Is(err, context.Canceled) {
		t.Errorf("Login with an ended context: %v", err)
	}
	if objects := b.list(); len(objects) != 0 {
		t.Error("a key was made for an ended context")
	}
}

func (s Suite) close(t *testing.T) {
	b := s.ready(t, nil)
	b.generate(1, s.small(b))
	b.ok(b.Close(), "Close")
	b.ok(b.Close(), "a second Close")
	_, err := b.List(t.Context())
	b.refused(err, hsm.ErrGone, "List after Close")
	_, err = b.Info(t.Context())
	b.refused(err, hsm.ErrGone, "Info after Close")
	b.refused(b.Sync(t.Context()), hsm.ErrGone, "Sync after Close")
	b.refused(b.Login(t.Context(), text(userPIN)), hsm.ErrGone, "Login after Close")
}
