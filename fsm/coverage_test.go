package fsm_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// However many keys a device held: that it was replaced, wiped or removed is
// said by one row, and a member that says it again and again costs no more.
func TestEmptiedDeviceCostsOneRow(t *testing.T) {
	const keys = 40
	l := ready(t, 4)
	a, b := l.nodes[0], l.nodes[1]
	var refs []fsm.VersionRef
	for i := range keys {
		refs = append(refs, fsm.VersionRef{Key: l.createKey(fmt.Sprintf("key-%d", i)).ID, N: 1})
	}
	covered := func() int { return l.machine.State().Covered()[b.id] }
	cover := func(serial string) {
		t.Helper()
		l.self(b, &fsm.Cover{Node: b.id, Serial: serial, Add: refs})
		if covered() != keys || !slices.Contains(l.machine.State().Coverage(refs[0].Key, 1), b.id) {
			t.Fatalf("covers %d", covered())
		}
	}
	emptied := func(result fsm.Result, rows int) {
		t.Helper()
		if len(result.Changes) > rows {
			t.Errorf("changed %d rows", len(result.Changes))
		}
		if got := l.machine.State().Coverage(refs[0].Key, 1); covered() != 0 || !slices.Equal(got, []dkek.NodeID{a.id}) {
			t.Errorf("still covers %d, key-0 is at %v", covered(), got)
		}
	}
	report := func(serial string) fsm.Result {
		return l.self(b, &fsm.MemberReport{Node: b.id, ReadsTo: fsm.CommandVersion, Device: &fsm.Device{Kind: "soft", Serial: serial}})
	}
	cover("node-b-device")
	for _, serial := range []string{"another", "node-b-device", "another"} { // back again: it holds nothing either
		emptied(report(serial), 1)
	}
	cover("another")
	emptied(l.self(b, &fsm.CoverReset{Node: b.id, Serial: "another"}), 1)
	cover("another")
	emptied(l.must(l.alice, a, &fsm.MemberRemove{Node: b.id}), 4) // member, removed, change, cluster
}

// What does not count any more goes with the next writing of its row, and a
// restored machine counts the same.
func TestEmptiedHoldingsDoNotComeBack(t *testing.T) {
	l := ready(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	ref := fsm.VersionRef{Key: l.createKey("k").ID, N: 1}
	add := func(p person, serial string) {
		l.self(p, &fsm.Cover{Node: p.id, Serial: serial, Add: []fsm.VersionRef{ref}})
	}
	add(b, "node-b-device")
	l.report(b, "second")
	l.report(a, "second")
	add(c, "node-c-device")
	add(b, "second")
	l.self(c, &fsm.Cover{Node: c.id, Serial: "node-c-device", Drop: []fsm.VersionRef{ref}})
	restored := fsm.New()
	if err := restored.Restore(bytes.NewReader(written(t, l.machine))); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*fsm.Machine{l.machine, restored} {
		if got := m.State().Coverage(ref.Key, 1); !slices.Equal(got, []dkek.NodeID{b.id}) || len(m.State().Covered()) != 1 {
			t.Errorf("covered by %v, %v", got, m.State().Covered())
		}
	}
	l.self(b, &fsm.Cover{Node: b.id, Serial: "second", Drop: []fsm.VersionRef{ref}})
	if n := l.machine.State().Count(fsm.TableCoverage); n != 0 {
		t.Errorf("%d rows of coverage for nobody", n)
	}
}
