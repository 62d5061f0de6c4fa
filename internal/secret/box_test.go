package secret_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// A box made by hand from its description opens, and one that Seal made is
// opened by hand.
func TestBoxIsAsDescribed(t *testing.T) {
	seal := bytes.Repeat([]byte{7}, 32)
	key, err := hkdf.Key(sha256.New, seal, nil, "keycustodian v1 share", 32)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	box := newBox(t, seal, "share")
	nonce := bytes.Repeat([]byte{9}, 24)
	plain, err := box.Open(aead.Seal(nonce, nonce, []byte("text"), []byte("node 1")), []byte("node 1"))
	if err != nil || string(plain) != "text" {
		t.Errorf("got %q, %v", plain, err)
	}
	sealed := box.Seal([]byte("text"), []byte("node 1"))
	if len(sealed) != 4+secret.BoxOverhead {
		t.Errorf("%d bytes", len(sealed))
	}
	plain, err = aead.Open(nil, sealed[:24], sealed[24:], []byte("node 1"))
	if err != nil || string(plain) != "text" {
		t.Errorf("by hand: %q, %v", plain, err)
	}
}

// Bytes that a release has written open for ever.
func TestBoxVector(t *testing.T) {
	const vector = "c64356335601bdfb592e078a2bcc7e60357e0e4461b8516fe42d82131a62ed385d5bbf84f39eab528c225c957cfa53d5bca41a8c8572fe"
	sealed, err := hex.DecodeString(vector)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := newBox(t, bytes.Repeat([]byte{7}, 32), "share").Open(sealed, []byte("node 1"))
	if err != nil || string(plain) != "a share at rest" {
		t.Errorf("got %q, %v", plain, err)
	}
}

func TestBoxRefuses(t *testing.T) {
	seal := bytes.Repeat([]byte{7}, 32)
	box := newBox(t, seal, "share")
	sealed := box.Seal([]byte("text"), []byte("node 1"))
	for bit := range 8 * len(sealed) {
		changed := bytes.Clone(sealed)
		changed[bit/8] ^= 1 << (bit % 8)
		if _, err := box.Open(changed, []byte("node 1")); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range sealed {
		if _, err := box.Open(sealed[:n], []byte("node 1")); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := box.Open(sealed, []byte("node 2")); !errors.Is(err, secret.ErrOpen) {
		t.Errorf("another context: %v", err)
	}
	if _, err := newBox(t, seal, "node key").Open(sealed, []byte("node 1")); !errors.Is(err, secret.ErrOpen) {
		t.Errorf("another purpose: %v", err)
	}
	if _, err := newBox(t, bytes.Repeat([]byte{8}, 32), "share").Open(sealed, []byte("node 1")); !errors.Is(err, secret.ErrOpen) {
		t.Errorf("another seal secret: %v", err)
	}
	if bytes.Equal(box.Seal(nil, nil), box.Seal(nil, nil)) {
		t.Error("two boxes of one text are alike")
	}
	wiped := secret.Random(32)
	wiped.Wipe()
	for name, b := range map[string]*secret.Bytes{"short": secret.New(31), "long": secret.New(33), "none": nil, "wiped": wiped} {
		if _, err := secret.NewBox(b, "share"); err == nil {
			t.Errorf("%s seal secret: taken", name)
		}
	}
}

func newBox(t *testing.T, seal []byte, purpose string) *secret.Box {
	t.Helper()
	box, err := secret.NewBox(secret.Take(bytes.Clone(seal)), purpose)
	if err != nil {
		t.Fatal(err)
	}
	return box
}
