package fsm_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/keycustodian/keycustodian/fsm"
)

// backedUp is a backup file of the lab's state, signed by a member.
func (l *lab) backedUp(by person) []byte {
	l.t.Helper()
	var file bytes.Buffer
	if err := l.machine.State().WriteBackup(&file, by.id, by.key, l.now); err != nil {
		l.t.Fatal(err)
	}
	return file.Bytes()
}

func TestABackupIsTheState(t *testing.T) {
	l := story(t)
	file := l.backedUp(l.nodes[0])
	b, err := fsm.ReadBackup(iotest.HalfReader(bytes.NewReader(file)))
	if err != nil {
		t.Fatal(err)
	}
	view := l.machine.State()
	row, _ := view.Cluster()
	if b.Machine.Digest() != view.Digest() || b.Index != view.Index() || b.Cluster != row.ID || b.Incarnation != row.Incarnation || b.Time != l.now || b.Node != l.nodes[0].id {
		t.Errorf("got %+v", b.BackupStatement)
	}
	if !b.HasSet(row.Operators) {
		t.Error("the operators in force are not in its chain")
	}
	foreign := row.Operators
	foreign.Cluster[0] ^= 1
	later := row.Operators
	later.Number++
	if b.HasSet(foreign) || b.HasSet(later) {
		t.Error("knows an operator set that it does not have")
	}
	if err := fsm.New().State().WriteBackup(&bytes.Buffer{}, l.nodes[0].id, l.nodes[0].key, 1); err == nil {
		t.Error("backed up a cluster that does not exist")
	}
}

// One changed bit, a cut anywhere, or anything behind the end is refused.
func TestADamagedBackupIsRefused(t *testing.T) {
	l := newLab(t)
	l.init(fsm.Policy{})
	good := l.backedUp(l.nodes[0])
	refused := func(what string, at int, bad []byte) {
		t.Helper()
		if _, err := fsm.ReadBackup(bytes.NewReader(bad)); !errors.Is(err, fsm.ErrBackup) && !errors.Is(err, fsm.ErrUnknownKind) {
			t.Fatalf("%s at %d of %d: %v", what, at, len(good), err)
		}
	}
	for i := range good {
		for _, flip := range []byte{0x01, 0x80} {
			bad := slices.Clone(good)
			bad[i] ^= flip
			refused("flipped bit", i, bad)
		}
		refused("cut", i, good[:i])
	}
	refused("trailing byte", len(good), append(slices.Clone(good), 0))
	if _, err := fsm.ReadBackup(bytes.NewReader(good)); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// A backup counts by the signature of a member that it names, and for operators
// that follow from the first ones.
func TestAForgedBackupIsRefused(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	write := func(as, key person) error {
		var file bytes.Buffer
		if err := l.machine.State().WriteBackup(&file, as.id, key.key, l.now); err != nil {
			t.Fatal(err)
		}
		_, err := fsm.ReadBackup(&file)
		return err
	}
	for name, err := range map[string]error{
		"another member's key":     write(a, b),
		"a stranger's key":         write(newPerson("stranger"), newPerson("stranger")),
		"an operator's key":        write(a, l.alice),
		"a member's ID, no member": write(newPerson("stranger"), a),
	} {
		if !errors.Is(err, fsm.ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := write(b, b); err != nil {
		t.Errorf("the good one: %v", err)
	}
	// The head of one backup before the state of another one.
	early := l.backedUp(a)
	l.self(a, l.keyCreate("later"))
	late := l.backedUp(a)
	if !bytes.Equal(late[:10], early[:10]) {
		t.Fatal("the heads differ in length")
	}
	at := bytes.Index(late, []byte("KCSTATE\n"))
	if _, err := fsm.ReadBackup(bytes.NewReader(append(slices.Clone(early[:at]), late[at:]...))); !errors.Is(err, fsm.ErrBackup) {
		t.Errorf("another state behind the head: %v", err)
	}
}
