package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// dealOwn deals this node's secret and commits the public half. Nobody gets a
// sub-share before that is committed.
func (r *runner) dealOwn(ctx context.Context, view *fsm.View, sharing *fsm.SharingRow) error {
	me := r.node.id
	recorded := slices.IndexFunc(sharing.Dealings, func(d dkek.Dealing) bool { return d.Dealer == me })
	dealt := r.room.dealtBy(r.id)
	switch {
	case recorded >= 0 && dealt != nil && !sameDealing(sharing.Dealings[recorded], dealt.Public()):
		r.room.dealsNoMore(r.id) // what a process before this one dealt is recorded
		return ErrLost
	case recorded >= 0 && dealt == nil && sharing.Status == fsm.SharingDealing:
		return ErrLost
	case recorded >= 0:
		return nil
	}
	a, err := r.room.approved(view, r.id)
	if err != nil {
		return err
	}
	if dealt == nil {
		r.say("dealing")
		if _, err := r.draw(a); err != nil {
			return err
		}
	}
	if err := r.room.at(ctx, "dealt"); err != nil {
		return err
	}
	if dealt = r.room.dealtBy(r.id); dealt == nil {
		return ErrLost
	}
	signed, err := fsm.SignStatement(r.node.own.Load().signer, fsm.DomainDealing, &fsm.DealingStatement{
		Cluster: r.node.Cluster(), Ceremony: r.id, Plan: a.open.Plan.Hash(), Dealing: dealt.Public(),
	})
	if err != nil {
		return err
	}
	if _, err := r.node.do(ctx, &fsm.DealingRecord{Signed: signed}); err != nil {
		return err
	}
	return r.room.at(ctx, "dealing recorded")
}

func sameDealing(a, b dkek.Dealing) bool {
	return a.Dealer == b.Dealer && slices.Equal(a.X, b.X) && slices.Equal(a.Commitments, b.Commitments)
}

// draw deals: at create a fresh secret, at a reshare this node's partial of the
// sharing in force.
func (r *runner) draw(a *approved) (*dkek.SubShares, error) {
	var secret *dkek.Secret
	if a.open.Source != (fsm.SharingRef{}) {
		var err error
		if secret, err = r.room.dealerPartial(a); err != nil {
			return nil, err
		}
		defer secret.Wipe()
	}
	dealt, err := dkek.Deal(a.open.Plan, r.node.id, secret)
	if err != nil {
		return nil, err
	}
	r.room.mu.Lock()
	defer r.room.mu.Unlock()
	r.room.dealt[r.id] = dealt
	return dealt, nil
}

// hasDealt returns what this node dealt and the log has recorded, or says that it
// has yet to deal, or has lost what it dealt.
func (c *ceremonyRoom) hasDealt(view *fsm.View, a *approved) (*dkek.SubShares, error) {
	dealt := c.dealtBy(a.open.Ceremony)
	if row, ok := view.Sharing(a.open.Plan.Epoch, a.open.Plan.Attempt); ok {
		for _, d := range row.Dealings {
			switch {
			case d.Dealer != c.node.id:
			case dealt == nil || !sameDealing(d, dealt.Public()):
				return nil, ErrLost
			default:
				return dealt, nil
			}
		}
	}
	return nil, &fsm.Error{Code: fsm.WrongState, Message: "this dealer has not dealt yet"}
}

// dealerPartial is this node's share of the source, scaled for the plan's
// dealers. The plan must be a reshare of just the sharing that the share is of.
func (c *ceremonyRoom) dealerPartial(a *approved) (*dkek.Secret, error) {
	source, plan := a.open.Source, a.open.Plan
	bundle, sharing, err := c.node.shares.bundle(sharingName{source.Epoch, source.Attempt}, source.Hash)
	if err != nil {
		return nil, err
	}
	defer bundle.Wipe()
	if err := plan.Follows(sharing, source.KCV); err != nil {
		return nil, err
	}
	quorum := make([]dkek.NodeID, 0, len(plan.Dealers))
	for _, d := range plan.Dealers {
		quorum = append(quorum, d.Node)
	}
	return dkek.Partial(sharing, quorum, bundle)
}

// dealsNoMore forgets what this node dealt: every holder has it.
func (c *ceremonyRoom) dealsNoMore(id fsm.CeremonyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.dealt[id]; d != nil {
		d.Wipe()
		delete(c.dealt, id)
	}
}

// collect fetches this node's sub-share from every dealer, stores the share and
// acknowledges it.
func (r *runner) collect(ctx context.Context, view *fsm.View, row *fsm.SharingRow) error {
	a, err := r.room.approved(view, r.id)
	if err != nil {
		return err
	}
	sharing := row.Sharing()
	if sharing.Plan.Hash() != a.open.Plan.Hash() || sharing.Hash() != row.Hash {
		return &failure{"its sharing is not the one that was approved"}
	}
	var subs []*dkek.SubShare
	defer func() {
		for _, sub := range subs {
			sub.Wipe()
		}
	}()
	for i := range sharing.Dealings {
		r.say("collecting sub-shares")
		sub, err := r.fetchSub(ctx, view, a, &sharing.Dealings[i])
		if err != nil {
			return r.giveUp(fmt.Errorf("sub-share of dealer %s: %w", r.node.nameOf(view, sharing.Dealings[i].Dealer), err))
		}
		subs = append(subs, sub)
		if err := r.room.at(ctx, "some sub-shares"); err != nil {
			return err
		}
	}
	bundle, err := dkek.NewBundle(&sharing, r.node.id, subs)
	if err != nil {
		return err
	}
	defer bundle.Wipe()
	if err := r.node.shares.keep(&sharing, bundle); err != nil {
		return err
	}
	if err := r.room.at(ctx, "bundle written"); err != nil {
		return err
	}
	signed, err := fsm.SignStatement(r.node.own.Load().signer, fsm.DomainAck, &fsm.AckStatement{
		Cluster: r.node.Cluster(), Ceremony: r.id, Sharing: row.Hash, Holder: r.node.id,
	})
	if err != nil {
		return err
	}
	if _, err := r.node.do(ctx, &fsm.ShareAck{Signed: signed}); err != nil {
		return err
	}
	return r.room.at(ctx, "acknowledged")
}

// fetchSub gets one dealer's sub-share; this node's own never leaves it.
func (r *runner) fetchSub(ctx context.Context, view *fsm.View, a *approved, dealing *dkek.Dealing) (*dkek.SubShare, error) {
	key, me := r.room.key(r.id), r.node.id
	if key == nil {
		return nil, ErrLost
	}
	info, err := a.transcript(fsm.ReleaseDeal, dealing.Dealer, me, a.open.Plan.Hash())
	if err != nil {
		return nil, err
	}
	if dealing.Dealer == me {
		dealt, err := r.room.hasDealt(view, a)
		if err != nil {
			return nil, err
		}
		sealed, err := dealt.SealFor(me, key.Public(), info)
		if err != nil {
			return nil, err
		}
		return dkek.OpenSubShare(key, sealed, info, a.open.Plan, dealing, me)
	}
	sealed, err := r.node.askForShare(ctx, view, methodDeal, a, a.open.Plan.Dealers[a.open.Plan.DealerIndex(dealing.Dealer)], info)
	if err != nil {
		return nil, err
	}
	return dkek.OpenSubShare(key, *sealed, info, a.open.Plan, dealing, me)
}

func (n *Node) nameOf(view *fsm.View, id dkek.NodeID) string {
	if m, ok := view.Member(id); ok {
		return m.Name
	}
	return id.String()
}
