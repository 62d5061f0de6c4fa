package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// CeremonyOptions say what a ceremony is to do. Every field has a default.
type CeremonyOptions struct {
	// ID makes a repetition harmless: a ceremony that was opened under it
	// already is returned as it is. Zero draws a new one.
	ID      fsm.CeremonyID
	Purpose string // up to 256 bytes, signed by the operators
	Reason  string // up to 1024 bytes, signed by the operators
	// Expires is how long it may take, 24 hours at most; 0 is one hour.
	Expires time.Duration
	// Holders, at create and reshare, and of a provision's successor, are who
	// will hold shares; empty: all members, at a successor all but Replaces.
	Holders []dkek.NodeID
	// Threshold is how many of them it takes; 0 is the least that the policy
	// allows: a majority.
	Threshold int
	// Node is whose device is provisioned or drilled; zero: this node.
	Node dkek.NodeID
	// Successor, at provision, has the reshare to Holders follow on the same
	// approvals.
	Successor bool
	// Replaces, at provision, is the holder that is gone and that the successor
	// drops. It implies Successor.
	Replaces dkek.NodeID
	// Sharing, at drill, is the staged sharing to prove; zero: the one in force.
	Sharing fsm.SharingRef
	// Sample, at drill, is how many keys are restored and proven; 0 is 10,
	// negative is none.
	Sample int

	cites *fsm.Cite
}

const defaultSample = 10

// OpenCreate opens the ceremony that deals the DKEK and provisions every
// holder's device. It waits for operators' approvals.
func (n *Node) OpenCreate(ctx context.Context, options CeremonyOptions) (*CeremonyInfo, error) {
	return n.openCeremony(ctx, fsm.CeremonyCreate, options, func(ctx context.Context, view *fsm.View, o *fsm.Open) error {
		if _, ok := view.Proven(); ok {
			return &fsm.Error{Code: fsm.WrongState, Message: "there is a DKEK already: reshare it"}
		}
		plan, err := newPlan(view, options)
		if err != nil {
			return err
		}
		plan.Origin, plan.Dealers = dkek.Dealt, plan.Holders
		if plan.Threshold == 1 {
			plan.Origin = dkek.Single
		}
		o.Plan = plan
		return nil
	})
}

// OpenReshare opens the ceremony that deals the shares anew: a member added or
// removed, another threshold, a holder that is suspected.
func (n *Node) OpenReshare(ctx context.Context, options CeremonyOptions) (*CeremonyInfo, error) {
	return n.openCeremony(ctx, fsm.CeremonyReshare, options, func(ctx context.Context, view *fsm.View, o *fsm.Open) error {
		source, ok := view.Proven()
		if !ok {
			return ErrNoDKEK
		}
		plan, err := newPlan(view, options)
		if err != nil {
			return err
		}
		plan.Origin, plan.Previous, plan.KCV = source.Plan.Origin, source.Hash, source.KCV
		if plan.Threshold == 1 {
			plan.Origin = dkek.Single
		}
		if plan.Dealers, err = dealers(view, source, n.ceremonies.healthy(ctx, source)); err != nil {
			return err
		}
		o.Plan, o.Source, o.Cites = plan, source.Ref(), options.cites
		return nil
	})
}

// OpenProvision opens the ceremony that puts the DKEK into one node's blank
// device.
func (n *Node) OpenProvision(ctx context.Context, options CeremonyOptions) (*CeremonyInfo, error) {
	return n.openCeremony(ctx, fsm.CeremonyProvision, options, func(_ context.Context, view *fsm.View, o *fsm.Open) error {
		source, ok := view.Proven()
		if !ok {
			return ErrNoDKEK
		}
		o.Source = source.Ref()
		if !options.Successor && options.Replaces == (dkek.NodeID{}) {
			return nil
		}
		holders, threshold, err := newHolders(view, options)
		if err != nil {
			return err
		}
		o.Successor = &fsm.Successor{Holders: holders, Threshold: threshold, Replaced: options.Replaces}
		return nil
	})
}

// OpenDrill opens the ceremony that proves shares and a sample of keys in a
// scratch device, and can prove a staged sharing.
func (n *Node) OpenDrill(ctx context.Context, options CeremonyOptions) (*CeremonyInfo, error) {
	return n.openCeremony(ctx, fsm.CeremonyDrill, options, func(_ context.Context, view *fsm.View, o *fsm.Open) error {
		o.Source = options.Sharing
		if o.Source == (fsm.SharingRef{}) {
			proven, ok := view.Proven()
			if !ok {
				return ErrNoDKEK
			}
			o.Source = proven.Ref()
		}
		if o.Sample = options.Sample; o.Sample == 0 {
			o.Sample = defaultSample
		}
		o.Sample = max(o.Sample, 0)
		return nil
	})
}

