package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

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

// logOut has somebody else send a wrong PIN, after which nobody is logged in.
func logOut(l *keyLab, m *nodetest.Member) {
	l.t.Helper()
	var wrong *hsm.PINError
	if err := m.Device.Unwrapped().Login(l.t.Context(), secretOf("999999")); !errors.As(err, &wrong) {
		l.t.Fatalf("a wrong PIN: %v", err)
	}
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
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		key := l.create(m, "k", hsm.ECDSAP256)
		m.Close()
		m.Config.Device.PIN = source(wrongPIN)
		logOut(l, m)
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

// silentDevice checks a PIN and does not say what came of it.
type silentDevice struct {
	hsm.Device
	silent bool
}

func (d *silentDevice) Login(ctx context.Context, pin *hsm.Secret) error {
	err := d.Device.Login(ctx, pin)
	if d.silent {
		return hsmtest.ErrInjected
	}
	return err
}

func TestAPINOfUnknownOutcomeCountsAsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		m.Close()
		m.Config.Device.PIN = source(wrongPIN)
		logOut(l, m)
		m.Start()
		synctest.Wait()
		before := tries(l, m)
		if _, err := m.FileForTest("pin-rejected"); err != nil {
			t.Fatalf("the rejection is not on disk: %v", err)
		}
		// The device swallows the answer: nobody knows whether it cost a try.
		silent := &silentDevice{Device: m.Device}
		m.Close()
		m.Config.Device.Device = silent
		m.Start()
		synctest.Wait()
		silent.silent = true
		other := "222222"
		if err := m.EnterPIN(t.Context(), secretOf(other)); !errors.Is(err, hsmtest.ErrInjected) {
			t.Fatalf("an answer that was lost: %v", err)
		}
		m.Close()
		m.Config.Device.Device = m.Device
		m.Start()
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
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		for tries(l, m) > 1 {
			logOut(l, m)
		}
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
		if left := tries(l, m); left != 10 {
			t.Fatalf("%d tries after unblocking, want 10", left)
		}
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Fatalf("log in with the new PIN: %v", err)
		}
	})
}

func TestChangingThePINForgetsWhatWasRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		if err := m.EnterPIN(t.Context(), secretOf(wrongPIN)); err == nil {
			t.Fatal("a wrong PIN was taken")
		}
		if err := m.ChangePIN(t.Context(), secretOf(nodetest.PIN), secretOf(wrongPIN)); err != nil {
			t.Fatal(err)
		}
		logOut(l, m)
		if err := m.LoginForTest(t.Context()); err != nil {
			t.Fatalf("log in with what is the PIN now: %v", err)
		}
		// The source still gives the old PIN: it is known to be wrong without
		// a try being spent.
		m.Close()
		logOut(l, m)
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
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		key := l.create(m, "k", hsm.Ed25519)
		logOut(l, m)
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
		l.provision(m)
		l.dkek[0] ^= 1 // what the log will say is another DKEK
		l.prove()
		expect("foreign DKEK", node.ErrForeignDKEK)
		if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); !errors.Is(err, node.ErrForeignDKEK) {
			t.Fatalf("create in a device with another DKEK: %v", err)
		}
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpInfo, Times: -1, Err: &hsm.Error{Op: "info", Err: hsm.ErrGone}})
		expect("gone", hsm.ErrGone)
	})
}
