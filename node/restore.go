package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

// skipped is how many log indexes a restore leaves out. Marks lag behind by a second
// at most, in which a log does not come as far: so the new beginning is above every
// entry that any member ever had, and none that keeps its former log finds the others
// rolled back, or has a tail that goes beyond.
const skipped = 1 << 16

// RestoreOptions say what to restore a cluster without.
type RestoreOptions struct {
	Lost []string // members of the backup, by name or ID, that never come back
	// Back are members of the backup, by name or ID, that were removed since it
	// was made and are members again.
	Back   []string
	Reason string // for the audit record
	// AcceptLoss goes on although this node knows of log entries that the backup
	// does not have.
	AcceptLoss bool
	// Known is a log entry that another member knows of, as it said when it refused
	// a plan that gives up less.
	Known uint64
}

// PlanRestore says what it would take to make a backup the cluster's state, and
// puts it into a plan for operators to sign. The backup has to be of this cluster
// and of the operators who are pinned here, with this node as a member under its
// present key; this node's share has to be of a sharing that goes on; and nobody
// may answer: a cluster that lives needs no restore. Nothing is changed.
//
// Log entries that this node knows of and the backup lacks are a refusal without
// AcceptLoss. Members may differ in what they know of: one that knows of more
// refuses the plan, and says what to give as Known in another one.
func (s *Stopped) PlanRestore(ctx context.Context, b *fsm.Backup, options RestoreOptions) (*RecoveryPlan, error) {
	plan, err := s.planRestore(ctx, b, options)
	if err != nil {
		return nil, fmt.Errorf("node: restore: %w", err)
	}
	return plan, nil
}

func (s *Stopped) planRestore(ctx context.Context, b *fsm.Backup, options RestoreOptions) (*RecoveryPlan, error) {
	view := b.Machine.State()
	if err := s.fits(b); err != nil {
		return nil, err
	}
	lost, err := membersCalled(view, options.Lost)
	if err != nil {
		return nil, err
	}
	back, err := membersCalled(view, options.Back)
	if err != nil {
		return nil, err
	}
	if slices.Contains(lost, s.node.id) {
		return nil, errors.New("this node is not lost: it restores")
	}
	if err := s.wantNamed(b, lost, back); err != nil {
		return nil, err
	}
	had, err := s.had()
	if err != nil {
		return nil, err
	}
	had.raise(options.Known, "another member knows of")
	loses := had.beyond(b)
	if loses > 0 && !options.AcceptLoss {
		return nil, fmt.Errorf("the backup is older than what this node knows of: it ends at entry %d, made %s, and %s: take a newer backup, or go on at a node whose log is whole (nodectl cluster recover), or give up what was acknowledged since: --accept-loss", b.Index, utc(b.Time), had.words())
	}
	shares, err := s.sharesFor(view, nil)
	if err != nil {
		return nil, err
	}
	if err := s.wantSilence(ctx, view, 0); err != nil {
		return nil, err
	}
	now := s.node.now().UnixMilli()
	statement := &fsm.RecoverStatement{
		Cluster: b.Cluster, Incarnation: max(b.Incarnation, had.incarnation) + 1, Node: s.node.id, Lost: lost, Reason: options.Reason,
		State: view.Digest(), Index: max(b.Index, had.index) + skipped, Term: max(had.term, uint64(max(now, 0))) + 1, Time: now,
		Restore: &fsm.RestoreTerms{Backup: b.Hash, Loses: loses, Epoch: shares.epoch, Back: back},
	}
	notes := []string{fmt.Sprintf("the backup was made %s in incarnation %d and ends at entry %d; %s", utc(b.Time), b.Incarnation, b.Index, had.words())}
	if loses > 0 {
		notes = append(notes, fmt.Sprintf("%d entries of the log are given up, and with them every key and every change that was acknowledged after the backup; what devices have of it is kept aside", loses))
	}
	if loses > 0 && had.incarnation > b.Incarnation {
		notes = append(notes, fmt.Sprintf("the cluster was recovered or restored since (it is in incarnation %d): that count has the numbers that were skipped then", had.incarnation))
	}
	notes = append(notes, s.memberNotes(b, lost, back)...)
	var sharing []byte
	if shares.newer != nil {
		hash := shares.newer.Hash()
		statement.Restore.Sharing = &hash
		if sharing, err = shares.newer.Encode(); err != nil {
			return nil, err
		}
		notes = append(notes, fmt.Sprintf("shares were dealt anew after the backup: epoch %d, which this node has seen proven, is in force", shares.newer.Plan.Epoch))
	}
	notes = append(notes, holdersNote(view, shares.inForce, lost))
	if shares.missing != nil {
		notes = append(notes, fmt.Sprintf("this node holds a share that cannot be had, and does not count among those: %v", shares.missing))
	}
	plan, err := newRecoveryPlan(statement, notes)
	if err == nil {
		plan.Sharing = sharing
	}
	return plan, err
}

