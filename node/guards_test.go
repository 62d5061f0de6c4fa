package node_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A key that is destroyed while it is on its way into a device, which has said
// already that it does not hold it, is not there afterwards.
func TestDestroyedWhileItIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{Slots: 3})
		m := l.Members[0]
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			l.create(m, name, hsm.Ed25519)
		}
		in := func(name string) bool {
			for _, o := range l.objects(m) {
				if o.Label == name+"@1" {
					return true
				}
			}
			return false
		}
		name := "a"
		for in(name) {
			name = string(name[0] + 1)
		}
		key, err := m.Key(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		loading, goOn := make(chan struct{}), make(chan struct{})
		m.Device.Hook(func(call hsmtest.Call) {
			if call.Op == hsmtest.OpUnwrap {
				close(loading)
				<-goOn
			}
		}, nil)
		signed := make(chan error)
		go func() {
			_, err := key.SignContext(t.Context(), digest[:], options(key))
			signed <- err
		}()
		<-loading
		m.Device.Hook(nil, nil)
		if err := m.DeleteKey(t.Context(), name, time.Millisecond); err != nil {
			t.Fatal(err)
		}
		row, _ := m.View().Key(name)
		l.Eventually("the device has confirmed", func() bool {
			version, _ := m.View().Version(row.ID, 1)
			return version.State == fsm.Destroyed
		})
		close(goOn)
		if err := <-signed; !errors.Is(err, fsm.WrongState) {
			t.Errorf("a destroyed key was used: %v", err)
		}
		if in(name) {
			t.Error("a destroyed key was put back into the device")
		}
	})
}

// A node that starts goes through its log again. While its state is that of before
// a Destroy, it may load the key, also into a device that has confirmed long ago
// that it does not hold it: nobody asks it again.
func TestADestroyedKeyThatCameBackIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 3}})
		m := l.Follower()
		l.create(m, "k", hsm.ECDSAP256)
		l.create(m, "other", hsm.ECDSAP256)
		key, _ := m.View().Key("k")
		version, _ := m.View().Version(key.ID, 1)
		blob, tag := version.Material.Blob, m.TagForTest(version.Request)
		if err := m.DeleteKey(t.Context(), "k", time.Millisecond); err != nil {
			t.Fatal(err)
		}
		l.Eventually("every device has confirmed", func() bool {
			version, _ := m.View().Version(key.ID, 1)
			return version.State == fsm.Destroyed
		})
		last := l.objects(m)[0].Slot
		if _, err := m.Device.Unwrapped().Unwrap(t.Context(), last+1, blob, hsm.Attributes{Label: "k@1", Tag: tag}); err != nil {
			t.Fatal(err)
		}
		if err := m.ListAnewForTest(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.Eventually("the destroyed key is gone from the device, and the other one is not", func() bool {
			objects := l.objects(m)
			return len(objects) == 1 && objects[0].Label == "other@1"
		})
		l.signs(m, "other")
	})
}

// A device that answers a proof with what it signed at an earlier one does not
// show that it has the key.
func TestAnEarlierProofProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		m.Close()
		device := &repeatingDevice{Device: m.Device}
		m.Config.Device.Device = device
		m.Start()
		l.Leader()
		l.ready(m)
		l.create(m, "k", hsm.Ed25519)
		m.Close()
		device.repeats = true
		m.Start()
		l.Leader()
		l.ready(m)
		key, err := m.Key(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.SignContext(t.Context(), digest[:], options(key)); err == nil {
			t.Error("a key whose proof was an earlier one is used")
		}
	})
}

// repeatingDevice remembers what it signed as a proof, and can answer every later
// one with that.
type repeatingDevice struct {
	hsm.Device
	proof   []byte
	repeats bool
}

func (d *repeatingDevice) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	proving := bytes.HasPrefix(input, []byte("keycustodian v1 key proof\x00"))
	if proving && d.repeats {
		return d.proof, nil
	}
	signature, err := d.Device.Sign(ctx, slot, input, options)
	if proving {
		d.proof = signature
	}
	return signature, err
}

