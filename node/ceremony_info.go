package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// CeremonyInfo is a ceremony as this node sees it. The embedded row has the
// exact bytes that operators sign, in Open.
type CeremonyInfo struct {
	fsm.Ceremony
	Terms  *fsm.Open // Open, parsed
	Needed int       // approvals that it takes; 0 for a cited reshare
	Steps  []CeremonyStep
	// Doing and Trouble are what this node is at, and why its last try failed.
	Doing   string
	Trouble string
	// Successor is the reshare that followed a provision; zero: none yet.
	Successor fsm.CeremonyID
	Index     uint64 // applied index of this answer
}

// CeremonyStep is one thing that one node does in a ceremony.
type CeremonyStep struct {
	Node dkek.NodeID
	Name string // of the node
	What string // "deal", "hold", "prove"
	Done bool
}

// Ceremony returns a ceremony by its ID, from this node's state.
func (n *Node) Ceremony(_ context.Context, id fsm.CeremonyID) (*CeremonyInfo, error) {
	view := n.view()
	row, ok := view.Ceremony(id)
	if !ok {
		return nil, &fsm.Error{Code: fsm.NotFound, Message: fmt.Sprintf("no ceremony %v", id)}
	}
	return n.ceremonyInfo(view, row)
}

// Ceremonies returns all ceremonies that are remembered, the newest first.
func (n *Node) Ceremonies() []*CeremonyInfo {
	view := n.view()
	var list []*CeremonyInfo
	for row := range view.Ceremonies() {
		if info, err := n.ceremonyInfo(view, row); err == nil {
			list = append(list, info)
		}
	}
	slices.Reverse(list)
	return list
}

// Approve hands in an operator's signature over the exact bytes of an Open.
func (n *Node) Approve(ctx context.Context, id fsm.CeremonyID, approval fsm.Approval) error {
	_, err := n.do(ctx, &fsm.CeremonyApprove{Ceremony: id, Approval: approval})
	return err
}

// Deny ends a ceremony at an operator's word: a signature over the exact bytes
// of its Open, domain fsm.DomainDeny. The reason is not signed.
func (n *Node) Deny(ctx context.Context, id fsm.CeremonyID, denial fsm.Approval, reason string) error {
	_, err := n.do(ctx, &fsm.CeremonyDeny{Ceremony: id, Denial: denial, Reason: reason})
	return err
}

func (n *Node) ceremonyInfo(view *fsm.View, row *fsm.Ceremony) (*CeremonyInfo, error) {
	open, err := fsm.ParseOpen(row.Open)
	if err != nil {
		return nil, err
	}
	info := &CeremonyInfo{Ceremony: *row, Terms: open, Index: view.Index()}
	if !row.Cited {
		// An earlier set's k is known here as far as this node has pinned it.
		if set, ok := n.pins.at(open.Govern); ok {
			info.Needed = set.Approvals
		}
	}
	info.Steps = n.ceremonySteps(view, row, open)
	for other := range view.Ceremonies() {
		if other.Cited {
			if o, err := fsm.ParseOpen(other.Open); err == nil && o.Cites != nil && o.Cites.Ceremony == row.ID {
				info.Successor = other.ID
			}
		}
	}
	if r := n.ceremonies.running(row.ID); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		info.Doing = r.doing
		if r.trouble != nil {
			info.Trouble = r.trouble.Error()
		}
	}
	return info, nil
}

func (c *ceremonyRoom) running(id fsm.CeremonyID) *runner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runners[id]
}

// ceremonySteps lists who does what and who has done it.
func (n *Node) ceremonySteps(view *fsm.View, row *fsm.Ceremony, open *fsm.Open) []CeremonyStep {
	var steps []CeremonyStep
	add := func(id dkek.NodeID, what string, done bool) {
		steps = append(steps, CeremonyStep{Node: id, Name: n.nameOf(view, id), What: what, Done: done})
	}
	if open.Plan == nil {
		for _, id := range row.Recipients {
			add(id, "prove", reported(row.Reports, id))
		}
		return steps
	}
	sharing, ok := view.Sharing(open.Plan.Epoch, open.Plan.Attempt)
	if !ok {
		return nil
	}
	for _, d := range open.Plan.Dealers {
		dealt := slices.ContainsFunc(sharing.Dealings, func(x dkek.Dealing) bool { return x.Dealer == d.Node })
		add(d.Node, "deal", dealt)
	}
	for _, h := range open.Plan.Holders {
		add(h.Node, "hold", slices.Contains(sharing.Acked, h.Node))
	}
	for _, h := range open.Plan.Holders {
		if assigned(open.Plan, h.Node) != nil {
			add(h.Node, "prove", reported(row.Reports, h.Node))
		}
	}
	return steps
}
