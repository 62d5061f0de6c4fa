package keyblob

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// These are inside the package for one reason: the round count is the format's
// and no caller's, and a few rounds show everything but the count.

// Files of another program, with its own count of rounds, open.
func TestOpenForeignShare(t *testing.T) {
	password, share := "Straße 42", secret.Random(DKEKSize)
	var text string
	share.With(func(p []byte) { text = hex.EncodeToString(p) })
	for _, rounds := range []int{1, 2, 1000} {
		file := pythonShare(t, password, "0102030405060708", text, rounds)
		opened, err := openShare(t.Context(), secret.Take([]byte(password)), file, nil, rounds)
		if err != nil {
			t.Fatalf("%d rounds: %v", rounds, err)
		}
		if !opened.Equal(share) {
			t.Errorf("%d rounds: another share", rounds)
		}
	}
}

// A file that testdata/blob.py made once with the format's ten million rounds,
// from the bytes 00 to 1f.
func TestOpenShareInFull(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	file, err := hex.DecodeString("53616c7465645f5f01020304050607082f15423e1f23eadae79222e54d238123c415547f3452d4b05a8d4c5b5509f4fb2442c03a29e87444073666fca21564b1")
	if err != nil {
		t.Fatal(err)
	}
	steps, last, total := 0, 0, 0
	share, err := OpenShare(t.Context(), secret.Take([]byte("Straße 42")), file, func(done, of int) { steps++; last, total = done, of })
	if err != nil {
		t.Fatal(err)
	}
	want := secret.New(DKEKSize)
	want.With(func(p []byte) {
		for i := range p {
			p[i] = byte(i)
		}
	})
	if !share.Equal(want) {
		t.Error("another share")
	}
	if total != 30_000_000 || last != total || steps < 100 {
		t.Errorf("progress ended at %d of %d after %d steps", last, total, steps)
	}
}

// The openssl command itself, which only knows a count of one.
func TestOpenSSLOpensShare(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("needs openssl: make deps")
	}
	share := secret.Random(DKEKSize)
	file, err := sealShare(t.Context(), secret.Take([]byte("pa55word")), share, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("openssl", "enc", "-d", "-aes-256-cbc", "-md", "md5", "-pass", "pass:pa55word")
	command.Stdin = bytes.NewReader(file)
	plain, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !secret.Take(plain).Equal(share) {
		t.Error("another share")
	}
}

func TestShareRefuses(t *testing.T) {
	ctx, password, share := t.Context(), secret.Take([]byte("right")), secret.Random(DKEKSize)
	file, err := sealShare(ctx, password, share, nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(file) != ShareFile {
		t.Errorf("%d bytes", len(file))
	}
	if _, err := openShare(ctx, secret.Take([]byte("wrong")), file, nil, 2); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("wrong password: %v", err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "short": file[:63], "long": append(bytes.Clone(file), 0), "no magic": append([]byte("salted__"), file[8:]...),
	} {
		if _, err := openShare(ctx, password, bad, nil, 2); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A flipped bit in the last block but one flips its bit of the padding.
	changed := bytes.Clone(file)
	changed[33] ^= 1
	if opened, err := openShare(ctx, password, changed, nil, 2); err == nil && opened.Equal(share) {
		t.Error("a changed file gave the share")
	}
	changed = bytes.Clone(file)
	changed[50] ^= 1
	if _, err := openShare(ctx, password, changed, nil, 2); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("changed padding: %v", err)
	}
	if _, err := sealShare(ctx, password, secret.Random(31), nil, 2); err == nil {
		t.Error("sealed 31 bytes")
	}
	if _, err := sealShare(ctx, new(secret.Bytes), share, nil, 2); err == nil {
		t.Error("sealed under an empty password")
	}
}

// A derivation of seconds is given up within one report of progress.
func TestShareIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reached, rounds := 0, 0
	_, err := SealShare(ctx, secret.Take([]byte("pa55word")), secret.Random(DKEKSize), func(done, total int) { reached, rounds = done, total; cancel() })
	if !errors.Is(err, context.Canceled) || reached != progressEvery || rounds != 30_000_000 {
		t.Errorf("got %v at %d rounds of %d", err, reached, rounds)
	}
}

func FuzzOpenShare(f *testing.F) {
	file, err := sealShare(f.Context(), secret.Take([]byte("p")), secret.Random(DKEKSize), nil, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file, []byte("p"))
	f.Fuzz(func(t *testing.T, file, password []byte) {
		opened, err := openShare(t.Context(), secret.Take(bytes.Clone(password)), file, nil, 1)
		if err == nil && opened.Len() != DKEKSize {
			t.Errorf("a share of %d bytes", opened.Len())
		}
	})
}

func pythonShare(t *testing.T, password, salt, share string, rounds int) []byte {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("needs python3: make deps")
	}
	input, err := json.Marshal([]map[string]any{{
		"op": "share", "password": hex.EncodeToString([]byte(password)), "salt": salt, "share": share, "rounds": rounds,
	}})
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("python3", "testdata/blob.py")
	command.Stdin, command.Stderr = bytes.NewReader(input), os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []struct {
		File string `json:"file"`
	}
	if err := json.Unmarshal(output, &answers); err != nil {
		t.Fatal(err)
	}
	file, err := hex.DecodeString(answers[0].File)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
