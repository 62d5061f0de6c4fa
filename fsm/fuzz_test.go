package fsm_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
)

// FuzzParseOpen: what nodes hand to nodectl to be signed. Whatever is read is
// exactly what was written, so that what is shown is what is signed.
func FuzzParseOpen(f *testing.F) {
	l := ready(f, 3)
	for _, kind := range []fsm.CeremonyKind{fsm.CeremonyCreate, fsm.CeremonyProvision, fsm.CeremonyDrill} {
		o := l.open(kind, l.nodes[0])
		l.addRecipients(o, l.nodes...)
		encoded, err := fsm.EncodeOpen(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := fsm.ParseOpen(data)
		if err != nil {
			return
		}
		again, err := fsm.EncodeOpen(o)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("read %x, would write %x: %v", data, again, err)
		}
		for i := range o.Recipients {
			o.Recipients[i].Open(fsm.DomainRecipient, nil, new(fsm.RecipientStatement))
		}
	})
}

// FuzzReadBackup: a file that is read is the one that was written, by a member,
// and what is refused says that it is none.
func FuzzReadBackup(f *testing.F) {
	small := newLab(f)
	small.init(fsm.Policy{})
	good := small.backedUp(small.nodes[0])
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("KCBACKUP\x00\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, file []byte) {
		b, err := fsm.ReadBackup(bytes.NewReader(file))
		if err != nil {
			if !errors.Is(err, fsm.ErrBackup) && !errors.Is(err, fsm.ErrUnknownKind) {
				t.Fatalf("%x: %v", file, err)
			}
			return
		}
		if b.Machine.Digest() != small.machine.Digest() || !bytes.HasSuffix(file, written(t, b.Machine)) {
			t.Fatalf("a state that nobody signed: %x", file)
		}
	})
}

// FuzzStatements: whatever is read as a statement is exactly what was signed, for
// each kind of it. One without a signature of the key that counts is not believed.
func FuzzStatements(f *testing.F) {
	l := newLab(f)
	l.init(fsm.Policy{})
	statements := []any{
		new(fsm.BackupStatement), new(fsm.CloseStatement), new(fsm.DeviceStatement), new(fsm.RotateStatement), new(fsm.JoinStatement),
		new(fsm.RecipientStatement), new(fsm.ReportStatement), new(fsm.RecoverStatement), new(fsm.DealingStatement), new(fsm.AckStatement),
	}
	signer := l.nodes[0].key
	for i, s := range statements {
		signed, err := fsm.SignStatement(signer, fsm.DomainClose, s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, signed.Statement)
	}
	word := &fsm.DeviceStatement{
		Cluster: cluster, Incarnation: 1, Node: l.nodes[0].id, DeviceKind: "soft", DeviceSerial: "A", Act: fsm.ActWipe, Expires: 1, Request: fsm.RequestID{1},
	}
	signed, err := fsm.SignStatement(signer, fsm.DomainDevice, word)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(2, signed.Statement)
	set, _ := l.machine.State().Cluster()
	f.Fuzz(func(t *testing.T, kind int, data []byte) {
		if kind < 0 || kind >= len(statements) {
			return
		}
		s := reflect.New(reflect.TypeOf(statements[kind]).Elem()).Interface()
		if (fsm.Signed{Statement: data}).Peek(s) != nil {
			return
		}
		again, err := fsm.SignStatement(signer, fsm.DomainClose, s)
		if err != nil || !bytes.Equal(again.Statement, data) {
			t.Fatalf("%T: read %x, would write %x: %v", s, data, again.Statement, err)
		}
		by := fsm.Approval{Operator: set.Operators.Operators[0].Fingerprint(), Signature: again.Signature}
		if _, err := fsm.VerifyDevice(set.Operators, data, by); err == nil {
			t.Fatalf("%T: a word that no operator gave: %x", s, data)
		}
	})
}
