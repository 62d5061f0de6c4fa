package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

const (
	methodLogEnd = "log.end"
	// recoverPatience is how long another member may take to answer a recovery.
	recoverPatience = 5 * time.Second
)

// answerLogEnd tells members where this node's log ends, also while it has no
// state yet: whoever recovers the cluster has to know.
func (n *Node) answerLogEnd(log replicatedLog) error {
	return n.server.Peers().Handle(methodLogEnd, func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
		stats := log.Stats()
		return wireEncoder.Marshal(LogEnd{stats.LastTerm, stats.LastIndex})
	})
}

// RecoverOptions say what to go on without.
type RecoverOptions struct {
	Lost   []string // members, by name or ID, that never come back
	Reason string   // for the audit record
	// AcceptLoss goes on although this node remembers that a lost member had
	// entries that no survivor has.
	AcceptLoss bool
}

// PlanRecovery says what it would take to go on without members that are lost, and
// puts it into a plan for operators to sign. Every other member has to answer, no
// lost one may, the survivors must be too few to go on by themselves, and none of
// them may have come further than this node: recover at that one.
func (s *Stopped) PlanRecovery(ctx context.Context, options RecoverOptions) (*RecoveryPlan, error) {
	r, err := s.replay()
	if err != nil {
		return nil, err
	}
	view := r.State()
	cluster, _ := view.Cluster() // replay has seen it
	statement := &fsm.RecoverStatement{Cluster: cluster.ID, Incarnation: cluster.Incarnation + 1, Node: s.node.id, Reason: options.Reason,
		State: view.Digest(), Time: s.node.now().UnixMilli()}
	for _, name := range options.Lost {
		m, err := memberCalled(view, name)
		if err != nil {
			return nil, fmt.Errorf("node: recover: %w", err)
		}
		if m.ID == s.node.id || slices.Contains(statement.Lost, m.ID) {
			return nil, fmt.Errorf("node: recover: %s is this node, or named twice", m.Name)
		}
		statement.Lost = append(statement.Lost, m.ID)
	}
	found, err := s.lookAround(ctx, r, statement.Lost)
	if err != nil {
		return nil, err
	}
	ahead := s.rememberedAhead(view, r.end.Index)
	if len(ahead) > 0 && !options.AcceptLoss {
		return nil, fmt.Errorf("node: recover: nothing was changed: %s: bring one of those back, or go on and lose these entries: --accept-loss", strings.Join(ahead, "; "))
	}
	statement.Index, statement.Term = found.highest.Index+1, max(r.term, found.highest.Term)+1
	return newRecoveryPlan(statement, append(found.notes, append(ahead, provenNote(view, statement.Lost))...))
}

// Recover carries a plan out that enough operators, by this node's own pins, have
// signed: the cluster begins a new incarnation with this node's state, without the
// lost members. Start the node then. The former log is kept beside the new one. A
// recovery that was carried out already is no error.
func (s *Stopped) Recover(ctx context.Context, plan *RecoveryPlan, approvals []fsm.Approval) error {
	statement, err := fsm.VerifyRecover(s.node.pins.set(), plan.Statement, approvals)
	if err != nil {
		return fmt.Errorf("node: recover: %w", err)
	}
	if statement.Restore != nil {
		return errors.New("node: recover: the plan is to restore a backup: nodectl cluster restore")
	}
	if statement.Node != s.node.id {
		return fmt.Errorf("node: recover: the plan is for node %v, and this is node %v", statement.Node, s.node.id)
	}
	r, err := s.replay()
	if err != nil {
		return err
	}
	if r.Incarnation() == statement.Incarnation && r.end.Index >= statement.Index {
		return nil
	}
	if r.State().Digest() != statement.State {
		return errors.New("node: recover: this node's state is not the one that the plan was made of: make the plan anew")
	}
	found, err := s.lookAround(ctx, r, statement.Lost)
	if err != nil {
		return err
	}
	if statement.Index <= found.highest.Index || statement.Term <= found.highest.Term {
		return errors.New("node: recover: a survivor has written to its log since the plan was made: make the plan anew")
	}
	err = s.apply(r.Machine, statement, &fsm.Recover{Statement: plan.Statement, Approvals: approvals})
	if err == nil {
		err = s.lay(r.State(), statement)
	}
	if err != nil {
		return fmt.Errorf("node: recover: %w", err)
	}
	return nil
}

