package drivers_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
)

func open(t *testing.T, uri string) hsm.Token {
	t.Helper()
	token, err := drivers.Open(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { token.Close() })
	return token
}

// enrol initialises a device with what its token's sources give, and makes a
// key.
func enrol(t *testing.T, token hsm.Token) {
	t.Helper()
	ctx := t.Context()
	pin, err := token.PIN(ctx)
	must(t, err)
	soPIN, err := token.SOPIN(ctx)
	must(t, err)
	must(t, token.Initialise(ctx, hsm.InitOptions{PIN: pin, SOPIN: soPIN, Shares: 1}))
	login(t, token)
	_, err = token.ImportShare(ctx, hsm.NewSecret(make([]byte, hsm.ShareSize)))
	must(t, err)
	_, err = token.Generate(ctx, 1, hsm.ECDSAP256, hsm.Attributes{Label: "kept"})
	must(t, err)
}

func login(t *testing.T, token hsm.Token) {
	t.Helper()
	pin, err := token.PIN(t.Context())
	must(t, err)
	must(t, token.Login(t.Context(), pin))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func hasKey(t *testing.T, token hsm.Token) {
	t.Helper()
	objects, err := token.List(t.Context())
	if err != nil || len(objects) != 1 || objects[0].Label != "kept" {
		t.Errorf("%v, %v", objects, err)
	}
}

// A folder is enough: PINs and the seal secret look after themselves, and the
// token says what that is worth.
func TestFolder(t *testing.T) {
	folder := t.TempDir()
	token := open(t, "soft:"+folder)
	if !strings.Contains(token.Weakness, "one disk is the DKEK") {
		t.Errorf("weakness %q", token.Weakness)
	}
	enrol(t, token)
	must(t, token.Close())
	for _, name := range []string{"device", "device.seal"} {
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	token = open(t, "soft:"+folder+"/device")
	login(t, token)
	hasKey(t, token)
	if _, err := drivers.Open(t.Context(), "soft:"+folder); !errors.Is(err, hsm.ErrInUse) {
		t.Errorf("a second open: %v", err)
	}
	must(t, token.Close())

	// Without its seal secret the file is no device, and no new secret is made.
	must(t, os.Remove(filepath.Join(folder, "device.seal")))
	if _, err := drivers.Open(t.Context(), "soft:"+folder); err == nil || !strings.Contains(err.Error(), "device.seal is not") {
		t.Errorf("a missing seal secret: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "device.seal")); err == nil {
		t.Error("a seal secret was made for a device that has another")
	}
}

func TestSources(t *testing.T) {
	folder, elsewhere := t.TempDir(), t.TempDir()
	sources := map[string]string{"seal": strings.Repeat("5a", 32) + "\n", "pin": "123456\n", "so": "0011223344556677\n"}
	for name, content := range sources {
		write(t, filepath.Join(elsewhere, name), content)
	}
	uri := "soft:" + folder + "/d?slots=3&seal-source=file:" + elsewhere + "/seal&pin-source=file:" + elsewhere + "/pin&so-pin-source=file:" + elsewhere + "/so"
	token := open(t, uri)
	if token.PINDerived {
		t.Error("a PIN with a source is said to follow from the seal secret")
	}
	if token.Weakness != "" {
		t.Errorf("weakness %q of a device whose seal secret lies elsewhere", token.Weakness)
	}
	if info, err := token.Info(t.Context()); err != nil || info.Slots != 3 {
		t.Errorf("%+v, %v", info, err)
	}
	enrol(t, token)
	must(t, token.Login(t.Context(), hsm.NewSecret([]byte("123456"))))
	must(t, token.UnblockPIN(t.Context(), hsm.NewSecret([]byte("0011223344556677")), hsm.NewSecret([]byte("123456"))))
	must(t, token.Close())
	if entries, _ := os.ReadDir(folder); len(entries) != 2 { // the device and its lock
		t.Errorf("%v lie in the folder", entries)
	}

	write(t, filepath.Join(elsewhere, "seal"), strings.Repeat("5b", 32))
	if _, err := drivers.Open(t.Context(), uri); !errors.Is(err, hsm.ErrStorage) || !strings.Contains(err.Error(), "wrong seal secret") {
		t.Errorf("another seal secret: %v", err)
	}
	write(t, filepath.Join(elsewhere, "seal"), strings.Repeat("5a", 32))
	token = open(t, uri)
	login(t, token)
	hasKey(t, token)
}

func openWith(t *testing.T, uri string, seal *hsm.Secret) hsm.Token {
	t.Helper()
	token, err := drivers.OpenWith(t.Context(), uri, seal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { token.Close() })
	return token
}

func sealOf(b byte) *hsm.Secret { return hsm.NewSecret(bytes.Repeat([]byte{b}, 32)) }

// The host's seal secret seals the device too, lies nowhere beside it, and takes
// the device and its PINs along when it changes.
func TestHostsSeal(t *testing.T) {
	folder := t.TempDir()
	uri := "soft:" + folder
	token := openWith(t, uri, sealOf(1))
	if token.Weakness != "" {
		t.Errorf("weakness %q", token.Weakness)
	}
	enrol(t, token)
	for range 2 { // the repetition is harmless
		must(t, token.Reseal(t.Context(), sealOf(1), sealOf(2)))
		login(t, token)
	}
	must(t, token.Close())
	if entries, _ := os.ReadDir(folder); len(entries) != 2 { // the device and its lock
		t.Errorf("%v lie in the folder", entries)
	}
	if _, err := drivers.OpenWith(t.Context(), uri, sealOf(1)); !errors.Is(err, hsm.ErrStorage) {
		t.Errorf("under the former secret: %v", err)
	}
	token = openWith(t, uri, sealOf(2))
	login(t, token)
	hasKey(t, token)
	soPIN, err := token.SOPIN(t.Context())
	must(t, err)
	pin, err := token.PIN(t.Context())
	must(t, err)
	must(t, token.UnblockPIN(t.Context(), soPIN, pin))

	// Killed before its Reseal, a device is opened under the former secret and
	// taken along later.
	must(t, token.Reseal(t.Context(), sealOf(2), sealOf(3)))
	login(t, token)
	hasKey(t, token)
}

// A device with a source of its own is left alone; if that gives the same
// secret, nobody can know whether it changes too.
func TestOwnSealSource(t *testing.T) {
	folder, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere+"/seal", strings.Repeat("05", 32))
	uri := "soft:" + folder + "?seal-source=file:" + elsewhere + "/seal"
	token := openWith(t, uri, sealOf(1))
	enrol(t, token)
	must(t, token.Reseal(t.Context(), sealOf(1), sealOf(2)))
	if err := token.Reseal(t.Context(), sealOf(5), sealOf(2)); err == nil || !strings.Contains(err.Error(), "seal-source") {
		t.Errorf("the same secret from two sources: %v", err)
	}
	must(t, token.Close())
	token = open(t, uri)
	login(t, token)

	folder = t.TempDir()
	beside := open(t, "soft:"+folder)
	enrol(t, beside)
	must(t, beside.Close())
	beside = openWith(t, "soft:"+folder, sealOf(1))
	login(t, beside)
	if beside.Reseal != nil || beside.Weakness == "" {
		t.Error("a device whose secret lies beside it depends on its host's")
	}
}

// What a source cannot give now may be there later; the rest stays wrong.
func TestNoSecret(t *testing.T) {
	folder := t.TempDir()
	uri := "soft:" + folder + "?seal-source=file:" + folder + "/seal&pin-source=file:" + folder + "/pin"
	if _, err := drivers.Open(t.Context(), uri); !errors.Is(err, hsm.ErrNoSecret) {
		t.Errorf("no seal secret yet: %v", err)
	}
	write(t, folder+"/seal", "short")
	if _, err := drivers.Open(t.Context(), uri); err == nil || errors.Is(err, hsm.ErrNoSecret) {
		t.Errorf("a seal secret that is none: %v", err)
	}
	write(t, folder+"/seal", strings.Repeat("5a", 32))
	token := open(t, uri)
	if _, err := token.PIN(t.Context()); !errors.Is(err, hsm.ErrNoSecret) {
		t.Errorf("no PIN yet: %v", err)
	}
}

func TestMemory(t *testing.T) {
	token := open(t, "soft:?memory")
	if token.Weakness == "" {
		t.Error("a device in memory names no weakness")
	}
	enrol(t, token)
	hasKey(t, token)
}

// Derived PINs differ between devices and look like PINs.
func TestDerivedPINs(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		token := open(t, "soft:?memory")
		if !token.PINDerived {
			t.Error("a PIN without a source is not said to follow from the seal secret")
		}
		for _, source := range []hsm.Source{token.PIN, token.SOPIN} {
			pin, err := source(t.Context())
			must(t, err)
			pin.With(func(p []byte) {
				if seen[string(p)] || len(p) < 15 {
					t.Error("a derived PIN is short or repeats")
				}
				seen[string(p)] = true
			})
		}
	}
}

func TestRefused(t *testing.T) {
	folder := t.TempDir()
	const planted = "planted-secret-4711"
	for uri, want := range map[string]string{
		"soft:" + folder + "?pin-value=" + planted:                              "pin-source=file:",
		"soft:" + folder + "?so-pin-value=" + planted:                           "so-pin-source=file:",
		"soft:" + folder + "?password=" + planted:                               "unknown parameter",
		"soft:" + folder + "?pin-source=" + planted:                             "unknown source",
		"soft:" + folder + "?seal-source=" + planted:                            "unknown source",
		"soft:" + folder + "?slots=" + planted:                                  "slots wants a number",
		"soft:" + folder + "?slots=0":                                           "slots wants a number",
		"soft:" + folder + "?slots=1&slots=2":                                   "given twice",
		"soft:" + folder + "?a;b":                                               "do not parse",
		"soft:" + folder + "/%zz":                                               "escape",
		"soft:":                                                                 "a path is needed",
		"soft:" + folder + "?memory":                                            "no path",
		"soft:?memory&seal-source=file:/x":                                      "no seal-source",
		"soft:" + folder + "/none/device":                                       "no such file",
		"soft:" + folder + "?seal-source=file:" + folder + "/none":              "no such file",
		"smartcard-hsm:serial=DENK0100000?pin-source=file:/run/pin":             "-tags pkcs11",
		"pkcs11:token=a;pin-value=" + planted + "?module-path=/usr/lib/some.so": "-tags pkcs11",
		"":                  "begins with soft:",
		"/var/lib/a":        "begins with soft:",
		"sofd:/" + planted:  "begins with soft:",
		planted + ":device": "begins with soft:",
	} {
		token, err := drivers.Open(t.Context(), uri)
		if err == nil {
			token.Close()
			t.Errorf("%s opens", uri)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", uri, err, want)
		}
		if strings.Contains(err.Error(), planted) {
			t.Errorf("%s: the error repeats a value: %v", uri, err)
		}
		if token.Device != nil {
			t.Errorf("%s: a refused token holds a device", uri)
		}
	}
	if _, err := drivers.Open(t.Context(), "pkcs11:token=a"); !errors.Is(err, drivers.ErrNoHardware) {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 0 {
		t.Errorf("refused URIs left %v", entries)
	}
}

func TestBadSealFile(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "device.seal"), hex.EncodeToString(make([]byte, 31)))
	if _, err := drivers.Open(t.Context(), "soft:"+folder); err == nil || !strings.Contains(err.Error(), "seal secret") {
		t.Errorf("got %v", err)
	}
}