// Restore carries a plan out that enough operators have signed: the backup becomes
// the beginning of this node's log. Call it at every member that goes on, with the
// same plan, and start them then: a majority has to be there. The former log is
// kept beside the new one. A restore that was carried out already is no error. The
// backup is used up.
func (s *Stopped) Restore(ctx context.Context, plan *RecoveryPlan, approvals []fsm.Approval, b *fsm.Backup) error {
	if err := s.restore(ctx, plan, approvals, b); err != nil {
		return fmt.Errorf("node: restore: %w", err)
	}
	return nil
}

func (s *Stopped) restore(ctx context.Context, plan *RecoveryPlan, approvals []fsm.Approval, b *fsm.Backup) error {
	if err := s.fits(b); err != nil {
		return err
	}
	statement, err := fsm.VerifyRecover(b.Sets[len(b.Sets)-1], plan.Statement, approvals)
	if err != nil {
		return err
	}
	terms := statement.Restore
	if terms == nil || terms.Backup != b.Hash {
		return errors.New("the plan is not of this backup")
	}
	if slices.Contains(statement.Lost, s.node.id) {
		return errors.New("this node is lost by the plan, and must not come back")
	}
	if err := s.wantNamed(b, statement.Lost, terms.Back); err != nil {
		return err
	}
	if begun, err := s.hasBegun(statement); begun || err != nil {
		return err
	}
	had, err := s.had()
	if err != nil {
		return err
	}
	if err := had.allow(statement, b); err != nil {
		return err
	}
	view := b.Machine.State()
	planned, err := plan.sharing(terms)
	if err != nil {
		return err
	}
	shares, err := s.sharesFor(view, planned)
	if err != nil {
		return err
	}
	if err := shares.allow(terms); err != nil {
		return err
	}
	if err := s.wantSilence(ctx, view, statement.Term); err != nil {
		return err
	}
	if err := s.apply(b.Machine, statement, &fsm.Recover{Statement: plan.Statement, Approvals: approvals, Sharing: plan.Sharing}); err != nil {
		return err
	}
	if err := s.setAuditAside(view, statement.Incarnation); err != nil {
		return err
	}
	if err := s.forget(); err != nil { // before the new log has its place: whoever has begun was not removed
		return err
	}
	return s.lay(b.Machine.State(), statement)
}

// forget drops what the node knew that the restore overrules: its removal, and how
// far others had come.
func (s *Stopped) forget() error {
	return errors.Join(s.node.files.remove(removedFile), s.node.files.remove(peerMarksFile))
}

// fits tells whether a backup is of this node's cluster and operators, with this
// node in it as it is now.
func (s *Stopped) fits(b *fsm.Backup) error {
	n := s.node
	if own := n.identityNow().cluster; b.Cluster != own {
		return fmt.Errorf("the backup is of cluster %s, and this node is of %s", b.Cluster, own)
	}
	newest := b.Sets[len(b.Sets)-1]
	switch pinned := n.pins.set(); {
	case pinned.Number > newest.Number:
		return fmt.Errorf("the backup ends at operator set %d, and set %d is in force here: those who were removed since would approve again: take a backup that was made after that change", newest.Number, pinned.Number)
	case !b.HasSet(pinned):
		return fmt.Errorf("the backup has other operators in set %d than those pinned here: it is made up", pinned.Number)
	}
	member, ok := b.Machine.State().Member(n.id)
	if !ok {
		return errors.New("this node is no member in the backup: restore at those that are, and join it again with an empty data folder")
	}
	who := n.identityNow()
	if member.Fingerprint != who.key.fingerprint && (who.next == nil || member.Fingerprint != who.next.fingerprint) {
		return errors.New("this node's key was rotated after the backup was made: name it as lost at the others, and join it again with an empty data folder")
	}
	return nil
}

// wantNamed refuses to make somebody a member without a word who is none any more,
// by what this node has written down: it was removed for a reason.
func (s *Stopped) wantNamed(b *fsm.Backup, lost, back []dkek.NodeID) error {
	if removed := s.node.wasRemoved(); removed != nil && !slices.Contains(back, s.node.id) {
		return fmt.Errorf("%w: if that was not right, name it: --back %s", removed, s.node.id)
	}
	list := s.node.directory.learned.Load()
	if list == nil || list.Index <= b.Index {
		return nil
	}
	for _, m := range byName(b.Machine.State()) {
		if slices.Contains(lost, m.ID) {
			continue
		}
		i := slices.IndexFunc(list.Members, func(now memberIdentity) bool { return now.Node == m.ID })
		switch {
		case i < 0 && !slices.Contains(back, m.ID):
			return fmt.Errorf("%s is a member in the backup and was removed since: name it with --lost, or if it shall be a member again with --back", m.Name)
		case i >= 0 && list.Members[i].Fingerprint != m.Fingerprint:
			return fmt.Errorf("the key of %s was rotated after the backup was made, and its former key would count again: name it with --lost, and join it again with an empty data folder", m.Name)
		}
	}
	return nil
}

