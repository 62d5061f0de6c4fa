package secret_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
)

func TestFileSource(t *testing.T) {
	raw := append(bytes.Repeat([]byte{0xA5}, 31), '\n')
	for name, test := range map[string]struct{ content, want string }{
		"as it is":                    {"648219", "648219"},
		"newline":                     {"648219\n", "648219"},
		"newline of another system":   {"648219\r\n", "648219"},
		"one newline only":            {"648219\n\n", "648219\n"},
		"spaces stay":                 {" 648 219 \n", " 648 219 "},
		"31 characters":               {strings.Repeat("x", 31) + "\n", strings.Repeat("x", 31)},
		"raw key that ends like text": {string(raw), string(raw)},
		"as long as may be":           {strings.Repeat("x", 4096), strings.Repeat("x", 4096)},
	} {
		path := write(t, test.content, 0o600)
		for range 2 { // a file is read anew each time
			b, err := fetch(t, "file:"+path)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			b.With(func(p []byte) {
				if string(p) != test.want {
					t.Errorf("%s: got %q", name, p)
				}
			})
		}
	}
	for name, content := range map[string]string{"empty": "", "only a newline": "\n", "too long": strings.Repeat("x", 4097)} {
		if _, err := fetch(t, "file:"+write(t, content, 0o600)); err == nil || !strings.Contains(err.Error(), "PIN") {
			t.Errorf("%s: %v", name, err)
		}
	}
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := fetch(t, "file:"+missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing: %v", err)
	}
	if _, err := fetch(t, "file:"+t.TempDir()); err == nil {
		t.Error("read a folder")
	}
}

// A file that every user can read or change is no secret; a group may share one.
func TestFileMode(t *testing.T) {
	for mode, good := range map[os.FileMode]bool{
		0o400: true, 0o600: true, 0o440: true, 0o640: true, 0o660: true,
		0o644: false, 0o604: false, 0o666: false, 0o602: false, 0o444: false,
	} {
		_, err := fetch(t, "file:"+write(t, "648219", mode))
		if good != (err == nil) {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "chmod") || strings.Contains(err.Error(), "648219")) {
			t.Errorf("mode %04o: the error has no way out, or the secret: %v", mode, err)
		}
	}
}

func TestCredentialSource(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "pin"), []byte("648219"), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := fetch(t, "credential:pin"); err == nil || !strings.Contains(err.Error(), "CREDENTIALS_DIRECTORY") {
		t.Errorf("without systemd: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", folder)
	b, err := fetch(t, "credential:pin")
	if err != nil || b.Len() != 6 {
		t.Errorf("got %v", err)
	}
}

// A descriptor is read once, whoever asks, and stays open: its number must not
// become another file's that a second source would then read.
func TestDescriptorSource(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	fmt.Fprintln(writer, "648219")
	writer.Close()
	name := fmt.Sprintf("fd:%d", reader.Fd())
	source, err := secret.ParseSource(name, "PIN")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	got := 0
	for range 8 {
		group.Go(func() {
			if b, err := source(t.Context()); err == nil && b.Len() == 6 {
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if got != 1 {
		t.Errorf("read %d times", got)
	}
	if _, err := source(t.Context()); err == nil || !strings.Contains(err.Error(), "before") {
		t.Errorf("again: %v", err)
	}
	if _, err := fetch(t, name); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("by a second source: %v", err)
	}
	if _, err := reader.Stat(); err != nil {
		t.Errorf("the descriptor was closed: %v", err)
	}
	if _, err := fetch(t, "fd:65000"); err == nil || !strings.Contains(err.Error(), "65000") {
		t.Errorf("none such: %v", err)
	}
}

// A source names where a secret is. What is no source may be the secret itself
// and is not repeated.
func TestParseSourceRefuses(t *testing.T) {
	for _, text := range []string{
		"", "648219", "pin:648219", "file", "file:", "credential:", "credential:../648219", "credential:/648219",
		"credential:a/b648219", "credential:..", "credential:.", "fd", "fd:", "fd:-1", "fd:648219", "fd:3x648219",
		"prompt:648219", "Prompt648219", " file:/648219",
	} {
		_, err := secret.ParseSource(text, "PIN")
		if err == nil {
			t.Errorf("%q: taken", text)
			continue
		}
		if strings.Contains(err.Error(), "648219") || !strings.HasPrefix(err.Error(), "PIN: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := secret.ParseSource("prompt", "PIN"); err != nil {
		t.Errorf("prompt: %v", err)
	}
}

func TestSourcesHonourContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, text := range []string{"file:" + write(t, "648219", 0o600), "fd:0", "prompt"} {
		source, err := secret.ParseSource(text, "PIN")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := source(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestFixed(t *testing.T) {
	b := secret.Take([]byte("648219"))
	source := secret.Fixed(b)
	for range 2 {
		got, err := source(t.Context())
		if err != nil || !got.Equal(b) {
			t.Fatalf("got %v", err)
		}
		got.Wipe() // a copy
	}
}

func TestKey(t *testing.T) {
	raw := append([]byte{0, 0xFF}, bytes.Repeat([]byte{0x80}, 30)...)
	for name, test := range map[string]struct {
		content string
		good    bool
	}{
		"digits":               {hex.EncodeToString(raw), true},
		"digits and a newline": {hex.EncodeToString(raw) + "\n", true},
		"capital digits":       {strings.ToUpper(hex.EncodeToString(raw)), true},
		"raw":                  {string(raw), true},
		"half as many digits":  {hex.EncodeToString(raw[:16]), false},
		"no digits":            {strings.Repeat("xy", 32), false},
		"63 digits":            {hex.EncodeToString(raw)[1:], false},
		"31 bytes":             {string(raw[1:]), false},
		"33 bytes":             {string(raw) + "\x01", false},
	} {
		key, err := secret.Key(t.Context(), secret.Fixed(secret.Take([]byte(strings.TrimSuffix(test.content, "\n")))), "seal secret")
		if test.good {
			if err != nil || !key.Equal(secret.Take(bytes.Clone(raw))) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), test.content) || !strings.Contains(err.Error(), "seal secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	failed := errors.New("failed")
	if _, err := secret.Key(t.Context(), func(context.Context) (*secret.Bytes, error) { return nil, failed }, "k"); !errors.Is(err, failed) {
		t.Errorf("a failing source: %v", err)
	}
}

func fetch(t *testing.T, text string) (*secret.Bytes, error) {
	t.Helper()
	source, err := secret.ParseSource(text, "PIN")
	if err != nil {
		t.Fatal(err)
	}
	return source(t.Context())
}

func write(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}
