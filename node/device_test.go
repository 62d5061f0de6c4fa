package node_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// wrongPIN is what the source gives when the PIN was changed and the file was
// not.
const wrongPIN = "111111"

func secretOf(text string) *hsm.Secret { return hsm.NewSecret([]byte(text)) }

func source(text string) hsm.Source {
	return func(context.Context) (*hsm.Secret, error) { return secretOf(text), nil }
}

// moodyDevice forgets the login when it is told to, as a card does when another
// program uses it, and can check a PIN without saying what came of it.
type moodyDevice struct {
	hsm.Device
	out, silent atomic.Bool
}

func (d *moodyDevice) forgotten(op string) error {
	if d.out.Load() {
		return &hsm.Error{Op: op, Device: "moody", Err: hsm.ErrNotLoggedIn}
	}
	return nil
}

func (d *moodyDevice) Info(ctx context.Context) (hsm.Info, error) {
	info, err := d.Device.Info(ctx)
	info.LoggedIn = info.LoggedIn && !d.out.Load()
	return info, err
}

func (d *moodyDevice) DKEK(ctx context.Context) (hsm.DKEKStatus, error) {
	if err := d.forgotten("DKEK"); err != nil {
		return hsm.DKEKStatus{}, err
	}
	return d.Device.DKEK(ctx)
}

func (d *moodyDevice) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	if err := d.forgotten("sign"); err != nil {
		return nil, err
	}
	return d.Device.Sign(ctx, slot, input, options)
}

func (d *moodyDevice) Login(ctx context.Context, pin *hsm.Secret) error {
	err := d.Device.Login(ctx, pin)
	if d.silent.Load() {
		return hsmtest.ErrInjected
	}
	if err == nil {
		d.out.Store(false)
	}
	return err
}

// startMoody is a cluster of one with such a device.
func startMoody(t *testing.T) (*keyLab, *nodetest.Member, *moodyDevice) {
	t.Helper()
	l := startKeys(t, 1, nodetest.Options{})
	m := l.Members[0]
	m.Close()
	device := &moodyDevice{Device: m.Device}
	m.Config.Device.Device = device
	m.Start()
	l.Leader()
	l.ready(m)
	return l, m, device
}

// tries are the wrong PINs left.
func tries(l *keyLab, m *nodetest.Member) int {
	l.t.Helper()
	left, err := m.Device.Unwrapped().Tries(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return left.User
}

func TestARejectedPINIsNeverSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		key := l.create(m, "k", hsm.ECDSAP256)
		m.Close()
		m.Config.Device.PIN = source(wrongPIN)
		device.out.Store(true)
		before := tries(l, m)
		for range 3 {
			m.Start()
			for range 3 {
				err := m.LoginForTest(t.Context())
				var wrong *hsm.PINError
				if !errors.Is(err, node.ErrPINRejected) && !errors.As(err, &wrong) {
					t.Fatalf("log in with a wrong PIN: %v", err)
				}
			}
			synctest.Wait()
			m.Close()
		}
		if left := tries(l, m); left != before-1 {
			t.Fatalf("one bad PIN over three starts cost %d tries", before-left)
		}

		// The right one is entered: keys work again, and the bad one stays known.
		m.Start()
		if err := m.EnterPIN(t.Context(), secretOf(wrongPIN)); !errors.Is(err, node.ErrPINRejected) {
			t.Fatalf("the rejected PIN, by hand: %v", err)
		}
		if err := m.EnterPIN(t.Context(), secretOf(nodetest.PIN)); err != nil {
			t.Fatal(err)
		}
		l.Leader()
		l.ready(m)
		again, err := m.Key(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		signature, err := again.Sign(nil, digest[:], options(again))
		if err != nil {
			t.Fatal(err)
		}
		verify(t, key.Public(), signature)
	})
}

// No share moves for a device that only lacks its PIN: it still has everything. Where
// both PINs are lost it is erased by hand, and then it is replaced like any other.
func TestALockedDeviceIsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		l.create(m, "k", hsm.ECDSAP256)
		m.Close()
		m.Config.Device.PIN = source(wrongPIN)
		device.out.Store(true)
		m.Start()
		l.Leader()
		if _, err := m.OpenProvision(t.Context(), node.CeremonyOptions{}); !errors.Is(err, fsm.WrongState) || !strings.Contains(err.Error(), "is locked") {
			t.Fatalf("a ceremony for a locked device: %v", err)
		}
		m.Close()
		m.NewDevice()
		m.Start()
		l.Leader()
		l.provision(m)
		l.ready(m)
		l.signs(m, "k")
	})
}

