package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

// shareEvery is how often shares are unsealed and checked, beside every start.
const shareEvery = 24 * time.Hour

// start looks after the shares: what was proven is checked and written down,
// what is over is erased, and how the share is gets reported. After a start the log
// is still being replayed: what the members' table says of the share may be older
// than the last report, and what is right now wrong a moment later.
func (s *shareRoom) start() {
	changed := s.node.watch(fsm.TableSharings, fsm.TableCeremonies, fsm.TableCluster, fsm.TableMembers)
	s.node.run(func(ctx context.Context) { s.tend(ctx, changed) })
}

func (s *shareRoom) tend(ctx context.Context, changed <-chan struct{}) {
	daily, retry := time.NewTicker(shareEvery), time.NewTimer(0)
	defer daily.Stop()
	defer retry.Stop()
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-retry.C:
		case <-s.wake:
			look = true
		case <-daily.C:
			look = true
		}
		var errs []error
		if look {
			errs = append(errs, s.check())
		}
		view := s.node.view()
		errs = append(errs, s.clear(ctx, view), s.report(ctx, view, look))
		if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
			s.node.logger.Warn("shares: not in order yet", "reason", err)
			retry.Reset(maxStepPause)
		}
	}
}

// clear erases the shares that nobody will need again, and says so to the
// cluster. What the log says is not enough to erase a share that was in force:
// this node must have checked the proof of a later one itself.
func (s *shareRoom) clear(ctx context.Context, view *fsm.View) error {
	var errs []error
	if err := s.node.ceremonies.at(ctx, "looking for proofs"); err != nil {
		return err
	}
	proof := s.proven(view)
	for name, held := range s.shares() {
		row, known := view.Sharing(name.epoch, name.attempt)
		_, wasInForce := s.readProof(name)
		switch {
		case known && row.Status == fsm.SharingDropped && wasInForce != nil && (held.err != nil || row.Hash == held.sharing.Hash()) && !s.hasReported(name):
			errs = append(errs, s.drop(name)) // it never came into force
		case proof.err == nil && name.epoch < proof.name.epoch && s.safe(proof):
			if err := s.node.ceremonies.at(ctx, "proof written"); err != nil {
				return err
			}
			errs = append(errs, s.erase(name))
		case proof.err != nil && known && row.Status == fsm.SharingSuperseded:
			errs = append(errs, fmt.Errorf("node: share %s stays: the sharing that followed is not proven to this node: %w", name, proof.err))
		}
	}
	return errors.Join(append(errs, s.tellErased(ctx, view))...)
}

// safe tells whether this node has done its part for a later sharing: it holds
// its share, which reads now and not only when it was last looked at, or has none
// to hold.
func (s *shareRoom) safe(p provenSharing) bool {
	if p.sharing.Plan.HolderIndex(s.node.id) < 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bundle, sharing, err := s.open(p.name)
	if err != nil {
		s.held[p.name] = heldShare{err: err}
		return false
	}
	bundle.Wipe()
	return sharing.Hash() == p.sharing.Hash()
}

// tellErased commits what this node erased, until the cluster knows.
func (s *shareRoom) tellErased(ctx context.Context, view *fsm.View) error {
	held := s.shares()
	for row := range view.Sharings() {
		name := nameOf(&row.Plan)
		_, here := held[name]
		over := row.Status == fsm.SharingSuperseded || row.Status == fsm.SharingDropped && slices.Contains(row.Acked, s.node.id)
		if here || !over || row.Plan.HolderIndex(s.node.id) < 0 || slices.Contains(row.Erased, s.node.id) {
			continue
		}
		if err := s.node.ceremonies.at(ctx, "share erased"); err != nil {
			return err
		}
		if _, err := s.node.do(ctx, &fsm.OldShareErased{Node: s.node.id, Epoch: name.epoch, Attempt: name.attempt}); err != nil {
			return err
		}
	}
	return nil
}

// report commits how this node's share is, when that changed or was looked at
// anew.
func (s *shareRoom) report(ctx context.Context, view *fsm.View, again bool) error {
	row, ok := view.Proven()
	self, member := view.Member(s.node.id)
	if !ok || !member || row.Plan.HolderIndex(s.node.id) < 0 {
		return nil
	}
	health := &fsm.ShareHealth{Epoch: row.Plan.Epoch, Attempt: row.Plan.Attempt, Index: view.Index()}
	held, here := s.shares()[nameOf(&row.Plan)]
	switch {
	case !here:
		health.Text = "the share is missing: reshare while the others are good"
	case held.err != nil:
		health.Text = clip(held.err.Error()+": reshare while the others are good", fsm.MaxText)
	case held.sharing.Hash() != row.Hash:
		health.Text = "the share is of another sharing: reshare while the others are good"
	default:
		health.OK = true
	}
	if old := self.Share; !again && old != nil && old.Epoch == health.Epoch && old.Attempt == health.Attempt && old.OK == health.OK && old.Text == health.Text {
		return nil
	}
	_, err := s.node.do(ctx, &fsm.MemberReport{Node: s.node.id, ReadsTo: s.node.readsTo.Load(), Share: health})
	return err
}