// OpenGovern opens the ceremony that changes the operators, how many of them
// must approve, or the policy. The operators of before approve it.
func (n *Node) OpenGovern(ctx context.Context, proposal fsm.Proposal, options CeremonyOptions) (*CeremonyInfo, error) {
	return n.openCeremony(ctx, fsm.CeremonyGovern, options, func(_ context.Context, _ *fsm.View, o *fsm.Open) error {
		proposal.Operators = slices.Clone(proposal.Operators)
		slices.SortFunc(proposal.Operators, func(a, b fsm.Operator) int {
			x, y := a.Fingerprint(), b.Fingerprint()
			return bytes.Compare(x[:], y[:])
		})
		o.Proposal = &proposal
		return nil
	})
}

// openCeremony builds an Open from the newest state, collects the recipients'
// entries, signs and commits it.
func (n *Node) openCeremony(ctx context.Context, kind fsm.CeremonyKind, options CeremonyOptions, fill func(context.Context, *fsm.View, *fsm.Open) error) (*CeremonyInfo, error) {
	view, err := n.consistent(ctx)
	if err != nil {
		return nil, err
	}
	cluster, ok := view.Cluster()
	if !ok {
		return nil, ErrNoCluster
	}
	if _, opened := view.Ceremony(options.ID); opened {
		return n.Ceremony(ctx, options.ID)
	}
	if options.Expires == 0 {
		options.Expires = defaultOpenFor
	}
	own := n.own.Load()
	o := &fsm.Open{
		Format: fsm.OpenFormat, Cluster: cluster.ID, Incarnation: cluster.Incarnation, Kind: kind,
		Purpose: options.Purpose, Reason: options.Reason, Opener: own.holder(n.id),
		Expires: n.expiryOf(view, options.Expires, fsm.MaxCeremonyTime), Govern: cluster.Operators.Ref(),
	}
	if o.Ceremony = options.ID; o.Ceremony == (fsm.CeremonyID{}) {
		rand.Read(o.Ceremony[:])
	}
	if options.cites != nil {
		if cited, ok := view.Ceremony(options.cites.Ceremony); ok {
			o.Expires = cited.Expires
		}
	}
	if err := fill(ctx, view, o); err != nil {
		return nil, err
	}
	if o.Recipients, err = n.ceremonies.recipients(ctx, options, o); err != nil {
		return nil, err
	}
	body, err := fsm.SignOpen(own.signer, o)
	if err != nil {
		return nil, err
	}
	if err := n.ceremonies.at(ctx, "prepared"); err != nil {
		return nil, err
	}
	if _, err := n.do(ctx, body); err != nil {
		return nil, err
	}
	if err := n.ceremonies.at(ctx, "opened"); err != nil {
		return nil, err
	}
	return n.Ceremony(ctx, o.Ceremony)
}

// recipients are the entries of the nodes that will receive shares.
func (c *ceremonyRoom) recipients(ctx context.Context, options CeremonyOptions, o *fsm.Open) ([]fsm.Signed, error) {
	q := prepareRequest{Ceremony: o.Ceremony, Incarnation: o.Incarnation, Epoch: o.Source.Epoch, Attempt: o.Source.Attempt}
	var ids []dkek.NodeID
	switch o.Kind {
	case fsm.CeremonyCreate, fsm.CeremonyReshare:
		q.Epoch, q.Attempt, q.Scratch = o.Plan.Epoch, o.Plan.Attempt, o.Kind == fsm.CeremonyReshare
		for _, h := range o.Plan.Holders {
			ids = append(ids, h.Node)
		}
	case fsm.CeremonyProvision, fsm.CeremonyDrill:
		q.Scratch = o.Kind == fsm.CeremonyDrill
		ids = []dkek.NodeID{options.Node}
		if options.Node == (dkek.NodeID{}) {
			ids[0] = c.node.id
		}
	}
	return c.entries(ctx, q, ids)
}