// surroundings are what the other members answered.
type surroundings struct {
	highest LogEnd // terms and indexes, each for itself
	notes   []string
}

// lookAround asks every other member, and refuses where a recovery would be wrong.
func (s *Stopped) lookAround(ctx context.Context, r *replayed, lost []dkek.NodeID) (*surroundings, error) {
	if err := s.connect(r.state); err != nil {
		return nil, err
	}
	found := &surroundings{highest: LogEnd{max(r.term, r.end.Term), r.end.Index}}
	voters, left := 0, 0
	for _, m := range byName(r.State()) {
		if r.isVoter(m) {
			voters++
		}
		end, err := r.end, error(nil)
		if m.ID != s.node.id {
			end, err = s.askEnd(ctx, transport.Peer{Fingerprint: transport.Fingerprint(m.Fingerprint), Addr: m.Addr})
		}
		switch isLost := slices.Contains(lost, m.ID); {
		case isLost && (err == nil || lives(err)):
			return nil, fmt.Errorf("node: recover: nothing was changed: %s answers at %s: it is not lost", m.Name, m.Addr)
		case isLost:
			found.notes = append(found.notes, m.Name+" is lost, and removed for ever, with its share")
			continue
		case err != nil:
			return nil, fmt.Errorf("node: recover: nothing was changed: %s does not answer at %s: start it, and give it its seal secret, or name it as lost: %w", m.Name, m.Addr, err)
		case r.end.before(end):
			return nil, fmt.Errorf("node: recover: nothing was changed: %s has come further (term %d, index %d) than this node (term %d, index %d): recover there", m.Name, end.Term, end.Index, r.end.Term, r.end.Index)
		}
		found.notes = append(found.notes, fmt.Sprintf("%s goes on; its log ends at term %d, index %d", m.Name, end.Term, end.Index))
		found.highest = LogEnd{max(found.highest.Term, end.Term), max(found.highest.Index, end.Index)}
		if r.isVoter(m) {
			left++
		}
	}
	if left > voters/2 {
		return nil, fmt.Errorf("node: recover: nothing was changed: %d of %d voters are left, which is a majority: start this node, the cluster goes on by itself", left, voters)
	}
	return found, nil
}

func (s *Stopped) askEnd(ctx context.Context, peer transport.Peer) (LogEnd, error) {
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	var end LogEnd
	err := s.node.callPeer(ctx, peer, methodLogEnd, nothing{}, &end)
	return end, err
}

// lives tells whether an error is the answer of a node that runs.
func lives(err error) bool {
	var said *peerError
	var refused *fsm.Error
	return errors.As(err, &said) || errors.As(err, &refused) || errors.Is(err, transport.ErrNotAdmitted)
}

// rememberedAhead names the members that this node knows to have had more than it
// has itself: what they had beyond that is lost with them.
func (s *Stopped) rememberedAhead(view *fsm.View, end uint64) []string {
	var ahead []string
	for _, m := range byName(view) {
		if known := s.node.marks.of(m.ID); known > end {
			ahead = append(ahead, fmt.Sprintf("%s had entry %d, and this node's log ends at %d", m.Name, known, end))
		}
	}
	return ahead
}

// provenNote says what becomes of the DKEK without the lost members.
func provenNote(view *fsm.View, lost []dkek.NodeID) string {
	if proven, ok := view.Proven(); ok {
		return holdersNote(view, &proven.Plan, lost)
	}
	return holdersNote(view, nil, lost)
}

// holdersNote says which holders of a sharing are left.
func holdersNote(view *fsm.View, plan *dkek.Plan, lost []dkek.NodeID) string {
	if plan == nil {
		return "there is no DKEK yet"
	}
	var left []string
	for _, h := range plan.Holders {
		if _, member := view.Member(h.Node); member && !slices.Contains(lost, h.Node) {
			left = append(left, memberName(view, h.Node))
		}
	}
	if t := plan.Threshold; len(left) < t {
		return fmt.Sprintf("%d of the holders of epoch %d are left (%s) and %d are needed: no device can be filled any more; keys live as long as a device that has them", len(left), plan.Epoch, strings.Join(left, ", "), t)
	}
	return fmt.Sprintf("%d holders of epoch %d are left (%s), %d are needed: devices can be filled; reshare soon", len(left), plan.Epoch, strings.Join(left, ", "), plan.Threshold)
}
