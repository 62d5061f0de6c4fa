package fsm_test

import (
	"math"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// recoverBy builds a Recover with some operators' approvals, to be applied next.
func (l *lab) recoverBy(s fsm.RecoverStatement, operators ...person) *fsm.Recover {
	l.t.Helper()
	if s.State == (dkek.Hash{}) {
		s.State = l.machine.Digest()
	}
	if s.Time == 0 {
		s.Time = l.now + 1
	}
	statement, err := fsm.EncodeRecover(&s)
	if err != nil {
		l.t.Fatal(err)
	}
	b := &fsm.Recover{Statement: statement}
	for _, operator := range operators {
		signature, err := fsm.SignMessage(operator.key, fsm.DomainRecover, statement)
		if err != nil {
			l.t.Fatal(err)
		}
		b.Approvals = append(b.Approvals, fsm.Approval{Operator: operator.fingerprint(), Signature: signature})
	}
	return b
}

// recoverCommand has a node recover, approved by all operators.
func (l *lab) recoverCommand(by person, incarnation uint64, lost ...dkek.NodeID) *fsm.Recover {
	l.t.Helper()
	s := fsm.RecoverStatement{Cluster: cluster, Incarnation: incarnation, Node: by.id, Lost: lost, Reason: "burnt"}
	return l.recoverBy(s, l.alice, l.bob)
}

// Whoever came in by a token, a non-voter still, must not throw all others out.
func TestRecoverDoesNotSeizeTheCluster(t *testing.T) {
	l := ready(t, 3)
	a := l.nodes[0]
	thief := newPerson("thief")
	l.self(a, l.joinCommand(thief))
	s := fsm.RecoverStatement{Cluster: cluster, Incarnation: 2, Node: thief.id}
	for _, p := range l.nodes {
		s.Lost = append(s.Lost, p.id)
	}
	l.refused(fsm.NotAllowed, thief, thief, l.recoverBy(s))
	l.refused(fsm.NotAllowed, thief, thief, l.recoverBy(s, thief))
	l.refused(fsm.NotAllowed, l.alice, thief, l.recoverBy(s)) // nor by an operator's word through it
	l.refused(fsm.NotAllowed, thief, thief, l.recoverCommand(a, 2))
}

func TestRecoverWantsApprovalsOfItsExactBytes(t *testing.T) {
	l := ready(t, 2)
	l.govern(2, l.alice, l.bob)
	a, b := l.nodes[0], l.nodes[1]
	s := fsm.RecoverStatement{Cluster: cluster, Incarnation: 2, Node: a.id, Lost: []dkek.NodeID{b.id}}
	with := func(change func(*fsm.Recover)) func() fsm.Body {
		return func() fsm.Body {
			forged := l.recoverBy(s, l.alice, l.bob)
			change(forged)
			return forged
		}
	}
	signedFor := func(change func(*fsm.RecoverStatement)) func() fsm.Body {
		return func() fsm.Body {
			changed := s
			change(&changed)
			return l.recoverBy(changed, l.alice, l.bob)
		}
	}
	another := func(change func(*fsm.RecoverStatement)) []byte {
		changed := s
		change(&changed)
		return l.recoverBy(changed).Statement
	}
	foreign := s
	foreign.Cluster = dkek.ClusterID{9}
	stranger := newPerson("stranger")
	l.refusals([]refusal{
		{"one approval of two", fsm.NotAllowed, a, a, with(func(b *fsm.Recover) { b.Approvals = b.Approvals[:1] })},
		{"the same operator twice", fsm.NotAllowed, a, a, with(func(b *fsm.Recover) { b.Approvals[1] = b.Approvals[0] })},
		{"nobody lost was approved", fsm.NotAllowed, a, a, with(func(b *fsm.Recover) {
			b.Statement = another(func(s *fsm.RecoverStatement) { s.Lost = nil })
		})},
		{"another node was approved", fsm.NotAllowed, b, b, with(func(*fsm.Recover) {})},
		{"another state was approved", fsm.Conflict, a, a, signedFor(func(s *fsm.RecoverStatement) { s.State = dkek.Hash{1} })},
		{"another time was approved", fsm.Conflict, a, a, signedFor(func(s *fsm.RecoverStatement) { s.Time = l.now + 2 })},
		{"an incarnation that was", fsm.Conflict, a, a, signedFor(func(s *fsm.RecoverStatement) { s.Incarnation = 1 })},
		{"the last incarnation", fsm.Conflict, a, a, signedFor(func(s *fsm.RecoverStatement) { s.Incarnation = math.MaxUint64 })},
		{"another reason was approved", fsm.NotAllowed, a, a, with(func(b *fsm.Recover) {
			b.Statement = another(func(s *fsm.RecoverStatement) { s.Reason = "fire" })
		})},
		{"an approval of another domain", fsm.NotAllowed, a, a, with(func(b *fsm.Recover) {
			b.Approvals[0].Signature, _ = fsm.SignMessage(l.alice.key, fsm.DomainApproval, b.Statement)
		})},
		{"a stranger's approval", fsm.NotAllowed, a, a, func() fsm.Body { return l.recoverBy(s, l.alice, l.bob, stranger) }},
		{"another cluster", fsm.Conflict, a, a, func() fsm.Body { return l.recoverBy(foreign, l.alice, l.bob) }},
		{"malformed", fsm.BadRequest, a, a, with(func(b *fsm.Recover) { b.Statement = b.Statement[1:] })},
		{"by a stranger", fsm.NotAllowed, stranger, stranger, with(func(*fsm.Recover) {})},
	})
	good := l.recoverBy(s, l.alice, l.bob)
	row, _ := l.machine.State().Cluster()
	if got, err := fsm.VerifyRecover(row.Operators, good.Statement, good.Approvals); err != nil || got.Node != a.id {
		t.Errorf("the good one: %+v, %v", got, err)
	}
	l.must(l.alice, a, good)
	l.refused(fsm.Conflict, a, a, good) // approvals count once
}

func TestRecoverVoidsOpenCeremonies(t *testing.T) {
	l := ready(t, 2)
	a := l.nodes[0]
	open := l.open(fsm.CeremonyDrill, a)
	l.addRecipients(open, a)
	l.openApproved(open)
	l.refused(fsm.Conflict, a, a, l.recoverCommand(a, 1))
	l.refused(fsm.BadRequest, a, a, l.recoverCommand(a, 2, a.id))
	made := l.keyCreate("made-before")
	l.self(a, l.recoverCommand(a, 2))
	if c, _ := l.machine.State().Ceremony(open.Ceremony); c.Outcome != fsm.OutcomeVoid {
		t.Errorf("outcome %q", c.Outcome)
	}
	l.refused(fsm.Conflict, a, a, made)
	l.refused(fsm.Conflict, a, a, &fsm.Abort{Request: fsm.RequestID{9}, Incarnation: 1, Node: a.id})
}

// A leader whose clock was wrong once pulls the log's time ahead, where every
// token and ceremony has expired. A recovery is the way back.
func TestRecoverBringsTheTimeBack(t *testing.T) {
	l := ready(t, 2)
	a := l.nodes[0]
	ahead := l.as(a, a, &fsm.KeyLabels{Name: "k"})
	ahead.Time = math.MaxInt64
	l.apply(ahead) // refused: the stamp counts all the same
	drill := func() *fsm.CeremonyOpen { return l.openCommand(l.drillFor(a), a) }
	l.refused(fsm.Expired, a, a, drill())
	l.refused(fsm.Conflict, a, a, l.recoverCommand(a, 1))
	l.refused(fsm.Expired, a, a, drill()) // a refused one brings nothing back
	l.self(a, l.recoverCommand(a, 2))
	if now := l.machine.State().Time(); now != l.now {
		t.Fatalf("the time is %d, want %d", now, l.now)
	}
	l.self(a, drill())
}
