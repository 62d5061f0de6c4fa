package node_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// resealed is a member whose device follows its seal secret, and whose disk can
// die after so many steps of a reseal.
type resealed struct {
	*nodetest.Member
	t           *testing.T
	cluster     *nodetest.Cluster
	sealedUnder *hsm.Secret // the device
	steps       int
	files       []string // that are sealed, beside the one that is there meanwhile
}

var errKilled = errors.New("killed")

func startResealed(t *testing.T) *resealed {
	c := nodetest.Start(t, 3)
	if _, err := c.Leader().CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err != nil {
		t.Fatal(err)
	}
	r := &resealed{Member: c.Follower(), t: t, cluster: c}
	r.Close()
	r.sealedUnder = r.Seal.Clone()
	token := r.Config.Device
	token.Reseal = func(_ context.Context, present, next *hsm.Secret) error {
		if r.sealedUnder.Equal(next) {
			return nil
		}
		if !r.sealedUnder.Equal(present) {
			return errors.New("sealed under a third secret")
		}
		if err := r.step("device"); err != nil {
			return err
		}
		r.sealedUnder = next.Clone()
		return nil
	}
	r.Config.Device = hsm.Token{}
	r.Config.OpenDevice = func(_ context.Context, seal *hsm.Secret) (hsm.Token, error) {
		if !r.sealedUnder.Equal(seal) {
			return hsm.Token{}, hsm.ErrStorage
		}
		return token, nil
	}
	r.Start()
	r.isWhole(r.Seal) // and so gets a PIN rejected
	for name := range r.Config.Memory.OpensUnder(r.ID(), r.Seal) {
		r.files = append(r.files, name)
	}
	if slices.Sort(r.files); len(r.files) != 5 || !strings.HasPrefix(r.files[4], "shares/") {
		t.Fatalf("sealed are %v: want identity, pin-rejected, pins, releases and a share", r.files)
	}
	return r
}

func (r *resealed) step(string) error {
	if r.steps--; r.steps < 0 {
		return errKilled
	}
	return nil
}

// dies has the disk die after so many changes of sealed files and device; -1 for
// never.
func (r *resealed) dies(after int) {
	r.steps = after
	var dying func(string) error
	if after >= 0 {
		dying = func(name string) error {
			if r.steps >= 0 && name != "reseal" && !slices.Contains(r.files, name) {
				return nil
			}
			return r.step(name)
		}
	} else {
		r.steps = 1000
	}
	r.Config.Memory.Changing(dying)
}

// isWhole wants the node sealed under this secret and no other, with its share,
// its device and its memory of rejected PINs.
func (r *resealed) isWhole(seal *hsm.Secret) {
	r.t.Helper()
	r.cluster.Eventually("its device uses a key", func() bool {
		key, err := r.Key(r.t.Context(), "k")
		if err != nil {
			return false
		}
		digest := sha256.Sum256([]byte("m"))
		used, err := key.Use(r.t.Context(), node.KeyUse{Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256})
		return err == nil && used.Node == r.ID()
	})
	if err := r.ShareTrouble(); err != nil {
		r.t.Errorf("its share: %v", err)
	}
	opens := r.Config.Memory.OpensUnder(r.ID(), seal)
	for _, name := range r.files {
		if !opens[name] {
			r.t.Errorf("%s does not open under the seal secret", name)
		}
	}
	if !r.sealedUnder.Equal(seal) {
		r.t.Error("the device is sealed under another secret")
	}
	tries, err := r.Device.Tries(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	err = r.EnterPIN(r.t.Context(), secretOf(wrongPIN))
	if after, _ := r.Device.Tries(r.t.Context()); r.files != nil && (!errors.Is(err, node.ErrPINRejected) || after != tries) {
		r.t.Errorf("a PIN that was rejected before: %v, %v tries after %v", err, after, tries)
	}
}

// opensNothing wants no trace of a former secret.
func (r *resealed) opensNothing(seal *hsm.Secret) {
	r.t.Helper()
	if opens := r.Config.Memory.OpensUnder(r.ID(), seal); len(opens) > 0 {
		r.t.Errorf("still opens under the former secret: %v", opens)
	}
	if r.Config.Memory.Content("reseal") != nil {
		r.t.Error("the former secret is still there, sealed under the new one")
	}
}

// change makes next the secret that the node starts with.
func (r *resealed) change(next *hsm.Secret) {
	r.Seal, r.Config.Seal = next, secret.Fixed(next)
}

func TestReseal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResealed(t)
		present, next := r.Seal, secret.Random(secret.KeySize)
		r.dies(-1)
		for _, wrong := range []struct{ present, next *hsm.Secret }{
			{secret.Random(secret.KeySize), next}, {present, present}, {present, hsm.NewSecret([]byte("short"))},
		} {
			if err := r.Reseal(t.Context(), wrong.present, wrong.next); err == nil {
				t.Error("resealed without the present secret, or under none")
			}
		}
		r.isWhole(present)
		for range 2 { // an answer that was lost
			if err := r.Reseal(t.Context(), present, next); err != nil {
				t.Fatal(err)
			}
		}
		r.isWhole(next)
		r.opensNothing(present)

		// What the running node writes afterwards is sealed under the new secret too.
		before := r.Config.Memory.Content("releases")
		opened, err := r.cluster.Leader().OpenReshare(t.Context(), node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.cluster.Approve(opened.ID, 1)
		r.cluster.Done(opened.ID)
		r.cluster.Eventually("the old share is erased", func() bool { return len(r.Config.Memory.Files("shares/")) == 1 })
		if bytes.Equal(before, r.Config.Memory.Content("releases")) {
			t.Fatal("the reshare released nothing here")
		}
		r.files = slices.Replace(r.files, 4, 5, r.Config.Memory.Files("shares/")...)
		r.isWhole(next)
		r.opensNothing(present)

		r.Close()
		if _, err := node.Open(t.Context(), r.Config); !errors.Is(err, node.ErrSealed) || !strings.Contains(err.Error(), "not the seal secret") {
			t.Errorf("a start with the former secret: %v", err)
		}
		r.change(next)
		r.Start()
		r.isWhole(next)
	})
}

