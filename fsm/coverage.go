package fsm

import (
	"bytes"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// Coverage is which nodes' devices hold a version. Its change key is a
// [Version]'s.
type Coverage struct {
	Key   KeyID         `cbor:"1,keyasint"`
	N     uint64        `cbor:"2,keyasint"`
	Nodes []dkek.NodeID `cbor:"3,keyasint"` // ascending, at least one
}

func (*Coverage) table() Table  { return TableCoverage }
func (c *Coverage) key() []byte { return versionKey(c.Key, c.N) }

func compareNodes(a, b dkek.NodeID) int { return bytes.Compare(a[:], b[:]) }

// cover adds a node to those that hold a version.
func (t *txn) cover(ref VersionRef, node dkek.NodeID) {
	held := t.Coverage(ref.Key, ref.N)
	at, found := slices.BinarySearchFunc(held, node, compareNodes)
	if !found {
		t.put(&Coverage{Key: ref.Key, N: ref.N, Nodes: slices.Insert(slices.Clone(held), at, node)})
	}
}

// uncover takes a node from them.
func (t *txn) uncover(ref VersionRef, node dkek.NodeID) {
	held := t.Coverage(ref.Key, ref.N)
	at, found := slices.BinarySearchFunc(held, node, compareNodes)
	switch {
	case found && len(held) == 1:
		t.remove(&Coverage{Key: ref.Key, N: ref.N})
	case found:
		t.put(&Coverage{Key: ref.Key, N: ref.N, Nodes: slices.Delete(slices.Clone(held), at, at+1)})
	}
}

// dropCoverage takes a node from everything that it held.
func (t *txn) dropCoverage(node dkek.NodeID) {
	var held []VersionRef
	for c := range each[*Coverage](t.View, TableCoverage, byKey, nil) {
		if slices.Contains(c.Nodes, node) {
			held = append(held, VersionRef{Key: c.Key, N: c.N})
		}
	}
	for _, ref := range held {
		t.uncover(ref, node)
	}
}

// Covered counts the versions that each node's device holds.
func (v *View) Covered() map[dkek.NodeID]int {
	counts := make(map[dkek.NodeID]int)
	for c := range each[*Coverage](v, TableCoverage, byKey, nil) {
		for _, id := range c.Nodes {
			counts[id]++
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
	t.dropCoverage(b.Node)
	t.audit("device wiped", t.self().Name, b.Serial)
	return Value{}, nil
}
