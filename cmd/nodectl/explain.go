package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// readOpen parses the exact bytes that would be signed, and refuses them where
// they are not this ceremony of this cluster under the pinned operator set, or
// name nodes under keys that the cluster file does not know.
func (s *session) readOpen(ctx context.Context, set fsm.OperatorSet, c api.Ceremony) (*fsm.Open, error) {
	o, err := fsm.ParseOpen(c.Open)
	if err != nil {
		return nil, err
	}
	if err := s.freshen(ctx); err != nil {
		return nil, err
	}
	switch {
	case o.Ceremony.String() != c.ID:
		return nil, fmt.Errorf("the bytes to sign are of ceremony %s, not %.40s", o.Ceremony, c.ID)
	case o.Cluster != set.Cluster:
		return nil, fmt.Errorf("the bytes to sign are of cluster %s, not yours", o.Cluster)
	case o.Govern != set.Ref():
		return nil, fmt.Errorf("it was opened under operator set %d, which is not the set %d that you have pinned", o.Govern.Number, set.Number)
	}
	for _, holder := range holdersOf(o) {
		if err := s.checkHolder(holder); err != nil {
			return nil, err
		}
	}
	recipients, err := recipientsOf(o)
	if err != nil {
		return nil, err
	}
	for _, r := range recipients {
		if err := s.checkHolder(r.Node); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// checkHolder compares a node's key with the cluster file.
func (s *session) checkHolder(h dkek.Holder) error {
	if s.file == nil {
		return nil
	}
	for _, m := range s.file.Cluster.Members {
		if m.ID == h.Node.String() {
			if m.Fingerprint != h.Fingerprint.String() {
				return fmt.Errorf("node %s has the key %s in it, and %s in your cluster file", m.Name, short(h.Fingerprint.String()), short(m.Fingerprint))
			}
			return nil
		}
	}
	return fmt.Errorf("node %s is no member in your cluster file", h.Node)
}

// holdersOf are all nodes that would hold a share afterwards.
func holdersOf(o *fsm.Open) []dkek.Holder {
	var holders []dkek.Holder
	if o.Plan != nil {
		holders = append(holders, o.Plan.Holders...)
	}
	if o.Successor != nil {
		holders = append(holders, o.Successor.Holders...)
	}
	return holders
}

func recipientsOf(o *fsm.Open) ([]*fsm.RecipientStatement, error) {
	var list []*fsm.RecipientStatement
	for _, entry := range o.Recipients {
		r := &fsm.RecipientStatement{}
		if err := entry.Peek(r); err != nil {
			return nil, err
		}
		checked, err := o.Recipient(r.Node.Node)
		if err != nil {
			return nil, err
		}
		list = append(list, checked)
	}
	return list, nil
}

// explain says in words what would be signed. What it says comes from the Open
// itself; what is beside it is said to be the node's word.
func (s *session) explain(ctx context.Context, out io.Writer, c api.Ceremony) error {
	o, err := fsm.ParseOpen(c.Open)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row(w, "ceremony", o.Ceremony)
	row(w, "kind", purposeOf(o.Kind))
	if o.Purpose != "" {
		row(w, "purpose", o.Purpose)
	}
	row(w, "reason", o.Reason)
	row(w, "opened by", s.nameOf(o.Opener.Node))
	row(w, "expires", when(time.UnixMilli(o.Expires)))
	if o.Source.Epoch > 0 {
		row(w, "shares of epoch", fmt.Sprintf("%d (KCV %s)", o.Source.Epoch, o.Source.KCV))
	}
	recipients, err := recipientsOf(o)
	if err != nil {
		return err
	}
	for _, r := range recipients {
		row(w, "shares go to", fmt.Sprintf("%s, device %s %s, key %s", s.nameOf(r.Node.Node), r.DeviceKind, r.DeviceSerial, short(r.Node.Fingerprint.String())))
	}
	s.explainHolders(w, o)
	if o.Proposal != nil {
		set, err := s.pin(ctx)
		if err != nil {
			return err
		}
		explainProposal(w, set, o.Proposal)
	}
	if o.Kind == fsm.CeremonyDrill {
		row(w, "blobs to prove", o.Sample)
	}
	row(w, "state (the node's word)", stateOf(c)+" "+c.Detail)
	row(w, "approvals (the node's word)", fmt.Sprintf("%d of %d", len(c.Approvals), c.Needed))
	for _, a := range c.Approvals {
		row(w, "", a.Name+" "+short(a.Operator)+" "+when(a.At))
	}
	return w.Flush()
}

func (s *session) explainHolders(w io.Writer, o *fsm.Open) {
	if o.Plan != nil {
		row(w, "new epoch", fmt.Sprintf("%d, any %d of %d holders", o.Plan.Epoch, o.Plan.Threshold, len(o.Plan.Holders)))
	}
	if o.Successor != nil {
		row(w, "then a reshare", fmt.Sprintf("any %d of %d holders, no further approval", o.Successor.Threshold, len(o.Successor.Holders)))
		if o.Successor.Replaced != (dkek.NodeID{}) {
			row(w, "  without", s.nameOf(o.Successor.Replaced))
		}
	}
	for _, h := range holdersOf(o) {
		note := ""
		if err := s.checkHolder(h); err != nil {
			note = "  NOT AS IN YOUR CLUSTER FILE"
		}
		row(w, "  holder", s.nameOf(h.Node)+" "+short(h.Fingerprint.String())+note)
	}
}

// explainProposal shows the difference to the operators that are.
func explainProposal(w io.Writer, set fsm.OperatorSet, p *fsm.Proposal) {
	row(w, "approvals needed", fmt.Sprintf("%d, now %d", p.Approvals, set.Approvals))
	next := fsm.OperatorSet{Operators: p.Operators}
	for _, operator := range p.Operators {
		mark := "  stays"
		if _, there := set.Find(operator.Fingerprint()); !there {
			mark = "+ comes"
		}
		row(w, mark, operator.Name+" "+operator.Fingerprint().String())
	}
	for _, operator := range set.Operators {
		if _, there := next.Find(operator.Fingerprint()); !there {
			row(w, "- goes", operator.Name+" "+operator.Fingerprint().String())
		}
	}
	row(w, "policy from then on", policyText(policyOf(p.Policy)))
}

func purposeOf(k fsm.CeremonyKind) string {
	switch k {
	case fsm.CeremonyCreate:
		return "create: deal the DKEK and put it into every device"
	case fsm.CeremonyProvision:
		return "provision: put the DKEK into one device"
	case fsm.CeremonyReshare:
		return "reshare: share the same DKEK anew"
	case fsm.CeremonyGovern:
		return "govern: change who approves, or the policy"
	case fsm.CeremonyDrill:
		return "drill: prove shares and blobs on a scratch device"
	}
	return k.String()
}

// nameOf is a node's name in the cluster file, else its ID.
func (s *session) nameOf(id dkek.NodeID) string {
	if s.file != nil {
		for _, m := range s.file.Cluster.Members {
			if m.ID == id.String() {
				return m.Name
			}
		}
	}
	return id.String()
}

// pin is the operator set that the caller has pinned, brought up to date along
// signed govern records. What a node says counts for nothing here but those
// signatures.
func (s *session) pin(ctx context.Context) (fsm.OperatorSet, error) {
	if s.file == nil || s.file.Operators == nil {
		return fsm.OperatorSet{}, hint("give the cluster file of an operator with NODECTL_CLUSTER or --cluster",
			errors.New("no operator set is pinned here"))
	}
	pinned, err := setFromWire(s.file.Cluster.ID, *s.file.Operators)
	if err != nil {
		return pinned, fmt.Errorf("cluster file: %w", err)
	}
	var chain api.GovernChain
	if err := s.do(ctx, api.OperatorChain, api.ChainQuery{After: pinned.Number}, &chain); err != nil {
		return pinned, err
	}
	next, err := followChain(pinned, chain)
	if err != nil {
		return pinned, hint("do not trust this cluster's answers: compare with the other operators", err)
	}
	if next.Number != pinned.Number {
		wire := setToWire(next)
		s.file.Operators = &wire
		if err := s.file.Write(s.app.clusterPath()); err != nil {
			return next, err
		}
		s.app.say("%s: pinned set %d, %d of %d must approve", whatChanged(pinned, next), next.Number, next.Approvals, len(next.Operators))
	}
	return next, nil
}

// whatChanged says what is new in a set: a policy has its own number in the chain,
// and changes nobody.
func whatChanged(before, after fsm.OperatorSet) string {
	same := func(a, b fsm.Operator) bool { return a.Name == b.Name && a.Fingerprint() == b.Fingerprint() }
	switch {
	case !slices.EqualFunc(before.Operators, after.Operators, same):
		return "the operators have changed"
	case before.Approvals != after.Approvals:
		return "the approvals that are needed have changed"
	}
	return "the policy has changed, the operators have not"
}