// Killed after any step, the node comes back with the new secret, or says that
// it needs it; nothing is lost and nothing stays under the old one.
// A device that cannot follow is found out before anything is changed.
func TestResealRefusedByTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResealed(t)
		open := r.Config.OpenDevice
		r.Close()
		r.Config.OpenDevice = func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error) {
			token, err := open(ctx, seal)
			token.Reseal = func(context.Context, *hsm.Secret, *hsm.Secret) error { return hsm.ErrOwnSeal }
			return token, err
		}
		r.Start()
		next := secret.Random(secret.KeySize)
		if err := r.Reseal(t.Context(), r.Seal, next); !errors.Is(err, hsm.ErrOwnSeal) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("reseal: %v", err)
		}
		r.Close()
		r.Start() // under the former secret
		if err := r.Sealed(); err != nil {
			t.Error(err)
		}
	})
}

func TestResealKilledAtEveryStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResealed(t)
		done := false
		for after := 0; !done; after++ {
			present, next := r.Seal, secret.Random(secret.KeySize)
			r.dies(after)
			err := r.Reseal(t.Context(), present, next)
			if done = err == nil; done && after != 8 {
				t.Errorf("it took %d steps: want the note, device, pins, releases, share, PINs, identity, and the note away", after)
			}
			r.Crash()
			r.dies(-1)
			r.cluster.Network.Resume(r.Host)
			if after > 0 && !done {
				if _, err := node.Open(t.Context(), r.Config); !errors.Is(err, node.ErrSealed) || !strings.Contains(err.Error(), "not the new one") {
					t.Errorf("after %d steps, a start with the former secret: %v", after, err)
				}
			}
			if after > 0 {
				r.change(next)
			}
			r.Start()
			r.isWhole(r.Seal)
			if after > 0 {
				r.opensNothing(present)
			}
			if t.Failed() {
				t.Fatalf("killed after %d steps", after)
			}
		}
	})
}

// A step that fails leaves the node at work, and the same reseal is repeated;
// another one is not begun in its place.
func TestResealRepeatedAfterEveryStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResealed(t)
		for after := range 8 {
			present, next := r.Seal, secret.Random(secret.KeySize)
			r.dies(after)
			if err := r.Reseal(t.Context(), present, next); !errors.Is(err, errKilled) {
				t.Fatalf("after %d steps: %v", after, err)
			}
			r.dies(-1)
			if err := r.ShareTrouble(); err != nil {
				t.Errorf("in between: %v", err)
			}
			if after > 0 {
				if err := r.Reseal(t.Context(), present, secret.Random(secret.KeySize)); !errors.Is(err, fsm.Conflict) {
					t.Errorf("to a third secret: %v", err)
				}
			}
			if err := r.Reseal(t.Context(), present, next); err != nil {
				t.Fatal(err)
			}
			r.change(next)
			r.isWhole(next)
			r.opensNothing(present)
			if t.Failed() {
				t.Fatalf("failed after %d steps", after)
			}
		}
		r.Restart()
		r.isWhole(r.Seal)
	})
}

// A share that was damaged before stays as it is, and does not keep the rest
// under a secret that may have been seen.
func TestResealPassesOverDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResealed(t)
		present, next := r.Seal, secret.Random(secret.KeySize)
		share := r.files[4]
		damaged := r.Config.Memory.Content(share)
		damaged[len(damaged)/2] ^= 1
		r.Config.Memory.SetContent(share, damaged)
		r.dies(-1)
		if err := r.Reseal(t.Context(), present, next); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Config.Memory.Content(share), damaged) {
			t.Error("a damaged share was changed")
		}
		r.opensNothing(present)
		if r.ShareTrouble() == nil {
			t.Error("nobody says that it is bad")
		}
	})
}
