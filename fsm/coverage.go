package fsm

import (
	"bytes"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// Coverage is which nodes' devices hold a version. Its change key is a
// [Version]'s.
type Coverage struct {
	Key   KeyID     `cbor:"1,keyasint"`
	N     uint64    `cbor:"2,keyasint"`
	Holds []Holding `cbor:"3,keyasint"` // ascending by node, at least one
}

// Holding says that a node's device held a version as of a place in the log. It
// counts while the node is a member whose device was not emptied since. That a
// device was replaced is so said once, however many keys it held: a member that
// alternates between two serials costs no pass over all keys.
type Holding struct {
	Node  dkek.NodeID `cbor:"1,keyasint"`
	Index uint64      `cbor:"2,keyasint"`
}

func (*Coverage) table() Table  { return TableCoverage }
func (c *Coverage) key() []byte { return versionKey(c.Key, c.N) }

func compareNodes(a, b dkek.NodeID) int { return bytes.Compare(a[:], b[:]) }

// holdsSince is the place in the log from which on what a member holds counts.
func (m *Member) holdsSince() uint64 { return max(m.Added, m.Emptied) }

// counting are the holdings of a version that count.
func (v *View) counting(id KeyID, n uint64) []Holding {
	c, ok := get[*Coverage](v, TableCoverage, versionKey(id, n))
	if !ok {
		return nil
	}
	holds := make([]Holding, 0, len(c.Holds)+1) // for cover to add one
	for _, h := range c.Holds {
		if m, ok := v.Member(h.Node); ok && h.Index > m.holdsSince() {
			holds = append(holds, h)
		}
	}
	return holds
}

func findHolding(holds []Holding, node dkek.NodeID) (int, bool) {
	return slices.BinarySearchFunc(holds, node, func(h Holding, node dkek.NodeID) int { return compareNodes(h.Node, node) })
}

// cover adds a node to those that hold a version.
func (t *txn) cover(ref VersionRef, node dkek.NodeID) {
	holds := t.counting(ref.Key, ref.N)
	if at, found := findHolding(holds, node); !found {
		t.put(&Coverage{Key: ref.Key, N: ref.N, Holds: slices.Insert(holds, at, Holding{Node: node, Index: t.index})})
	}
}

// uncover takes a node from them.
func (t *txn) uncover(ref VersionRef, node dkek.NodeID) {
	holds := t.counting(ref.Key, ref.N)
	at, found := findHolding(holds, node)
	switch {
	case found && len(holds) == 1:
		t.remove(&Coverage{Key: ref.Key, N: ref.N})
	case found:
		t.put(&Coverage{Key: ref.Key, N: ref.N, Holds: slices.Delete(holds, at, at+1)})
	}
}

// Coverage returns the nodes whose devices hold a version, ascending.
func (v *View) Coverage(id KeyID, n uint64) []dkek.NodeID {
	var nodes []dkek.NodeID
	for _, h := range v.counting(id, n) {
		nodes = append(nodes, h.Node)
	}
	return nodes
}

// Covered counts the versions that each node's device holds.
func (v *View) Covered() map[dkek.NodeID]int {
	since := make(map[dkek.NodeID]uint64)
	for m := range v.Members() {
		since[m.ID] = m.holdsSince()
	}
	counts := make(map[dkek.NodeID]int)
	for c := range each[*Coverage](v, TableCoverage, byKey, nil) {
		for _, h := range c.Holds {
			if from, ok := since[h.Node]; ok && h.Index > from {
				counts[h.Node]++
			}
		}
	}
	return counts
}

// Cover says which versions a node's device holds by now, proven, and which not
// any more. Versions that were destroyed meanwhile are passed over.
type Cover struct {
	Node   dkek.NodeID  `cbor:"1,keyasint"`
	Serial string       `cbor:"2,keyasint"` // of the device
	Add    []VersionRef `cbor:"3,keyasint,omitempty"`
	Drop   []VersionRef `cbor:"4,keyasint,omitempty"`
}

func (*Cover) Kind() Kind { return KindCover }

func (b *Cover) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	if err := checkItems(slices.Concat(b.Add, b.Drop)); err != nil {
		return Value{}, err
	}
	if err := t.checkDevice(b.Node, b.Serial); err != nil {
		return Value{}, err
	}
	for _, ref := range slices.Concat(b.Add, b.Drop) {
		if _, ok := t.Version(ref.Key, ref.N); !ok {
			return Value{}, refuse(NotFound, "no version %d of key %v", ref.N, ref.Key)
		}
	}
	for _, ref := range b.Add {
		if v, ok := t.Version(ref.Key, ref.N); ok && v.State.Live() {
			t.cover(ref, b.Node)
		}
	}
	for _, ref := range b.Drop {
		t.uncover(ref, b.Node)
	}
	return Value{}, nil
}

// CoverReset says that a node's device was wiped: it holds nothing.
type CoverReset struct {
	Node   dkek.NodeID `cbor:"1,keyasint"`
	Serial string      `cbor:"2,keyasint"`
}

func (*CoverReset) Kind() Kind { return KindCoverReset }

func (b *CoverReset) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	if err := t.checkDevice(b.Node, b.Serial); err != nil {
		return Value{}, err
	}
	next := *t.self()
	next.Emptied = t.index
	t.put(&next)
	t.audit("device wiped", next.Name, b.Serial)
	return Value{}, nil
}
