package soft

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keycustodian/keycustodian/hsm"
)

// The file is read here from docs/format.md alone, "Software device file",
// without the product's reader.
func TestFileIsAsDocumented(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d, err := open(Options{Serial: "KCS1"}, testBox, disk, false)
	ok(t, err)
	ok(t, d.Initialise(ctx, hsm.InitOptions{Label: "lab", PIN: pin(), SOPIN: soPIN(), Shares: 2}))
	ok(t, d.Login(ctx, pin()))
	share := bytes.Repeat([]byte{0xA5}, 32)
	other := make([]byte, 32)
	for _, s := range [][]byte{bytes.Clone(share), other} {
		_, err := d.ImportShare(ctx, hsm.NewSecret(s))
		ok(t, err)
	}
	object, err := d.Generate(ctx, 258, hsm.Ed25519, hsm.Attributes{Label: "hi", Tag: []byte{1, 2, 3}})
	ok(t, err)
	ok(t, d.Delete(ctx, 258))
	ok(t, d.Close())
	file := disk.image()

	key, err := hkdf.Key(sha256.New, bytes.Repeat([]byte{7}, 32), nil, "keycustodian v1 soft device", 32)
	ok(t, err)
	aead, err := chacha20poly1305.NewX(key)
	ok(t, err)
	if !bytes.Equal(file[:8], []byte("KCSOFT\x00\x01")) {
		t.Fatalf("magic %x", file[:8])
	}
	header, rest := file[:24], file[24:]
	var records [][]byte
	for number := uint64(0); len(rest) > 0; number++ {
		if got := binary.BigEndian.Uint64(rest); got != number {
			t.Fatalf("record %d has number %d", number, got)
		}
		n := 12 + binary.BigEndian.Uint32(rest[8:])
		sealed := rest[12:n]
		plain, err := aead.Open(nil, sealed[:24], sealed[24:], append(bytes.Clone(header), rest[:8]...))
		ok(t, err)
		if mark := binary.BigEndian.Uint64(plain); mark > uint64(len(file)-len(rest)) {
			t.Errorf("record %d marks %d as durable, which is after itself", number, mark)
		}
		records, rest = append(records, plain[8:]), rest[n:]
	}
	last := records[len(records)-1]
	if !bytes.Equal(last, []byte{4}) {
		t.Errorf("the last record is %x, no mark", last)
	}

	gone := records[len(records)-2]
	if !bytes.Equal(gone, []byte{3, 0, 0, 1, 2}) {
		t.Errorf("delete is %x", gone)
	}
	made := records[len(records)-3]
	public := object.Public.(ed25519.PublicKey)
	head := append([]byte{2, 0, 0, 1, 2, 10, 2, 'h', 'i', 3, 1, 2, 3, 0, 32}, public...)
	if !bytes.HasPrefix(made, head) || !ed25519.NewKeyFromSeed(made[len(head):]).Public().(ed25519.PublicKey).Equal(public) {
		t.Errorf("key is %x", made)
	}
	state := records[len(records)-4]
	salt := state[16:32]
	check := func(kind byte, pin string) []byte {
		mac := hmac.New(sha256.New, salt)
		mac.Write(append([]byte{kind}, pin...))
		return mac.Sum(nil)
	}
	wantState := append([]byte{1, 4, 'K', 'C', 'S', '1', 3, 'l', 'a', 'b', 1, 3, 3, 15, 2, 0}, salt...)
	wantState = append(wantState, check(0x55, "648219")...)
	wantState = append(wantState, check(0x53, "57621880")...)
	wantState = append(wantState, share...)
	if !bytes.Equal(state, wantState) {
		t.Errorf("state is %x", state)
	}
}
