package dkek

import (
	"bytes"
	"fmt"
	"slices"
)

// HolderIndex returns the holder's place in the plan, or -1.
func (p *Plan) HolderIndex(id NodeID) int { return place(p.Holders, id) }

// DealerIndex returns the dealer's place in the plan, or -1.
func (p *Plan) DealerIndex(id NodeID) int { return place(p.Dealers, id) }

func place(list []Holder, id NodeID) int {
	for i := range list {
		if list[i].Node == id {
			return i
		}
	}
	return -1
}

// Validate refuses, with [ErrPlan], a plan that contradicts itself. Whether it
// fits what was before is [Plan.Follows].
func (p *Plan) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("dkek: plan: %w: %s", ErrPlan, fmt.Sprintf(format, args...))
	}
	first := p.Previous == Hash{}
	switch {
	case p.Cluster == ClusterID{}:
		return fail("no cluster")
	case p.Epoch == 0:
		return fail("epochs start at 1")
	case p.Attempt == 0:
		return fail("attempts start at 1")
	case p.Origin != Dealt && p.Origin != Imported && p.Origin != Single:
		return fail("unknown origin")
	case p.Threshold < 1 || p.Threshold > len(p.Holders):
		return fail("threshold %d of %d holders", p.Threshold, len(p.Holders))
	case p.Threshold == 1 && p.Origin != Single:
		return fail("threshold 1 makes the origin %q", Single)
	case p.Threshold > 1 && first && p.Origin == Single:
		return fail("origin %q with threshold %d and nothing before", Single, p.Threshold)
	case !first && p.KCV == KCV{}:
		return fail("a reshare without the key check value to reach")
	case first && p.Origin == Dealt && p.KCV != KCV{}:
		return fail("a key check value of a DKEK that nobody has dealt yet")
	}
	if err := validateNodes(p.Holders); err != nil {
		return fail("holders: %v", err)
	}
	if err := validateNodes(p.Dealers); err != nil {
		return fail("dealers: %v", err)
	}
	for _, dealer := range p.Dealers {
		if i := p.HolderIndex(dealer.Node); i >= 0 && p.Holders[i] != dealer {
			return fail("node %v has one key as a holder and another as a dealer", dealer.Node)
		}
	}
	if first && p.Origin == Dealt && !slices.Equal(p.Dealers, p.Holders) {
		return fail("the first DKEK is dealt by all holders")
	}
	return nil
}

func validateNodes(list []Holder) error {
	if len(list) < 1 || len(list) > MaxHolders {
		return fmt.Errorf("%d nodes: wants 1 to %d", len(list), MaxHolders)
	}
	keys := make(map[Fingerprint]bool)
	for i, node := range list {
		switch {
		case node.Node == NodeID{} || node.Fingerprint == Fingerprint{}:
			return fmt.Errorf("entry %d has no ID or no fingerprint", i)
		case i > 0 && bytes.Compare(list[i-1].Node[:], node.Node[:]) >= 0:
			return fmt.Errorf("entry %d is a duplicate or out of order", i)
		case keys[node.Fingerprint]:
			return fmt.Errorf("entry %d has another's key", i)
		}
		keys[node.Fingerprint] = true
	}
	return nil
}

// Follows refuses, with [ErrPlan], a plan that is not a reshare of previous,
// whose check value is kcv: another DKEK, a number used before, dealers that
// are not t of its holders' nodes, or an origin that claims more.
func (p *Plan) Follows(previous *Sharing, kcv KCV) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("dkek: reshare plan: %w: %s", ErrPlan, fmt.Sprintf(format, args...))
	}
	if err := p.Validate(); err != nil {
		return err
	}
	old := &previous.Plan
	origin := old.Origin
	if p.Threshold == 1 {
		origin = Single
	}
	switch {
	case p.Cluster != old.Cluster:
		return fail("of another cluster")
	case p.Previous != previous.Hash():
		return fail("does not name the sharing before it")
	case p.Epoch <= old.Epoch:
		return fail("epoch %d is not after %d", p.Epoch, old.Epoch)
	case p.KCV != kcv || old.KCV != KCV{} && old.KCV != kcv:
		return fail("key check value changes")
	case p.Origin != origin:
		return fail("origin %q, inherited is %q", p.Origin, origin)
	case len(p.Dealers) != old.Threshold:
		return fail("%d dealers, wants %d", len(p.Dealers), old.Threshold)
	}
	// By node and not by key: a node's key may have been rotated since it got its
	// share, and node IDs never change. Which key a dealer has now is in the plan,
	// which operators approve, and the caller compares it with the members. Nobody
	// gains by dealing in another's name: a dealer is sent nothing, and what is not
	// the partial of that share gives another check value.
	for _, dealer := range p.Dealers {
		if old.HolderIndex(dealer.Node) < 0 {
			return fail("dealer %v is not a holder of the sharing before it", dealer.Node)
		}
	}
	return nil
}

// Validate checks the plan, and that there is one complete dealing for every
// dealer, in order.
func (s *Sharing) Validate() error {
	if err := s.Plan.Validate(); err != nil {
		return err
	}
	if len(s.Dealings) != len(s.Plan.Dealers) {
		return fmt.Errorf("dkek: sharing: %w: %d dealings of %d dealers", ErrPlan, len(s.Dealings), len(s.Plan.Dealers))
	}
	for i := range s.Dealings {
		if s.Dealings[i].Dealer != s.Plan.Dealers[i].Node {
			return &ShareError{Op: "sharing", Dealer: s.Plan.Dealers[i].Node, Reason: WrongDealer, Detail: "missing or out of order"}
		}
		if err := s.Dealings[i].Validate(&s.Plan); err != nil {
			return err
		}
	}
	return nil
}

// Validate refuses a dealing that does not fit the plan, with the holder whose
// entry is wrong: x = 0, two equal x, a wrong number of entries.
func (d *Dealing) Validate(plan *Plan) error {
	fail := func(holder NodeID, reason Reason) error {
		return &ShareError{Op: "dealing", Holder: holder, Dealer: d.Dealer, Reason: reason}
	}
	if plan.DealerIndex(d.Dealer) < 0 {
		return fail(NodeID{}, NotHolder)
	}
	if len(d.X) != len(plan.Holders) || len(d.Commitments) != len(plan.Holders) {
		return fail(NodeID{}, BadLength)
	}
	for i, x := range d.X {
		if x == 0 {
			return fail(plan.Holders[i].Node, ZeroX)
		}
		if bytes.IndexByte(d.X[:i], x) >= 0 {
			return fail(plan.Holders[i].Node, Duplicate)
		}
		if d.Commitments[i] == (Hash{}) {
			return fail(plan.Holders[i].Node, BadFormat)
		}
	}
	return nil
}

// NewSharing joins a plan and its dealings, one of every dealer, in any order.
func NewSharing(plan *Plan, dealings []Dealing) (*Sharing, error) {
	s := &Sharing{Plan: plan.clone(), Dealings: append([]Dealing(nil), dealings...)}
	slices.SortFunc(s.Dealings, func(a, b Dealing) int { return bytes.Compare(a.Dealer[:], b.Dealer[:]) })
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}
