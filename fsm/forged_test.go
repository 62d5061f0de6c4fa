package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// A recipient entry names a node and its fingerprint, but is signed by another
// key that it carries itself: nobody's share may be sealed to it.
func TestRecipientUnderAnotherKeyIsForged(t *testing.T) {
	l := ready(t, 2)
	a, b, evil := l.nodes[0], l.nodes[1], newPerson("evil")
	o := l.drill()
	forged := l.recipient(o, b)
	forged.Public = evil.public
	o.Recipients = []fsm.Signed{l.sign(evil, fsm.DomainRecipient, forged)}
	l.refused(fsm.NotAllowed, a, a, l.openCommand(o, a))
	if _, err := o.Recipient(b.id); err == nil {
		t.Error("the forged entry verifies")
	}
}

func TestApprovalsHoldForOneSetOnly(t *testing.T) {
	l := ready(t, 1)
	o := l.drillFor(l.nodes[0])
	encoded, err := fsm.EncodeOpen(o)
	if err != nil {
		t.Fatal(err)
	}
	row, _ := l.machine.State().Cluster()
	approvals := []fsm.Approval{l.approval(o, l.alice, fsm.DomainApproval)}
	if err := fsm.VerifyApprovals(row.Operators, encoded, approvals); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*fsm.OperatorSet){
		"another number":  func(s *fsm.OperatorSet) { s.Number++ },
		"another cluster": func(s *fsm.OperatorSet) { s.Cluster[0]++ },
		"fewer operators": func(s *fsm.OperatorSet) { s.Operators = operators(l.alice) },
		"more approvals":  func(s *fsm.OperatorSet) { s.Approvals++ },
	} {
		set := row.Operators
		change(&set)
		if fsm.VerifyApprovals(set, encoded, approvals) == nil {
			t.Errorf("%s: approved", name)
		}
	}
}

// Everyone is in a quorum, but one node's own device has not taken part.
func TestCreateWantsEveryDevice(t *testing.T) {
	l := newLab(t)
	a := l.init(fsm.Policy{})
	b, c := l.join("node-b"), l.join("node-c")
	o := l.open(fsm.CeremonyCreate, a)
	o.Plan = l.plan(nil, 2, a, b, c)
	l.addRecipients(o, a, b, c)
	l.openApproved(o)
	l.deal(o)
	s, _ := l.machine.State().Sharing(1, 1)
	quorums := dkek.ProofQuorums(o.Plan)
	l.self(a, l.proof(o, s, a, quorums[0], labKCV))
	l.self(b, l.proof(o, s, b, quorums[1], labKCV))
	l.refused(fsm.WrongState, a, a, l.close(o, a, fsm.OutcomeSuccess))
	l.self(c, l.proof(o, s, c, quorums[0], labKCV))
	l.self(a, l.close(o, a, fsm.OutcomeSuccess))
	proven, _ := l.machine.State().Proven()
	whole := proven.Sharing()
	public := func(id dkek.NodeID) [][]byte { return [][]byte{l.person(id).public} }
	if fsm.VerifyReports(&whole, dkek.KCV{9}, proven.Reports, public) == nil {
		t.Error("the reports prove another check value")
	}
}

func TestSuccessorWithAnotherThreshold(t *testing.T) {
	l := ready(t, 3)
	a := l.nodes[0]
	source, _ := l.machine.State().Proven()
	provision := l.open(fsm.CeremonyProvision, a)
	provision.Successor = &fsm.Successor{Holders: l.plan(source, 2, l.nodes...).Holders, Threshold: 3}
	l.addRecipients(provision, a)
	l.openApproved(provision)
	row, _ := l.machine.State().Ceremony(provision.Ceremony)
	o := l.reshareOpen(2)
	o.Cites, o.Expires = &fsm.Cite{Ceremony: provision.Ceremony, Hash: row.Hash}, provision.Expires
	l.addRecipients(o, l.nodes...)
	l.refused(fsm.NotAllowed, a, a, l.openCommand(o, a))
}

func TestRotationOfAnotherCluster(t *testing.T) {
	l := ready(t, 2)
	b, next := l.nodes[1], newPerson("next")
	signed := l.sign(b, fsm.DomainRotate, &fsm.RotateStatement{Cluster: dkek.ClusterID{9}, Node: b.id, Old: b.fingerprint(), Public: next.public})
	possession, err := fsm.SignMessage(next.key, fsm.DomainRotate, signed.Statement)
	if err != nil {
		t.Fatal(err)
	}
	l.refused(fsm.NotAllowed, b, b, &fsm.MemberRotateKey{Signed: signed, Possession: possession})
}

// A proposal that was under way while its object was aborted and deleted comes
// last: it must not make a key that no device holds.
func TestProposalAfterItsAbortWasConfirmed(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	late := l.as(a, a, l.keyCreate("late"))
	l.self(a, &fsm.Abort{Request: late.Request, Incarnation: 1, Index: l.index, Node: a.id})
	l.self(a, &fsm.AbortConfirm{Request: late.Request, Node: a.id})
	if r := l.apply(late); r.Err == nil || r.Err.Code != fsm.Conflict {
		t.Fatalf("got %+v", r)
	}
}

// A snapshot whose checksum is right and whose header claims another digest.
func TestSnapshotWithAnotherDigest(t *testing.T) {
	l := ready(t, 1)
	snapshot := written(t, l.machine)
	digest := l.machine.Digest()
	at := bytes.Index(snapshot, digest[:])
	if at < 0 {
		t.Fatal("no digest in the header")
	}
	bad := slices.Clone(snapshot[:len(snapshot)-sha256.Size])
	bad[at]++
	trailer := sha256.Sum256(bad)
	if err := fsm.New().Restore(reader(append(bad, trailer[:]...))); err == nil {
		t.Error("restored")
	}
}
