package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
)

// failing runs a command line as alice that must fail, and returns what it said.
func (p *processes) failing(code int, args ...string) string {
	p.t.Helper()
	got, out, said := p.try(nil, args...)
	if got != code {
		p.t.Fatalf("nodectl %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, said)
	}
	return said
}

// A backup is a file of its owner's alone that verifies; what is damaged, foreign
// or there already is refused, and leaves nothing behind.
func TestBackupIsWrittenAndVerified(t *testing.T) {
	p := startProcesses(t, 3)
	p.nodectl(nil, "key", "create", "db/one", "--type", "ecdsa-p256")
	file := p.path("one.backup")
	p.nodectl(nil, "cluster", "backup", "--out", file)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	p.nodectl(p.nodes[1], "cluster", "backup", "--out", p.path("socket.backup"))
	var shown backupShown
	if err := json.Unmarshal([]byte(p.nodectl(nil, "cluster", "backup", "inspect", file, "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	if !shown.Verified || shown.Keys != 1 || shown.Versions[fsm.Enabled.String()] != 1 || len(shown.Members) != 3 || len(shown.Holders) != 3 || shown.Threshold != 2 ||
		!strings.Contains(shown.Restore, "2 of these holders") || !strings.Contains(shown.Restore, "1 of 1 operators") {
		t.Errorf("%+v", shown)
	}
	if text := p.nodectl(nil, "cluster", "backup", "inspect", file); !strings.Contains(text, "versions enabled") {
		t.Errorf("inspect says\n%s", text)
	}
	if said := p.failing(1, "cluster", "backup", "--out", file); !strings.Contains(said, "there already") {
		t.Errorf("over another backup: %s", said)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(p.path("bad"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := p.failing(1, "cluster", "backup", "inspect", p.path("bad")); !strings.Contains(said, "not a backup that is whole") || !strings.Contains(said, "hint: ") {
		t.Errorf("of a damaged one: %s", said)
	}
	known, err := os.ReadFile(p.path("cluster.json"))
	foreign := strings.ReplaceAll(string(known), shown.Cluster, strings.Repeat("ab", 16))
	if err := errors.Join(err, os.WriteFile(p.path("foreign.json"), []byte(foreign), 0o600)); err != nil {
		t.Fatal(err)
	}
	if said := p.failing(1, "--cluster", p.path("foreign.json"), "cluster", "backup", "inspect", file); !strings.Contains(said, "backup of cluster "+shown.Cluster) {
		t.Errorf("of a foreign one: %s", said)
	}
	for _, n := range p.nodes[1:] {
		n.kill()
	}
	p.failing(3, "cluster", "backup", "--out", p.path("none"))
	entries, err := os.ReadDir(p.dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") || e.Name() == "none" {
			t.Errorf("%s is left behind", e.Name())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
