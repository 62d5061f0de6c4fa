package node

import (
	"encoding/json"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// FuzzResealNote: a note of a reseal is 32 bytes that the new secret opens, or
// keeps the node sealed.
func FuzzResealNote(f *testing.F) {
	n := recordNode(f)
	present, next := n.seal.Load(), secret.Random(secret.KeySize)
	former, err := n.beginReseal(present, next)
	if err != nil || !former.Equal(present) {
		f.Fatal(err)
	}
	seed, _ := n.files.read(resealFile)
	f.Add(seed)
	f.Add([]byte(resealMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		n.files.write(resealFile, content)
		if former, err := formerSeal(n.files, next); err == nil && !former.Equal(present) {
			t.Error("a secret that nobody sealed")
		}
	})
}

func FuzzRejected(f *testing.F) {
	seed, _ := json.Marshal(rejectedRecord{Format: 1, SealedKey: []byte{1}, Marks: []pinMark{{Kind: userPINKind}}})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, content []byte) {
		if record, err := parseRejected(content); err == nil && record.Format != 1 {
			t.Error("another format is read")
		}
	})
}
