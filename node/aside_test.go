package node_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// TestAnOldStateDeletesNothing: a data folder is put back to an old copy. The
// device holds keys of which that copy has never heard: none is deleted.
func TestAnOldStateDeletesNothing(t *testing.T) {
	l := startKeys(t, 1, nodetest.Options{Dir: t.TempDir()})
	m := l.Members[0]
	l.create(m, "before", hsm.ECDSAP256)
	m.Close()
	saved := t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(m.Config.Dir)); err != nil {
		t.Fatal(err)
	}
	m.Start()
	l.Leader()
	for i := range 10 {
		if err := m.LabelKey(t.Context(), "before", map[string]string{"n": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	l.ready(m)
	for i := range 3 {
		l.create(m, fmt.Sprintf("lost-%d", i), hsm.ECDSAP256)
	}
	m.Close()
	if err := os.RemoveAll(m.Config.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(m.Config.Dir, os.DirFS(saved)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.Config.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	device, err := soft.Open(soft.Options{Path: m.DeviceFile(), Seal: m.Seal})
	if err != nil {
		t.Fatal(err)
	}
	m.Device = hsmtest.Fault(device)
	m.Config.Device = hsm.Token{Device: m.Device} // until its PIN is entered, nobody looks into it
	if m.Node, err = node.Open(t.Context(), m.Config); err != nil {
		t.Fatal(err)
	}
	l.Leader()
	for i := range 40 { // the state's index passes those of the objects
		if err := m.LabelKey(t.Context(), "before", map[string]string{"n": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.EnterPIN(t.Context(), secretOf(nodetest.PIN)); err != nil {
		t.Fatal(err)
	}
	l.ready(m)
	time.Sleep(500 * time.Millisecond) // for a sweep that does not know better
	l.Eventually("three keys are kept aside", func() bool { return len(m.ObjectsForTest().Aside) == 3 })
	if n := len(l.objects(m)); n != 4 {
		t.Fatalf("%d objects in the device, want 4", n)
	}
	l.signs(m, "before")

	// An operator gets them back.
	aside := m.ObjectsForTest().Aside[0]
	if _, err := m.AdoptAside(t.Context(), m.Self(), aside.Slot, "found"); err != nil {
		t.Fatal(err)
	}
	l.signs(m, "found")
	if n := len(m.ObjectsForTest().Aside); n != 2 {
		t.Fatalf("%d are still aside", n)
	}
}

func TestForeignObjectsAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{Slots: 6})
		m, ctx := l.Members[0], t.Context()
		m.Close()
		inside := m.Device.Unwrapped()
		l.objects(m) // logs in
		for slot, tag := range map[hsm.Slot][]byte{
			2: nil,                                     // another program's
			3: []byte("short"),                         // nobody's
			4: node.TagOfForTest(request(5), 7, 1),     // of another incarnation
			5: node.TagOfForTest(request(6), 1, 1<<40), // in a slot that was not reserved, from the future
		} {
			if _, err := inside.Generate(ctx, slot, hsm.Ed25519, hsm.Attributes{Label: "foreign", Tag: tag}); err != nil {
				t.Fatal(err)
			}
		}
		m.Start()
		l.Leader()
		l.ready(m)
		for i := range 5 { // two slots are left: keys come and go
			l.create(m, fmt.Sprintf("key-%d", i), hsm.Ed25519)
		}
		for i := range 5 {
			l.signs(m, fmt.Sprintf("key-%d", i))
		}
		time.Sleep(2 * time.Minute)
		aside := m.ObjectsForTest().Aside
		if len(aside) != 4 {
			t.Fatalf("kept aside: %+v", aside)
		}
		if err := m.DeleteKey(ctx, "key-0", time.Millisecond); err != nil { // nor do they go with what is deleted
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if n := len(m.ObjectsForTest().Aside); n != 4 {
			t.Fatalf("%d are aside, want 4", n)
		}
		bob := client(l, "bob", []string{""}, fsm.AllVerbs)
		if err := m.DeleteAside(ctx, bob, aside[0].Slot); !errors.Is(err, fsm.NotAllowed) {
			t.Fatalf("a client deletes: %v", err)
		}
		operator, err := m.CallerOf(l.Operators[0].Public().Fingerprint())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DeleteAside(ctx, operator, aside[0].Slot); err != nil {
			t.Fatal(err)
		}
		if err := m.DeleteAside(ctx, operator, 1); !errors.Is(err, fsm.NotFound) {
			t.Fatalf("delete a key's object: %v", err)
		}
		if n := len(m.ObjectsForTest().Aside); n != 3 {
			t.Fatalf("%d are aside, want 3", n)
		}
	})
}
