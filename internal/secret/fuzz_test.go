package secret_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// FuzzBox: nothing opens but what was sealed, in the context that it was sealed in.
func FuzzBox(f *testing.F) {
	box, err := secret.NewBox(secret.Take(bytes.Repeat([]byte{7}, secret.KeySize)), "test")
	if err != nil {
		f.Fatal(err)
	}
	good, err := hex.DecodeString("097c4f2f4f2d63f44a76a752022e016792680de537bbc684452b2587d3b99ebb0ed7808042ec184c1dce27c79f") // "plain" in "context"
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, []byte("context"))
	f.Add(good, []byte("another"))
	f.Add(good[:secret.BoxOverhead], []byte("context"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, sealed, context []byte) {
		plain, err := box.Open(sealed, context)
		if same := bytes.Equal(sealed, good) && string(context) == "context"; (err == nil) != same {
			t.Fatalf("%x in %q: %q, %v", sealed, context, plain, err)
		}
		again := box.Seal(sealed, context)
		if len(again) != len(sealed)+secret.BoxOverhead || bytes.Equal(again, box.Seal(sealed, context)) {
			t.Fatalf("%x sealed twice is the same, or has another length", sealed)
		}
		if back, err := box.Open(again, context); err != nil || !bytes.Equal(back, sealed) {
			t.Fatalf("%x came back as %x: %v", sealed, back, err)
		}
	})
}
