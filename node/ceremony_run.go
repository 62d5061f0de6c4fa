package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// runner does this node's part of one ceremony, step by step: it looks at the
// committed state, does what is next, and looks again.
type runner struct {
	room  *ceremonyRoom
	node  *Node
	id    fsm.CeremonyID
	woken chan struct{} // buffered 1

	gathered *gathering // releases that are in, still sealed
	device   deviceStep // what this node's device has been through

	mu      sync.Mutex
	doing   string // for people
	trouble error  // why the last step failed
}

func (r *runner) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// run ends when the ceremony does. A step that fails is tried again, ever more
// slowly, until the ceremony expires.
func (r *runner) run(ctx context.Context) {
	ticker := time.NewTicker(ceremonyTick)
	defer ticker.Stop()
	defer r.room.end(r.id)
	defer r.forget()
	var pause time.Duration
	var notBefore time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
		case <-ticker.C:
		}
		if pause > 0 && time.Now().Before(notBefore) {
			continue
		}
		over, err := r.step(ctx)
		if over || ctx.Err() != nil {
			return
		}
		r.note(err)
		if pause = 0; err != nil {
			pause = min(max(2*pause, ceremonyTick), maxStepPause)
			notBefore = time.Now().Add(pause)
		}
	}
}

// forget wipes what the ceremony left in memory.
func (r *runner) forget() {
	if r.gathered != nil {
		r.gathered.wipe()
		r.gathered = nil
	}
	r.room.mu.Lock()
	defer r.room.mu.Unlock()
	r.room.forget(r.id)
}

func (r *runner) note(err error) {
	r.mu.Lock()
	changed := err != nil && (r.trouble == nil || r.trouble.Error() != err.Error())
	r.trouble = err
	r.mu.Unlock()
	if changed {
		r.node.logger.Warn("ceremony: a step failed and is tried again", "ceremony", r.id, "reason", err)
	}
}

func (r *runner) say(doing string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doing = doing
}

// step does what is next, and says whether there is nothing left to do.
func (r *runner) step(ctx context.Context) (over bool, err error) {
	view := r.node.view()
	row, ok := view.Ceremony(r.id)
	if !ok {
		return true, nil
	}
	if row.Outcome != fsm.OutcomeOpen {
		return r.after(ctx, view, row)
	}
	open, err := fsm.ParseOpen(row.Open)
	if err != nil {
		return false, err
	}
	if late := r.node.now().UnixMilli() - row.Expires; late > 0 {
		// The leader closes it; the others do where its own part hangs.
		if !r.node.Leads() && late < expiryGrace.Milliseconds() {
			return false, nil
		}
		r.node.face.askMembers(ctx, view) // a clock may have been set just now
		return false, r.close(ctx, fsm.OutcomeExpired, r.node.wrongClocks())
	}
	err = r.act(ctx, view, row, open)
	var failed *failure
	switch {
	case errors.As(err, &failed) && r.mayGiveUp(row):
		return false, r.close(ctx, fsm.OutcomeFailed, failed.detail)
	case errors.Is(err, ErrLost) && r.mayGiveUp(row):
		return false, r.close(ctx, fsm.OutcomeLost, "at "+r.node.config.Name)
	}
	if now, ok := r.node.view().Ceremony(r.id); ok && now.Outcome != fsm.OutcomeOpen {
		return false, nil // it ended meanwhile
	}
	return false, err
}

// act does this node's next step of an open ceremony.
func (r *runner) act(ctx context.Context, view *fsm.View, row *fsm.Ceremony, open *fsm.Open) error {
	switch {
	case row.Kind == fsm.CeremonyGovern:
		return nil // its approval is its end; the pins follow
	case slices.Contains(row.Recipients, r.node.id) && r.room.key(r.id) == nil && !r.done(row) && !r.ready(ctx, row, open):
		return r.lost(ctx)
	case row.Approved == 0:
		r.say("waiting for approvals")
		return nil
	case open.Plan != nil:
		return r.deal(ctx, view, row, open)
	}
	return r.provision(ctx, view, row, open)
}

// lost ends the ceremony for want of this node's key, unless what it is wanted
// for has been done: a state that was just started may lag behind.
func (r *runner) lost(ctx context.Context) error {
	view, err := r.node.consistent(ctx)
	if err != nil {
		return err
	}
	if row, ok := view.Ceremony(r.id); !ok || row.Outcome != fsm.OutcomeOpen || r.done(row) {
		return nil
	}
	return ErrLost
}

