package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// provision is a provision or a drill: the one recipient gathers t shares, has a
// device combine them, and closes.
func (r *runner) provision(ctx context.Context, view *fsm.View, row *fsm.Ceremony, open *fsm.Open) error {
	if !slices.Contains(row.Recipients, r.node.id) {
		r.say("waiting for the recipient")
		return nil
	}
	state, ok := view.Sharing(open.Source.Epoch, open.Source.Attempt)
	if !ok || state.Hash != open.Source.Hash {
		return &failure{"the sharing that it names is gone"}
	}
	a, err := r.room.approved(view, r.id)
	if err != nil {
		return err
	}
	if row.Kind == fsm.CeremonyDrill {
		return r.drill(ctx, view, a, row, state)
	}
	if !r.done(row) {
		return r.provisionOwn(ctx, view, a, row, state)
	}
	return r.close(ctx, fsm.OutcomeSuccess, r.refusals())
}

// refusals names the holders whose shares were refused on the way.
func (r *runner) refusals() string {
	if r.gathered == nil || len(r.gathered.liars) == 0 {
		return ""
	}
	return "refused: " + strings.Join(r.gathered.liars, "; ")
}

// provisionOwn puts the DKEK into this node's device, unless it is there: then a
// process before this one imported the last share and got no further.
func (r *runner) provisionOwn(ctx context.Context, view *fsm.View, a *approved, row *fsm.Ceremony, state *fsm.SharingRow) error {
	sharing := state.Sharing()
	kcv, quorum := a.open.Source.KCV, releasedTo(row, &sharing.Plan)
	if !r.ready(ctx, row, a.open) {
		var err error
		if quorum, err = r.gather(ctx, view, a, &sharing, nil); err != nil {
			return err
		}
		if err := r.room.at(ctx, "gathered"); err != nil {
			return err
		}
		if kcv, err = r.fill(ctx, quorum); err != nil {
			return err
		}
	}
	info, err := r.node.config.Device.Info(ctx)
	if err != nil {
		return err
	}
	r.say("proving the device")
	if err := r.node.canary(ctx); err != nil {
		return fmt.Errorf("node: the device gave the right check value and no key comes back in it: %w", err)
	}
	return r.report(ctx, state, quorum, kcv, info, false)
}

// releasedTo is the quorum to name for a device that was filled before a
// restart: t of the holders that released, or of all where none had to.
func releasedTo(row *fsm.Ceremony, plan *dkek.Plan) []dkek.NodeID {
	var ids []dkek.NodeID
	for _, release := range row.Releases {
		if !slices.Contains(ids, release.Holder) {
			ids = append(ids, release.Holder)
		}
	}
	for _, h := range plan.Holders {
		if !slices.Contains(ids, h.Node) {
			ids = append(ids, h.Node)
		}
	}
	return sorted(ids[:plan.Threshold])
}

// drill proves a sharing and a sample of keys in a scratch device: the sharing
// in force by one quorum, a staged one by as many as prove it.
func (r *runner) drill(ctx context.Context, view *fsm.View, a *approved, row *fsm.Ceremony, state *fsm.SharingRow) error {
	sharing := state.Sharing()
	quorums := [][]dkek.NodeID{nil}
	if state.Status == fsm.SharingStaged {
		quorums = dkek.ProofQuorums(&sharing.Plan)
	}
	var proven, failed int
	var detail error
	for i, wanted := range quorums {
		quorum, err := r.gather(ctx, view, a, &sharing, wanted)
		if err != nil {
			return err
		}
		if err := r.room.at(ctx, "gathered"); err != nil {
			return err
		}
		scratch, err := newScratch(ctx, r.room.scratch(), r.gathered, quorum)
		if err != nil {
			return err
		}
		err = r.report(ctx, state, quorum, scratch.kcv, scratch.info, true)
		if err == nil && i == len(quorums)-1 {
			r.say("proving a sample of the keys")
			proven, failed, detail = scratch.sample(ctx, view, a.open.Sample)
		}
		scratch.close()
		if err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d of %d sampled keys proven", proven, proven+failed)
	if failed > 0 {
		return &failure{fmt.Sprintf("%s: %v", text, detail)}
	}
	return r.close(ctx, fsm.OutcomeSuccess, text)
}

// after is what follows from a ceremony that has ended: the reshare that a
// provision named, opened by whoever leads.
func (r *runner) after(ctx context.Context, view *fsm.View, row *fsm.Ceremony) (over bool, err error) {
	r.forget()
	if !r.room.successorDue(view, row) {
		return true, nil
	}
	if !r.node.Leads() {
		return false, nil
	}
	open, err := fsm.ParseOpen(row.Open)
	if err != nil {
		return true, nil
	}
	options := CeremonyOptions{
		Purpose: "successor of a provision", Threshold: open.Successor.Threshold,
		cites: &fsm.Cite{Ceremony: row.ID, Hash: row.Hash},
	}
	for _, h := range open.Successor.Holders {
		options.Holders = append(options.Holders, h.Node)
	}
	_, err = r.node.OpenReshare(ctx, options)
	return false, err
}

// successorDue tells whether a provision has ended well and the reshare that it
// named is not opened yet.
func (c *ceremonyRoom) successorDue(view *fsm.View, row *fsm.Ceremony) bool {
	if row.Kind != fsm.CeremonyProvision || row.Outcome != fsm.OutcomeSuccess || max(view.Time(), c.node.now().UnixMilli()) >= row.Expires {
		return false
	}
	open, err := fsm.ParseOpen(row.Open)
	if err != nil || open.Successor == nil {
		return false
	}
	if proven, ok := view.Proven(); !ok || proven.Ref() != open.Source {
		return false
	}
	for other := range view.Ceremonies() {
		if other.Cited {
			if o, err := fsm.ParseOpen(other.Open); err == nil && o.Cites != nil && o.Cites.Ceremony == row.ID {
				return false
			}
		}
	}
	return true
}
