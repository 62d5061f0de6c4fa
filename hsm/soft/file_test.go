package soft_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

func TestNewFileIsABlankDeviceWithItsOwnSerial(t *testing.T) {
	options := soft.Options{Path: filepath.Join(t.TempDir(), "device"), Seal: newSeal()}
	device := mustOpen(t, options)
	first, err := device.Info(t.Context())
	if err != nil || first.State != hsm.Blank || len(first.Serial) != 13 || !strings.HasPrefix(first.Serial, "KCS") {
		t.Fatalf("%+v, %v", first, err)
	}
	if info, err := os.Stat(options.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	// What an interrupted rewrite leaves beside is ignored.
	if err := os.WriteFile(options.Path+".new", []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	device = mustOpen(t, options)
	if again, err := device.Info(t.Context()); err != nil || again.Serial != first.Serial {
		t.Errorf("reopened as %q, was %q (%v)", again.Serial, first.Serial, err)
	}
	device.Close()
	os.Remove(options.Path)
	device = mustOpen(t, options)
	if fresh, err := device.Info(t.Context()); err != nil || fresh.Serial == first.Serial {
		t.Errorf("a new device has the serial of a deleted one (%v)", err)
	}
}

func TestOneProcessOnly(t *testing.T) {
	options := soft.Options{Path: filepath.Join(t.TempDir(), "device"), Seal: newSeal()}
	device := mustOpen(t, options)
	if err := prepare(device); err != nil { // replaces the file: the lock holds on
		t.Fatal(err)
	}
	if _, err := soft.Open(options); !errors.Is(err, hsm.ErrInUse) {
		t.Errorf("a second open: %v", err)
	}
	device.Close()
	mustOpen(t, options)
}

func TestOpenRefuses(t *testing.T) {
	folder := t.TempDir()
	options := soft.Options{Path: filepath.Join(folder, "device"), Seal: newSeal()}
	device := mustOpen(t, options)
	device.Close()
	wrong := hsm.NewSecret(bytes.Repeat([]byte{1}, 32))
	for what, o := range map[string]soft.Options{
		"another seal secret":         {Path: options.Path, Seal: wrong},
		"a folder that is not there":  {Path: filepath.Join(folder, "none", "device"), Seal: newSeal()},
		"a folder in place of a file": {Path: folder, Seal: newSeal()},
		"no seal secret":              {Path: options.Path},
		"a short seal secret":         {Path: options.Path, Seal: hsm.NewSecret(make([]byte, 31))},
		"no path":                     {Seal: newSeal()},
		"too many slots":              {Path: options.Path, Seal: newSeal(), Slots: soft.MaxSlots + 1},
		"a serial with a space":       {Path: options.Path, Seal: newSeal(), Serial: "a b"},
	} {
		device, err := soft.Open(o)
		if err == nil {
			device.Close()
			t.Errorf("%s: opens", what)
		} else if what == "another seal secret" && !strings.Contains(err.Error(), "wrong seal secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustOpen(t, options) // and none of it hurt
}

// The file shows nothing of what it holds: not the DKEK, not a key, not a PIN,
// not a label.
func TestFileShowsNothing(t *testing.T) {
	ctx := t.Context()
	options := soft.Options{Path: filepath.Join(t.TempDir(), "device"), Seal: newSeal()}
	device := mustOpen(t, options)
	if err := prepare(device); err != nil {
		t.Fatal(err)
	}
	label := "a label to look for"
	if _, err := device.Generate(ctx, 1, hsm.AES256, hsm.Attributes{Label: label}); err != nil {
		t.Fatal(err)
	}
	serial, _ := device.Info(ctx)
	device.Close()
	content, err := os.ReadFile(options.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"a DKEK for tests, thirty-two byt", "648219", label, serial.Serial} {
		if bytes.Contains(content, []byte(secret)) || bytes.Contains(content, []byte(hex.EncodeToString([]byte(secret)))) {
			t.Errorf("%q lies in the file", secret)
		}
	}
}

// Keys beyond a capacity that was made smaller stay usable.
func TestFewerSlotsThanKeys(t *testing.T) {
	ctx := t.Context()
	options := soft.Options{Path: filepath.Join(t.TempDir(), "device"), Seal: newSeal()}
	device := mustOpen(t, options)
	if err := prepare(device); err != nil {
		t.Fatal(err)
	}
	for _, slot := range []hsm.Slot{100, 200} {
		if _, err := device.Generate(ctx, slot, hsm.AES128, hsm.Attributes{}); err != nil {
			t.Fatal(err)
		}
	}
	device.Close()
	options.Slots = 2
	device = mustOpen(t, options)
	if err := device.Login(ctx, pin()); err != nil {
		t.Fatal(err)
	}
	if _, err := device.CMAC(ctx, 200, nil); err != nil {
		t.Errorf("a key in a higher slot: %v", err)
	}
	if _, err := device.Generate(ctx, 1, hsm.AES128, hsm.Attributes{}); !errors.Is(err, hsm.ErrFull) {
		t.Errorf("a third key where two fit: %v", err)
	}
	if err := device.Delete(ctx, 200); err != nil {
		t.Error(err)
	}
	if _, err := device.Generate(ctx, 1, hsm.AES128, hsm.Attributes{}); err != nil {
		t.Error(err)
	}
}

// In a synctest bubble a device needs no clock and leaves no goroutine.
func TestMemoryDeviceInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := soft.NewMemory(soft.Options{Serial: "NODE1"})
		if err := prepare(device); err != nil {
			t.Fatal(err)
		}
		if _, err := device.Generate(t.Context(), 1, hsm.ECDSAP256, hsm.Attributes{}); err != nil {
			t.Fatal(err)
		}
		if err := device.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if info, err := device.Info(t.Context()); err != nil || info.Serial != "NODE1" {
			t.Errorf("%+v, %v", info, err)
		}
		if err := device.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// An independent program verifies what the device signed.
func TestOpenSSLVerifies(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is not installed: make deps")
	}
	device := soft.NewMemory(soft.Options{})
	defer device.Close()
	if err := prepare(device); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	message := []byte("signed by a device, verified by openssl")
	digest := sha256.Sum256(message)
	file := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	in := file("message", message)
	for i, c := range []struct {
		keyType hsm.KeyType
		scheme  hsm.Scheme
		hash    crypto.Hash
		args    []string
	}{
		{hsm.ECDSAP224, hsm.ECDSA, crypto.SHA256, []string{"-digest", "sha256"}},
		{hsm.ECDSAP256, hsm.ECDSA, crypto.SHA256, []string{"-digest", "sha256"}},
		{hsm.ECDSAP521, hsm.ECDSA, crypto.SHA256, []string{"-digest", "sha256"}},
		{hsm.Ed25519, hsm.EdDSA, 0, nil},
		{hsm.RSA2048, hsm.PKCS1v15, crypto.SHA256, []string{"-digest", "sha256"}},
		{hsm.RSA2048, hsm.PSS, crypto.SHA256, []string{"-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:32"}},
	} {
		object, err := device.Generate(t.Context(), hsm.Slot(i+1), c.keyType, hsm.Attributes{})
		if err != nil {
			t.Fatal(err)
		}
		input := digest[:]
		if c.hash == 0 {
			input = message
		}
		signature, err := device.Sign(t.Context(), object.Slot, input, hsm.SignOptions{Scheme: c.scheme, Hash: c.hash})
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(object.Public)
		if err != nil {
			t.Fatal(err)
		}
		args := append([]string{"pkeyutl", "-verify", "-rawin", "-pubin",
			"-inkey", file("public", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
			"-in", in, "-sigfile", file("signature", signature)}, c.args...)
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Errorf("%s %s: %v: %s", c.keyType, c.scheme, err, out)
		}
	}
}