// done tells whether this node needs its key no more.
func (r *runner) done(row *fsm.Ceremony) bool { return reported(row.Reports, r.node.id) }

// ready tells whether the device to be provisioned has the DKEK already: a
// process before this one imported the last share and got no further.
func (r *runner) ready(ctx context.Context, row *fsm.Ceremony, open *fsm.Open) bool {
	return row.Kind == fsm.CeremonyProvision && r.node.hasDKEK(ctx, open.Source.KCV)
}

func (r *runner) mayGiveUp(row *fsm.Ceremony) bool {
	return row.Opener == r.node.id || slices.Contains(row.Recipients, r.node.id)
}

// close commits how the ceremony ended, under this node's own signature.
func (r *runner) close(ctx context.Context, outcome fsm.Outcome, detail string) error {
	detail = clip(detail, fsm.MaxReason)
	signed, err := fsm.SignStatement(r.node.own.Load().signer, fsm.DomainClose, &fsm.CloseStatement{
		Cluster: r.node.Cluster(), Ceremony: r.id, Node: r.node.id, Outcome: outcome, Detail: detail,
	})
	if err != nil {
		return err
	}
	_, err = r.node.do(ctx, &fsm.CeremonyClose{Signed: signed})
	return err
}

// deal is a create or a reshare: deal, collect, acknowledge, prove.
func (r *runner) deal(ctx context.Context, view *fsm.View, row *fsm.Ceremony, open *fsm.Open) error {
	sharing, ok := view.Sharing(open.Plan.Epoch, open.Plan.Attempt)
	if !ok {
		return &failure{"its sharing is forgotten"}
	}
	if open.Plan.DealerIndex(r.node.id) >= 0 {
		if err := r.dealOwn(ctx, view, sharing); err != nil {
			return err
		}
	}
	if open.Plan.HolderIndex(r.node.id) >= 0 && !slices.Contains(sharing.Acked, r.node.id) {
		if !sharing.Dealt() {
			r.say("waiting for the dealers")
			return nil
		}
		return r.collect(ctx, view, sharing)
	}
	if sharing.Status != fsm.SharingStaged {
		r.say("waiting for the holders")
		return nil
	}
	r.room.dealsNoMore(r.id)
	if quorum := assigned(open.Plan, r.node.id); quorum != nil && !r.done(row) {
		return r.prove(ctx, view, row, open, quorum)
	}
	r.say("waiting for the other devices")
	if r.node.Leads() && allReported(row, open) {
		return r.close(ctx, fsm.OutcomeSuccess, "")
	}
	return nil
}

// allReported tells whether everybody who proves a new sharing has done so.
func allReported(row *fsm.Ceremony, open *fsm.Open) bool {
	for _, h := range open.Plan.Holders {
		if assigned(open.Plan, h.Node) != nil && !reported(row.Reports, h.Node) {
			return false
		}
	}
	return true
}

// assigned is the quorum that a holder proves: every holder proves one, since it
// erases an old share only when it has seen the check value itself. Nil for others.
//
// Whoever dealt inconsistently may report what it has not seen, so what the others
// prove must show it without that one. Where there are holders enough, each quorum is
// proven by two. Of an odd number, at the least threshold, all quorums but one are:
// there the second prover of the first quorum proves the one in which the last holders
// of the two that are proven once meet.
func assigned(plan *dkek.Plan, id dkek.NodeID) []dkek.NodeID {
	quorums := dkek.ProofQuorums(plan)
	at, n, t := plan.HolderIndex(id), len(plan.Holders), plan.Threshold
	switch {
	case at < 0:
		return nil
	case at == len(quorums) && n == 2*len(quorums)-1:
		quorum := slices.Clone(quorums[0][:t-2])
		return append(quorum, plan.Holders[t-1].Node, plan.Holders[n-1].Node)
	}
	return quorums[at%len(quorums)]
}

// reported tells whether a node's device has reported.
func reported(reports []fsm.Signed, id dkek.NodeID) bool {
	return slices.ContainsFunc(reports, func(s fsm.Signed) bool {
		var report fsm.ReportStatement
		return s.Peek(&report) == nil && report.Node == id
	})
}

// clip cuts a text to what a field takes, at a character.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && text[most]&0xC0 == 0x80 {
		most--
	}
	return text[:most]
}
