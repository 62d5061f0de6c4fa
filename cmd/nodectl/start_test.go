package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused runs the daemon and wants it to end with exit code 1, words, and a
// hint that has the way out.
func (m *machine) refused(what string, words []string, way string, more ...string) {
	m.t.Helper()
	args := append([]string{"run", "--name", "late", "--dir", m.data, "--listen", m.listen}, more...)
	var said bytes.Buffer
	// One that starts in spite of all ends after a while, with 0.
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
	defer cancel()
	code := run(ctx, args, streams{strings.NewReader(""), &said, &said}, os.Getenv, start)
	if code != 1 {
		m.t.Errorf("%s: exit %d, want 1\n%s", what, code, said.String())
	}
	for _, w := range words {
		if !strings.Contains(said.String(), w) {
			m.t.Errorf("%s: %q is not said:\n%s", what, w, said.String())
		}
	}
	if _, hint, _ := strings.Cut(said.String(), "\nhint: "); !strings.Contains(hint, way) {
		m.t.Errorf("%s: the hint does not say %q:\n%s", what, way, said.String())
	}
}

// A node that cannot start names itself, its data folder and what is wrong, and
// says the way out.
func TestRunRefusesAndSaysWhy(t *testing.T) {
	m := newMachine(t)
	seal := []string{"--seal-source", m.newSeal("seal")}
	m.start(seal...)
	m.refused("a second process", []string{"node late, data folder " + m.data, "in use by another process"}, "stop the other one", seal...)
	m.refused("a port in use", []string{"node late", "address already in use"}, "another with listen", append(seal, "--dir", filepath.Join(m.dir, "other"))...)
	if code := m.stop(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}

	m.refused("no folder for the device", []string{"node late", "no such file"}, "make the folder",
		append(seal, "--device", "soft:"+filepath.Join(m.dir, "none/device")+"?seal-source="+seal[1])...)
	device := filepath.Join(m.data, "device")
	if err := os.WriteFile(device, []byte("no device"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.refused("a damaged device", []string{"node late", device, "damaged"}, "nodectl device replace", seal...)
	if err := os.Remove(device); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.data, "identity"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.refused("a damaged identity", []string{"node late", `"identity" is damaged`}, "nodectl cluster remove late", seal...)
}