// newHolders are the holders and threshold that the options ask for.
func newHolders(view *fsm.View, options CeremonyOptions) ([]dkek.Holder, int, error) {
	cluster, _ := view.Cluster()
	var holders []dkek.Holder
	for m := range view.Members() { // ascending by ID, as a plan wants them
		if len(options.Holders) == 0 && m.ID != options.Replaces || slices.Contains(options.Holders, m.ID) {
			holders = append(holders, m.Holder())
		}
	}
	if len(options.Holders) > 0 && len(holders) != len(options.Holders) {
		return nil, 0, &fsm.Error{Code: fsm.NotFound, Message: "a holder is named that is not a member, or one is named twice"}
	}
	if len(holders) > dkek.MaxHolders {
		return nil, 0, &fsm.Error{Code: fsm.TooMany, Message: fmt.Sprintf("%d holders: at most %d: name them", len(holders), dkek.MaxHolders)}
	}
	threshold := options.Threshold
	if threshold == 0 {
		threshold = cluster.Policy.LeastThreshold(len(holders))
	}
	return holders, threshold, nil
}

// newPlan numbers a new sharing: the next attempt of an epoch of which no holder can
// have kept a share for good, else the next epoch. See shareRoom.drop.
func newPlan(view *fsm.View, options CeremonyOptions) (*dkek.Plan, error) {
	cluster, _ := view.Cluster()
	holders, threshold, err := newHolders(view, options)
	if err != nil {
		return nil, err
	}
	plan := &dkek.Plan{Cluster: cluster.ID, Epoch: cluster.Epoch + 1, Attempt: 1, Threshold: threshold, Holders: holders}
	known, kept := false, false
	for s := range view.Sharings() {
		if s.Plan.Epoch == cluster.Epoch {
			known = known || s.Plan.Attempt == cluster.Attempt
			kept = kept || s.Status != fsm.SharingDropped || len(s.Acked) == len(s.Plan.Holders)
		}
	}
	if known && !kept {
		plan.Epoch, plan.Attempt = cluster.Epoch, cluster.Attempt+1
	}
	return plan, nil
}

// dealers picks t of the holders that can give their share, and not t who dealt
// wrongly before. Where no other t are left, one of them is to blame. They are
// named with the keys that they have now.
func dealers(view *fsm.View, source *fsm.SharingRow, holders []dkek.Holder) ([]dkek.Holder, error) {
	t := source.Plan.Threshold
	var able []dkek.Holder
	for _, h := range holders {
		if m, ok := view.Member(h.Node); ok {
			able = append(able, m.Holder())
		}
	}
	if len(able) < t {
		return nil, fmt.Errorf("node: reshare: %d holders were reached that can give their share, and it takes %d: bring more back", len(able), t)
	}
	var wrong [][]dkek.Holder
	for c := range view.Ceremonies() {
		if c.Kind != fsm.CeremonyReshare || c.Outcome != fsm.OutcomeFailed || !strings.HasPrefix(c.Detail, wrongKCV) {
			continue
		}
		if o, err := fsm.ParseOpen(c.Open); err == nil && o.Plan != nil && o.Source == source.Ref() {
			wrong = append(wrong, o.Plan.Dealers)
		}
	}
	var pick []dkek.Holder
	if choose(able, t, func(quorum []dkek.Holder) bool {
		if slices.ContainsFunc(wrong, func(w []dkek.Holder) bool { return slices.EqualFunc(w, quorum, sameNode) }) {
			return false
		}
		pick = slices.Clone(quorum)
		return true
	}) {
		return pick, nil
	}
	names := make([]string, 0, len(able))
	for _, h := range able {
		name := h.Node.String()
		if m, ok := view.Member(h.Node); ok {
			name = m.Name
		}
		names = append(names, name)
	}
	return nil, errors.New("node: reshare: one of these dealt wrongly, and no other holders are in reach: " + strings.Join(names, ", ") + ": the sharing in force stays")
}

func sameNode(a, b dkek.Holder) bool { return a.Node == b.Node }

// choose goes through the subsets of t in their order until one will do.
func choose(from []dkek.Holder, t int, will func([]dkek.Holder) bool) bool {
	var rec func(picked []dkek.Holder, next int) bool
	rec = func(picked []dkek.Holder, next int) bool {
		if len(picked) == t {
			return will(picked)
		}
		for i := next; i <= len(from)-(t-len(picked)); i++ {
			if rec(append(picked, from[i]), i+1) {
				return true
			}
		}
		return false
	}
	return rec(make([]dkek.Holder, 0, t), 0)
}