func TestAPINOfUnknownOutcomeCountsAsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		m.Close()
		m.Config.Device.PIN = source(wrongPIN)
		device.out.Store(true)
		m.Start()
		synctest.Wait()
		if _, err := m.FileForTest("pin-rejected"); err != nil {
			t.Fatalf("the rejection is not on disk: %v", err)
		}
		// The device swallows the answer: nobody knows whether it cost a try.
		if err := m.UnblockPIN(t.Context(), secretOf(nodetest.SOPIN), secretOf(nodetest.PIN)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // nobody logs in behind the test's back
		before := tries(l, m)
		device.silent.Store(true)
		other := "222222"
		if err := m.EnterPIN(t.Context(), secretOf(other)); !errors.Is(err, hsmtest.ErrInjected) {
			t.Fatalf("an answer that was lost: %v", err)
		}
		device.silent.Store(false)
		m.Config.Device.PIN = source(other)
		m.Restart()
		if err := m.EnterPIN(t.Context(), secretOf(other)); !errors.Is(err, node.ErrPINRejected) {
			t.Fatalf("a PIN that cost a try, after a restart: %v", err)
		}
		if left := tries(l, m); left != before-1 {
			t.Fatalf("%d tries were spent, want 1", before-left)
		}

		// One that never reached the device may be sent again.
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpLogin, Flavour: hsmtest.NotDone})
		if err := m.EnterPIN(t.Context(), secretOf(nodetest.PIN)); !errors.Is(err, hsmtest.ErrInjected) {
			t.Fatalf("a login that was not done: %v", err)
		}
		if err := m.EnterPIN(t.Context(), secretOf(nodetest.PIN)); err != nil {
			t.Fatalf("the right PIN, which cost no try: %v", err)
		}
	})
}

func TestTheLastTryIsNeverSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		for tries(l, m) > 1 {
			m.Device.Unwrapped().Login(t.Context(), secretOf("999999"))
		}
		device.out.Store(true)
		if err := m.LoginForTest(t.Context()); !errors.Is(err, node.ErrLastTry) {
			t.Fatalf("log in on the last try: %v", err)
		}
		if left := tries(l, m); left != 1 {
			t.Fatalf("%d tries left, want 1", left)
		}
		if err := m.UnblockPIN(t.Context(), secretOf("0000000000000000"), secretOf("333333")); err == nil {
			t.Fatal("unblocked with a wrong SO-PIN")
		}
		if err := m.UnblockPIN(t.Context(), secretOf("0000000000000000"), secretOf("333333")); !errors.Is(err, node.ErrPINRejected) {
			t.Fatalf("the same wrong SO-PIN: %v", err)
		}
		if err := m.UnblockPIN(t.Context(), secretOf(nodetest.SOPIN), secretOf("333333")); err != nil {
			t.Fatal(err)
		}
		if left := tries(l, m); left != 3 {
			t.Fatalf("%d tries after unblocking, want 3", left)
		}
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Fatalf("log in with the new PIN: %v", err)
		}
	})
}

func TestChangingThePINForgetsWhatWasRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		if err := m.EnterPIN(t.Context(), secretOf(wrongPIN)); err == nil {
			t.Fatal("a wrong PIN was taken")
		}
		if err := m.ChangePIN(t.Context(), secretOf(nodetest.PIN), secretOf(wrongPIN)); err != nil {
			t.Fatal(err)
		}
		device.out.Store(true)
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Fatalf("log in with what is the PIN now: %v", err)
		}
		// The source still gives the old PIN: it is known to be wrong without
		// a try being spent.
		m.Close()
		device.out.Store(true)
		before := tries(l, m)
		m.Start()
		if err := m.LoginForTest(t.Context()); !errors.Is(err, node.ErrPINRejected) {
			t.Fatalf("log in with the old PIN: %v", err)
		}
		if left := tries(l, m); left != before {
			t.Fatal("the old PIN was sent")
		}
	})
}

func TestALostLoginIsMadeOnceAndTheOperationRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		key := l.create(m, "k", hsm.Ed25519)
		device.out.Store(true)
		logins := m.Device.Calls(hsmtest.OpLogin)
		signature, err := key.Sign(nil, digest[:], options(key))
		if err != nil {
			t.Fatal(err)
		}
		verify(t, key.Public(), signature)
		if made := m.Device.Calls(hsmtest.OpLogin) - logins; made != 1 {
			t.Fatalf("%d logins, want 1", made)
		}
	})
}

func TestDeviceStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &keyLab{Cluster: nodetest.StartWith(t, 1, nodetest.Options{Blank: true}), t: t}
		m := l.Members[0]
		expect := func(state string, want error) {
			t.Helper()
			status, err := m.Node.Device(t.Context())
			if err != nil && state != "gone" {
				t.Fatal(err)
			}
			if status.State != state || !errors.Is(status.Err, want) {
				t.Fatalf("state %q, %v; want %q, %v", status.State, status.Err, state, want)
			}
		}
		expect("blank", node.ErrNoDKEK)
		l.CreateDKEK()
		expect("ready", nil)
		l.create(m, "k", hsm.ECDSAP256)

		// Somebody initialises the device for another DKEK behind our back.
		inside, pin := m.Device.Unwrapped(), secretOf(nodetest.PIN)
		if err := inside.Initialise(t.Context(), hsm.InitOptions{SOPIN: secretOf(nodetest.SOPIN), PIN: pin, Shares: 1}); err != nil {
			t.Fatal(err)
		}
		expect("shares missing", node.ErrDeviceBlank)
		l.Eventually("the cluster knows that the device holds nothing", func() bool { return m.View().Covered()[m.ID()] == 0 })
		if _, err := inside.ImportShare(t.Context(), secretOf("another DKEK, of thirty-two byte")); err != nil {
			t.Fatal(err)
		}
		expect("foreign DKEK", node.ErrForeignDKEK)
		if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: "other", Type: hsm.ECDSAP256}); !errors.Is(err, node.ErrForeignDKEK) {
			t.Fatalf("create in a device with another DKEK: %v", err)
		}
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpInfo, Times: -1, Err: &hsm.Error{Op: "info", Err: hsm.ErrGone}})
		expect("gone", hsm.ErrGone)
	})
}

// startDerived is such a cluster whose device's PINs follow from its seal secret.
func startDerived(t *testing.T) (*keyLab, *nodetest.Member, *moodyDevice) {
	t.Helper()
	l, m, device := startMoody(t)
	m.Config.Device.PINDerived = true
	m.Restart()
	l.Leader()
	synctest.Wait()
	return l, m, device
}

// A derived PIN that was changed could not be found at the next start.
func TestADerivedPINIsNotChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startDerived(t)
		before := tries(l, m)
		if err := m.ChangePIN(t.Context(), secretOf(wrongPIN), secretOf("222222")); !errors.Is(err, node.ErrPINDerived) {
			t.Errorf("change: %v", err)
		}
		if err := m.ChangePIN(t.Context(), secretOf(nodetest.PIN), secretOf("222222")); !errors.Is(err, node.ErrPINDerived) {
			t.Errorf("change: %v", err)
		}
		if err := m.UnblockPIN(t.Context(), secretOf(nodetest.SOPIN), secretOf("222222")); !errors.Is(err, node.ErrPINDerived) {
			t.Errorf("unblock: %v", err)
		}
		if left := tries(l, m); left != before {
			t.Errorf("%d tries left of %d: a PIN was sent", left, before)
		}
		device.out.Store(true)
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Errorf("log in: %v", err)
		}
	})
}

// Two wrong PINs stop a node short of the last try. Unblocking without a source
// gives the device the derived PIN again, and sends nothing twice.
func TestUnblockingHealsADerivedPIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startDerived(t)
		for _, pin := range []string{"111111", "222222"} {
			if err := m.EnterPIN(t.Context(), secretOf(pin)); err == nil {
				t.Fatal("a wrong PIN was taken")
			}
		}
		device.out.Store(true)
		if err := m.LoginForTest(t.Context()); !errors.Is(err, node.ErrLastTry) {
			t.Fatalf("log in on the last try: %v", err)
		}
		if err := m.UnblockPIN(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
		if left := tries(l, m); left != 3 {
			t.Fatalf("%d tries left, want 3", left)
		}
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Fatalf("log in: %v", err)
		}

		// Somebody else's SO-PIN: it is sent once, and never again.
		m.Config.Device.SOPIN = source("0000000000000000")
		m.Restart()
		synctest.Wait()
		var wrong *hsm.PINError
		if err := m.UnblockPIN(t.Context(), nil, nil); !errors.As(err, &wrong) || !wrong.SO {
			t.Fatalf("unblock by a wrong SO-PIN: %v", err)
		}
		if err := m.UnblockPIN(t.Context(), nil, nil); !errors.Is(err, node.ErrPINRejected) {
			t.Fatalf("unblock by the same wrong SO-PIN: %v", err)
		}
	})
}

func TestUnblockingByAnEnteredSOPIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, device := startMoody(t)
		m.Config.Device.SOPIN = nil
		m.Restart()
		synctest.Wait()
		if err := m.UnblockPIN(t.Context(), nil, nil); err == nil {
			t.Fatal("unblocked without a SO-PIN")
		}
		if err := m.EnterSOPIN(secretOf(nodetest.SOPIN)); err != nil {
			t.Fatal(err)
		}
		if err := m.UnblockPIN(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
		device.out.Store(true)
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
