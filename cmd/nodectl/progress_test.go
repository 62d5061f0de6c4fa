package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
)

// What is waited for is said in prose, whatever route it is.
func TestWaitsAreSaidInProse(t *testing.T) {
	for _, route := range api.Routes() {
		switch route.Name {
		case api.HealthAlive, api.HealthReady, api.HealthState, api.OpenAPI, api.Metrics: // nobody waits for them here
			continue
		}
		if text, ok := routeTexts()[route.Name]; !ok || text == "" || strings.Contains(text, ".") || strings.ToLower(text[:1]) != text[:1] {
			t.Errorf("%s: %q", route.Name, text)
		}
	}
}

// spoken passes on what is written to it.
type spoken chan string

func (h spoken) Write(p []byte) (int, error) { h <- string(p); return len(p), nil }

// What takes its time without asking a node says so too.
func TestWorkThatTakesItsTimeSaysSo(t *testing.T) {
	said := make(spoken, 1000)
	a := &app{streams: streams{err: said}, slow: time.Millisecond, getenv: func(string) string { return "" }}
	folder := t.TempDir()
	pass, key, backup := filepath.Join(folder, "pass"), filepath.Join(folder, "key.pem"), filepath.Join(folder, "backup")
	if err := os.WriteFile(pass, []byte("passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := secret.ParseSource("file:"+pass, "passphrase")
	if err != nil {
		t.Fatal(err)
	}
	private, _, _, err := makeKey(t.Context(), "alice", source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, private, 0o600); err != nil {
		t.Fatal(err)
	}
	a.key, a.passphrase = key, pass
	if _, err := a.loadKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(said) == 0 || <-said != "unlocking the key file\n" {
		t.Error("nothing says that a key file is unlocked")
	}

	// A pipe is a backup that comes slowly: nobody writes to it before it is said.
	if err := exec.Command("mkfifo", backup).Run(); err != nil {
		t.Fatal(err)
	}
	go func() {
		select {
		case text := <-said:
			if text != "reading and verifying the backup\n" {
				t.Errorf("it says %q", text)
			}
		case <-time.After(10 * time.Second):
			t.Error("nothing says that a backup is read")
		}
		os.WriteFile(backup, []byte("none"), 0o600)
	}()
	if _, err := a.readBackup(backup, nil); err == nil {
		t.Error("it is taken for a backup")
	}
}
