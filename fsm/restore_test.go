package fsm_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// reshared has a sharing come into force, and returns it.
func (l *lab) reshared() *fsm.SharingRow {
	l.t.Helper()
	o := l.reshareOpen(2)
	l.addRecipients(o, l.nodes...)
	l.openApproved(o)
	l.deal(o)
	l.prove(o)
	l.self(l.nodes[0], l.close(o, l.nodes[0], fsm.OutcomeSuccess))
	now, _ := l.machine.State().Proven()
	if now.Plan.Hash() != o.Plan.Hash() {
		l.t.Fatalf("sharing %+v is in force", now.Plan)
	}
	return now
}

// back puts the lab to an earlier state, as a restore begins.
func (l *lab) back(file []byte) {
	l.t.Helper()
	b, err := fsm.ReadBackup(bytes.NewReader(file))
	if err != nil {
		l.t.Fatal(err)
	}
	l.machine = b.Machine
}

// What counted once does not count again after a restore: tokens, epochs.
func TestRestoreUsesNothingTwice(t *testing.T) {
	l := ready(t, 3)
	a := l.nodes[0]
	token := &fsm.TokenCreate{Fingerprint: dkek.Fingerprint{7}, Name: "t", Expires: l.now + time.Hour.Milliseconds()}
	l.must(l.alice, a, token)
	file := l.backedUp(a)
	proven, _ := l.machine.State().Proven()
	l.reshared()
	l.back(file)
	s := fsm.RecoverStatement{Cluster: cluster, Incarnation: 2, Node: a.id, Restore: &fsm.RestoreTerms{Loses: 1, Epoch: 5}}
	l.self(a, l.recoverBy(s, l.alice, l.bob))
	if _, ok := l.machine.State().Token(token.Fingerprint); ok {
		t.Error("the token counts again")
	}
	row, _ := l.machine.State().Cluster()
	if row.Incarnation != 2 || row.Proven != proven.Ref() {
		t.Errorf("%+v", row)
	}
	again := l.reshareOpen(2)
	again.Plan.Epoch = 2 // it was dealt, and the state does not know
	l.addRecipients(again, l.nodes...)
	l.refused(fsm.Conflict, a, a, l.openCommand(again, a))
	again.Plan.Epoch = 6
	again.Recipients = nil
	l.addRecipients(again, l.nodes...)
	l.openApproved(again)
}

// Where shares were dealt anew after the backup, the later sharing goes on, at the
// operators' word for its hash.
func TestRestoreGoesOnWithTheLaterSharing(t *testing.T) {
	l := ready(t, 3)
	a := l.nodes[0]
	file := l.backedUp(a)
	before, _ := l.machine.State().Proven()
	row := l.reshared()
	later := row.Sharing()
	other := later
	other.Plan.KCV[0] ^= 1
	l.back(file)
	build := func(sharing *dkek.Sharing, hash dkek.Hash, epoch uint64) *fsm.Recover {
		s := fsm.RecoverStatement{Cluster: cluster, Incarnation: 2, Node: a.id, Restore: &fsm.RestoreTerms{Epoch: epoch, Sharing: &hash}}
		b := l.recoverBy(s, l.alice, l.bob)
		if sharing != nil {
			var err error
			if b.Sharing, err = sharing.Encode(); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	old := before.Sharing()
	unasked := l.recoverCommand(a, 2)
	unasked.Sharing = []byte{1}
	l.refusals([]refusal{
		{"no sharing", fsm.BadRequest, a, a, func() fsm.Body { return build(nil, later.Hash(), 2) }},
		{"another sharing", fsm.Conflict, a, a, func() fsm.Body { return build(&later, dkek.Hash{1}, 2) }},
		{"of another DKEK", fsm.Conflict, a, a, func() fsm.Body { return build(&other, other.Hash(), 2) }},
		{"the one in force", fsm.Conflict, a, a, func() fsm.Body { return build(&old, old.Hash(), 2) }},
		{"above the epochs that are used", fsm.Conflict, a, a, func() fsm.Body { return build(&later, later.Hash(), 1) }},
		{"the last epoch", fsm.BadRequest, a, a, func() fsm.Body { return build(&later, later.Hash(), 1<<63) }},
		{"that nobody approved", fsm.BadRequest, a, a, func() fsm.Body { return unasked }},
	})
	l.self(a, build(&later, later.Hash(), 2))
	view := l.machine.State()
	if now, _ := view.Proven(); now.Hash != row.Hash || now.Status != fsm.SharingProven || now.KCV != before.KCV {
		t.Errorf("in force is %+v", now)
	}
	if gone, _ := view.Sharing(before.Plan.Epoch, before.Plan.Attempt); gone.Status != fsm.SharingSuperseded {
		t.Errorf("the one before is %s", gone.Status)
	}
	var snapshot bytes.Buffer
	if _, err := view.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := fsm.New().Restore(&snapshot); err != nil {
		t.Error(err)
	}
	l.reshared() // and it can be dealt on from
}
