package node

import (
	"cmp"
	"slices"
)

// ShareStatus is one share of this node as the last look found it.
type ShareStatus struct {
	Epoch, Attempt uint64
	// Err says why it is bad, or nil. A bad share is kept; the way out is a
	// reshare while the others are good.
	Err error
	// Proven: this node has checked the proof of its sharing itself.
	Proven bool
}

// Shares are this node's shares, the oldest first.
func (n *Node) Shares() []ShareStatus {
	if n.shares == nil {
		return nil
	}
	var list []ShareStatus
	for name, held := range n.shares.shares() {
		_, err := n.shares.readProof(name)
		list = append(list, ShareStatus{Epoch: name.epoch, Attempt: name.attempt, Err: held.err, Proven: err == nil})
	}
	slices.SortFunc(list, func(a, b ShareStatus) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Attempt, b.Attempt))
	})
	return list
}

// Distrust says what in this node's own records is damaged or contradicts the
// log, in words for status: operators that it does not believe, releases that
// cannot be read or are not there, proofs, the reservation of slots. Nil where all
// is well.
func (n *Node) Distrust() []error {
	if n.shares == nil {
		return nil
	}
	_, releases := n.Releases()
	list := append([]error{n.pins.err(), releases, n.device.slots.damage()}, n.shares.badProofs()...)
	list = append(list, n.shares.releases.unrecorded(n.view(), n.logBefore.Load())...)
	return slices.DeleteFunc(list, func(err error) bool { return err == nil })
}