// hasBegun tells whether this statement was carried out here. Another one, or
// a later log of that incarnation, is not undone.
func (s *Stopped) hasBegun(statement *fsm.RecoverStatement) (bool, error) {
	m, err := s.readMark()
	if err != nil {
		return false, err
	}
	r, replayErr := s.replay()
	if replayErr == nil && r.Incarnation() >= statement.Incarnation {
		for record := range r.State().Audit(0) {
			if record.Action == fsm.ActionRestore && record.Index == statement.Index && record.Time == statement.Time {
				return true, s.finish(r.State(), statement)
			}
		}
		return false, fmt.Errorf("this node is in incarnation %d already: another plan was carried out here, or this one so long ago that nothing shows it", r.Incarnation())
	}
	if m.incarnation >= statement.Incarnation {
		return false, fmt.Errorf("this node was in incarnation %d already, and its log is lost again: remove it from the cluster and join with an empty data folder", m.incarnation)
	}
	return false, nil
}

// finish writes what a crash right behind the last step of lay left out.
func (s *Stopped) finish(view *fsm.View, statement *fsm.RecoverStatement) error {
	m, err := s.readMark()
	if err != nil || m.incarnation >= statement.Incarnation {
		return err
	}
	return s.writeBeside(view, statement)
}

// wantSilence asks everybody who is or was a member, and refuses where one
// answers: it has to be stopped. Those may answer whose log begins with this very
// restore: at term begun or later.
func (s *Stopped) wantSilence(ctx context.Context, view *fsm.View, begun uint64) error {
	if err := s.connect(&state{Machine: fsm.New(), cluster: s.node.identityNow().cluster}); err != nil {
		return err
	}
	others := s.node.directory.othersBefore()
	for _, m := range byName(view) {
		if one := (memberIdentity{m.ID, m.Fingerprint, m.Addr}); m.ID != s.node.id && !slices.Contains(others, one) {
			others = append(others, one)
		}
	}
	answers := make([]error, len(others))
	var asking sync.WaitGroup
	for i, m := range others {
		asking.Go(func() {
			end, err := s.askEnd(ctx, transport.Peer{Fingerprint: transport.Fingerprint(m.Fingerprint), Addr: m.Addr})
			if err == nil && (begun == 0 || end.Term < begun) || lives(err) {
				answers[i] = fmt.Errorf("%s answers at %s: if a majority of the members runs, the cluster lives and needs no restore; else stop that node first", memberName(view, m.Node), m.Addr)
			}
		})
	}
	asking.Wait()
	return errors.Join(append(answers, ctx.Err())...) // silence is an answer to a question that was asked
}

// memberNotes say who goes on and who does not.
func (s *Stopped) memberNotes(b *fsm.Backup, lost, back []dkek.NodeID) []string {
	var notes []string
	view := b.Machine.State()
	goOn := 0
	for _, m := range byName(view) {
		switch {
		case slices.Contains(lost, m.ID):
			notes = append(notes, m.Name+" is lost, and removed for ever, with its share")
			continue
		case slices.Contains(back, m.ID):
			notes = append(notes, m.Name+" was removed after the backup was made, and is a member again, at "+m.Addr)
		default:
			notes = append(notes, m.Name+" goes on at "+m.Addr)
		}
		if m.Voter {
			goOn++
		}
	}
	notes = append(notes, fmt.Sprintf("carry the plan out at each of these, and start them: %d of %d voters have to run", goOn/2+1, goOn))
	if list := s.node.directory.learned.Load(); list != nil {
		for _, m := range list.Members {
			if _, ok := view.Member(m.Node); !ok {
				notes = append(notes, fmt.Sprintf("the member %s at %s joined after the backup was made, and is none any more: let it join again with an empty data folder", m.Node, m.Addr))
			}
		}
	}
	return notes
}

func membersCalled(view *fsm.View, names []string) ([]dkek.NodeID, error) {
	var ids []dkek.NodeID
	for _, name := range names {
		m, err := memberCalled(view, name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids, m.ID) {
			return nil, fmt.Errorf("%s is named twice", m.Name)
		}
		ids = append(ids, m.ID)
	}
	return ids, nil
}

func utc(milliseconds int64) string { return time.UnixMilli(milliseconds).UTC().Format(time.RFC3339) }