// A key is called destroyed although a device has not confirmed it only at an
// operator's word, for the nodes that it names and for what was destroyed.
func TestDestroyedExcept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 5, nodetest.Options{})
		operator := browse(t, l.Cluster, l.Operators[0].Key)
		user := addClient(t, l.Cluster, operator, api.User)
		at := l.Leader()
		away, late := others(l.Cluster, at)[0], others(l.Cluster, at)[1]
		lateID := late.ID()
		l.create(at, "db/k", hsm.Ed25519)
		except := func(b *browser, nodes ...string) reply {
			return b.post(at, "/v1/key/destroy-except", api.DestroyExceptRequest{Key: "db/k@1", Nodes: nodes})
		}
		wantCode(t, except(operator, away.Name), api.CodeNotFound) // it is not destroyed
		away.Crash()
		late.Crash()
		if err := at.DeleteKey(t.Context(), "db/k", time.Millisecond); err != nil {
			t.Fatal(err)
		}
		row, _ := at.View().Key("db/k")
		awaited := func() []dkek.NodeID {
			stone, _ := at.View().Tombstone(row.ID, 1)
			if stone == nil {
				return nil
			}
			return stone.Awaiting
		}
		l.Eventually("the others confirm", func() bool { return len(awaited()) == 2 })
		wantCode(t, except(user, away.Name, late.Name), api.CodeForbidden)
		read[api.Key](t, except(operator, away.Name))
		if left := awaited(); len(left) != 1 || left[0] != lateID {
			t.Errorf("awaiting %v", left)
		}
		state := func() fsm.VersionState {
			version, _ := at.View().Version(row.ID, 1)
			return version.State
		}
		if state() != fsm.Destroying {
			t.Errorf("with a node that nobody waived the key is %s", state())
		}
		shown := func() api.KeyVersion {
			return read[api.Key](t, operator.get(at, "/v1/key?key=db/k")).Versions[0]
		}
		if v := shown(); v.State != api.VersionDestroying || !v.Gone() || !slices.Equal(v.Awaiting, []string{late.Name}) || !slices.Equal(v.Except, []string{away.Name}) {
			t.Errorf("while it is awaited the version is shown as %+v", v)
		}
		wantCode(t, except(operator, away.Name), api.CodeWrongState) // not twice
		late.Start()
		l.Eventually("destroyed but for one", func() bool { return state() == fsm.DestroyedExcept })
		if v := shown(); v.State != api.VersionDestroyedExcept || !v.Gone() || len(v.Awaiting) != 0 || !slices.Equal(v.Except, []string{away.Name}) {
			t.Errorf("it is shown as %+v", v)
		}
	})
}

// A reshare that follows a provision on the same approvals was had once a share
// went for it: a second one, which a leader makes up, gets none.
func TestSecondSuccessor(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		target := blankDevice(c, c.Follower())
		proven, _ := c.Leader().View().Proven()
		holder := c.Members[indexOf(c, proven.Plan.Holders[0].Node)]
		victim := c.Members[indexOf(c, proven.Plan.Holders[1].Node)]
		s := holdAt(victim, "some sub-shares")
		id := openProvision(t, target, node.CeremonyOptions{Successor: true})
		c.Approve(id, 1)
		c.Done(id)
		s.kill(c, victim)
		var first fsm.CeremonyID
		c.Eventually("the successor has ended", func() bool {
			info, err := c.Leader().Ceremony(t.Context(), id)
			first = info.Successor
			return err == nil && first != fsm.CeremonyID{} && closed(c.Leader(), first)
		})
		c.Eventually("its holder knows", func() bool { return closed(holder, first) })
		opened, err := target.OpenDrill(t.Context(), node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f := &forgery{Cluster: c, t: t, holder: holder, thief: target, id: opened.ID}
		for _, m := range c.Members {
			if m != holder && m != target {
				f.other = m
			}
		}
		f.sync()
		provision, _ := holder.View().Ceremony(id)
		was, _ := holder.View().Ceremony(first)
		f.forgeOpen(func(o *fsm.Open) {
			real, err := fsm.ParseOpen(was.Open)
			if err != nil {
				t.Fatal(err)
			}
			again := *real.Plan
			again.Attempt++
			o.Kind, o.Plan, o.Source, o.Expires = real.Kind, &again, real.Source, real.Expires
			o.Sample, o.Cites, o.Recipients = 0, &fsm.Cite{Ceremony: id, Hash: provision.Hash}, real.Recipients
		})
		f.row.Cited, f.row.Approved = true, f.row.Opened
		if _, err := target.Ask(t.Context(), holder.ID(), "share.deal", f.id); err == nil || !strings.Contains(err.Error(), "has had its successor") {
			t.Errorf("a second successor: %v", err)
		}
		f.nothingLeaves(target)
	})
}

// A holder that knows a ceremony to be closed has no release recorded for it,
// although whoever leads has it open again.
func TestReleaseForAClosedCeremony(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		f := startForgery(t)
		f.done()
		if f.row.Releases[0].Holder == f.holder.ID() {
			f.holder, f.other = f.other, f.holder // one that has released nothing in it yet
		}
		for f.holder.Leads() { // its own state would refuse what it proposes
			f.holder.Restart()
			f.Leader()
		}
		f.sync()
		for _, m := range []*nodetest.Member{f.thief, f.other} {
			row, _ := m.View().Ceremony(f.id)
			row.Outcome = fsm.OutcomeOpen
		}
		_, err := f.thief.Ask(t.Context(), f.holder.ID(), "share.release", f.id)
		if !errors.Is(err, fsm.WrongState) {
			t.Errorf("asked for a share in a closed ceremony: %v", err)
		}
		for _, m := range f.Members {
			if row, _ := m.View().Ceremony(f.id); len(row.Releases) != 1 {
				t.Errorf("%s has %d releases on record: want the one of before", m.Name, len(row.Releases))
			}
		}
		if notes, _ := f.holder.Releases(); slices.ContainsFunc(notes, func(n node.ReleaseNote) bool { return n.Ceremony == f.id }) {
			t.Error("the holder released a share in a closed ceremony")
		}
	})
}

func indexOf(c *nodetest.Cluster, id dkek.NodeID) int {
	for i, m := range c.Members {
		if m.ID() == id {
			return i
		}
	}
	c.T.Fatalf("no member %v", id)
	return 0
}
