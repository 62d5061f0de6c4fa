package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// Recover begins a new incarnation after the cluster was put back from a backup
// or went on without members that are lost: open ceremonies are void, and
// objects that devices made in an earlier incarnation are nobody's. Lost members
// are removed, whatever would otherwise forbid that. The log's time begins anew
// with this command's.
//
// A member's word is not enough for that: whoever came in by a stolen token
// could remove all others. The command carries a [RecoverStatement] in the exact
// bytes that operators signed, domain [DomainRecover]. The actor is the node
// that it names, or an operator through that node.
//
// It is applied to a state that no log is written for: every node that begins
// anew from the same state applies the same command to it.
type Recover struct {
	Statement []byte     `cbor:"1,keyasint"`
	Approvals []Approval `cbor:"2,keyasint"`
	// Sharing is the one that the statement's Restore names, as
	// [dkek.Sharing.Encode] gives it.
	Sharing []byte `cbor:"3,keyasint,omitempty"`
}

// RecoverStatement is what operators sign to have a node recover the cluster. It
// counts once, for one state and no other.
type RecoverStatement struct {
	Cluster     dkek.ClusterID `cbor:"1,keyasint"`
	Incarnation uint64         `cbor:"2,keyasint"` // the new one: above every one that a member knows of
	Node        dkek.NodeID    `cbor:"3,keyasint"` // that recovers
	Lost        []dkek.NodeID  `cbor:"4,keyasint,omitempty"`
	Reason      string         `cbor:"5,keyasint,omitempty"`
	State       dkek.Hash      `cbor:"6,keyasint"` // digest of the state that is recovered
	// Index and Term are where in the log whoever applies the command puts it: an
	// index above every one that a member knows of.
	Index uint64 `cbor:"7,keyasint"`
	Term  uint64 `cbor:"8,keyasint"`
	Time  int64  `cbor:"9,keyasint"` // the log's from then on, Unix milliseconds
	// Restore is there where the state is a backup's, and not what the node has.
	Restore *RestoreTerms `cbor:"10,keyasint,omitempty"`
}

// ActionRecover and ActionRestore are the actions of the audit record that begins
// an incarnation.
const (
	ActionRecover = "cluster recover"
	ActionRestore = "cluster restore"
)

// MaxIncarnation bounds a statement's: the next one must always be there.
const MaxIncarnation = 1 << 32

func (*Recover) Kind() Kind { return KindRecover }

// EncodeRecover returns a statement's bytes, for operators to sign by
// [SignMessage].
func EncodeRecover(s *RecoverStatement) ([]byte, error) {
	if err := checkText("reason", s.Reason, MaxReason); err != nil {
		return nil, err
	}
	return marshal(s)
}

// VerifyRecover tells whether a statement, in the exact bytes that were signed,
// is approved by k distinct operators of a set, and returns it. A node asks this
// with its own pinned set before it recovers.
func VerifyRecover(set OperatorSet, statement []byte, approvals []Approval) (*RecoverStatement, error) {
	s, err := verifyRecover(set, statement, approvals)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func verifyRecover(set OperatorSet, statement []byte, approvals []Approval) (*RecoverStatement, *Error) {
	var s RecoverStatement
	if err := (Signed{Statement: statement}).peek(&s); err != nil {
		return nil, err
	}
	if s.Cluster != set.Cluster {
		return nil, refuse(Conflict, "recovery of another cluster")
	}
	if err := set.approved(DomainRecover, statement, approvals); err != nil {
		return nil, err
	}
	return &s, nil
}

func (b *Recover) apply(t *txn) (Value, *Error) {
	if err := t.byMemberOrOperator(); err != nil {
		return Value{}, err
	}
	s, err := verifyRecover(t.cluster().Operators, b.Statement, b.Approvals)
	if err != nil {
		return Value{}, err
	}
	if s.Node != t.command.Actor.Node {
		return Value{}, refuse(NotAllowed, "operators approved that node %v recovers", s.Node)
	}
	sharing, err := b.adopted(t, s)
	if err != nil {
		return Value{}, err
	}
	if err := checkText("reason", s.Reason, MaxReason); err != nil {
		return Value{}, err
	}
	if present := t.cluster().Incarnation; s.Incarnation <= present || s.Incarnation > MaxIncarnation {
		return Value{}, refuse(Conflict, "incarnation %d does not follow incarnation %d", s.Incarnation, present)
	}
	if s.State != t.state.digest() || s.Time != t.command.Time {
		return Value{}, refuse(Conflict, "operators approved the recovery of another state, or for another time")
	}
	lost, err := t.lost(s)
	if err != nil {
		return Value{}, err
	}
	t.now = t.command.Time // a leader's wrong clock may have pulled it ahead for years
	t.changeCluster(func(c *Cluster) { c.Incarnation = s.Incarnation })
	for _, c := range t.openCeremonies() {
		t.closeCeremony(c, OutcomeVoid, "a recovery began a new incarnation")
	}
	for _, m := range lost {
		t.dropMember(m, s.Reason)
	}
	action := ActionRecover
	if s.Restore != nil {
		action = ActionRestore
		t.restore(s.Restore, sharing)
	}
	t.audit(action, t.cluster().Name, s.Reason)
	return Value{Number: s.Incarnation}, nil
}

// lost are the members that a recovery goes on without.
func (t *txn) lost(s *RecoverStatement) ([]*Member, *Error) {
	var lost []*Member
	for i, id := range s.Lost {
		m, err := t.member(id)
		if err != nil {
			return nil, err
		}
		if id == s.Node || slices.Contains(s.Lost[:i], id) {
			return nil, refuse(BadRequest, "lost members: want distinct ones, without the node that recovers")
		}
		lost = append(lost, m)
	}
	return lost, nil
}
