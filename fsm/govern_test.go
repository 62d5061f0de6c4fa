package fsm_test

import (
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
)

func TestGovernChain(t *testing.T) {
	l := ready(t, 1)
	a, carol := l.nodes[0], newPerson("carol")
	pinned := func() fsm.OperatorSet { row, _ := l.machine.State().Cluster(); return row.Operators }
	first := pinned()
	waiting := l.open(fsm.CeremonyDrill, a)
	l.addRecipients(waiting, a)
	l.self(a, l.openCommand(waiting, a))
	l.govern(2, l.alice, l.bob, carol)
	if l.outcome(waiting) != fsm.OutcomeVoid {
		t.Errorf("a ceremony under the former operators is %q", l.outcome(waiting))
	}
	second := l.open(fsm.CeremonyGovern, a)
	second.Proposal = &fsm.Proposal{Operators: operators(carol), Approvals: 1, Policy: fsm.Policy{Copies: 2}}
	l.openApproved(second)
	if pinned().Number != 2 {
		t.Fatal("one of two approvals was enough")
	}
	l.approve(second, l.alice) // the same operator again
	if pinned().Number != 2 {
		t.Fatal("one operator's approval counted twice")
	}
	l.must(carol, a, &fsm.CeremonyApprove{Ceremony: second.Ceremony, Approval: l.approval(second, carol, fsm.DomainApproval)})
	row, _ := l.machine.State().Cluster()
	if row.Operators.Number != 3 || row.Policy.Copies != 2 {
		t.Fatalf("cluster %+v", row)
	}
	l.refused(fsm.NotAllowed, l.alice, a, &fsm.TokenRemove{}) // no operator any more

	set := first
	for record := range l.machine.State().Governs(2) {
		next, err := fsm.VerifyGovern(set, record)
		if err != nil || next.Digest() != record.Digest {
			t.Fatalf("record %d: %v", record.Number, err)
		}
		forged := *record
		forged.Approvals = forged.Approvals[:len(forged.Approvals)-1]
		if _, err := fsm.VerifyGovern(set, &forged); err == nil {
			t.Errorf("record %d verifies with an approval too few", record.Number)
		}
		forged = *record
		forged.Approvals = slices.Repeat(record.Approvals[:1], len(record.Approvals))
		if _, err := fsm.VerifyGovern(set, &forged); err == nil && len(record.Approvals) > 1 {
			t.Errorf("record %d verifies with one approval twice", record.Number)
		}
		if _, err := fsm.VerifyGovern(next, record); err == nil {
			t.Errorf("record %d verifies under the set that it makes", record.Number)
		}
		set = next
	}
	if set.Digest() != row.Operators.Digest() {
		t.Error("the chain ends elsewhere")
	}
}

// Whoever has an operator's word, a lying member says so of itself, could give
// the key of a proposed operator to a client and so keep that operator out.
func TestGovernWinsOverAClient(t *testing.T) {
	l := ready(t, 2)
	a, carol := l.nodes[0], newPerson("carol")
	block := &fsm.ClientAdd{Name: "block", Fingerprint: carol.fingerprint(), Role: fsm.RoleAuditor}
	l.must(l.alice, a, block) // before it is opened
	o := l.open(fsm.CeremonyGovern, a)
	o.Proposal = &fsm.Proposal{Operators: operators(l.alice, carol), Approvals: 1}
	l.self(a, l.openCommand(o, a))
	if _, ok := l.machine.State().Client(carol.fingerprint()); !ok {
		t.Error("the client was removed before anybody approved")
	}
	l.must(l.alice, a, &fsm.ClientRemove{Fingerprint: carol.fingerprint()})
	l.must(l.alice, a, block) // between opening and approval
	l.approve(o, l.alice)
	view := l.machine.State()
	if _, ok := view.Operator(carol.fingerprint()); !ok {
		t.Fatal("a client's row kept an operator out")
	}
	if _, ok := view.Client(carol.fingerprint()); ok {
		t.Error("the client is still there")
	}
	audited := false
	for r := range view.Audit(0) {
		audited = audited || r.Action == "client remove" && r.Target == "block" && r.Detail == "its key is operator carol's"
	}
	if !audited {
		t.Error("the audit does not tell why the client went")
	}
	// A member's key never becomes an operator's: its row stays.
	b := l.nodes[1]
	bad := l.open(fsm.CeremonyGovern, a)
	bad.Proposal = &fsm.Proposal{Operators: operators(l.alice, b), Approvals: 1}
	l.refused(fsm.Exists, a, a, l.openCommand(bad, a))
}