func TestRedact(t *testing.T) {
	for uri, want := range map[string]string{
		"soft:/var/lib/device":                                        "soft:/var/lib/device",
		"soft:/a=b/c?seal-source=file:/x&slots=4":                     "soft:/a=b/c?seal-source=file:/x&slots=4",
		"soft:?memory":                                                "soft:?memory",
		"soft:/d?pin-source=123456":                                   "soft:/d?pin-source=[redacted]",
		"soft:/d?pin-value=123456&slots=2":                            "soft:/d?pin-value=[redacted]&slots=2",
		"soft:/d?123456":                                              "soft:/d?[redacted]",
		"soft:/d?x=1&pin-source=prompt":                               "soft:/d?x=[redacted]&pin-source=prompt",
		"pkcs11:token=a;pin-value=123456;id=%01":                      "pkcs11:token=a;pin-value=[redacted];id=%01",
		"pkcs11:pin-value=123456?module-path=/m.so":                   "pkcs11:pin-value=[redacted]?module-path=/m.so",
		"smartcard-hsm:serial=DENK0100000?pin-source=credential:card": "smartcard-hsm:serial=DENK0100000?pin-source=credential:card",
		"": "",
	} {
		if got := drivers.Redact(uri); got != want {
			t.Errorf("Redact(%q) = %q, want %q", uri, got, want)
		}
	}
}
