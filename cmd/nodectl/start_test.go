package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
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
	m.refused("a second process", []string{"node late: data folder " + m.data + ": the data folder is in use", "by another process"}, "stop the other one", seal...)
	m.refused("a port in use", []string{"node late", "address already in use"}, "another with listen", append(seal, "--dir", filepath.Join(m.dir, "other"))...)
	if code := m.stop(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}

	sock := filepath.Join(m.dir, "answers")
	other, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	file := filepath.Join(m.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{"another process answers": sock, "no socket": file} {
		m.refused(what, []string{"node late", path, what}, "mend the setting socket", append(seal, "--socket", path)...)
	}
	m.refused("no folder for the socket", []string{"node late", "no such file"}, "make or mount the folder", append(seal, "--socket", "/none/socket")...)
	m.refused("a socket's path that is too long", []string{"node late", "set another with socket"}, "mend", append(seal, "--socket", "/"+strings.Repeat("x", 120))...)
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

// What the system refuses is no reason to throw a node or a device away: the way
// out is another one. Where a node cannot be kept, its successor is told to take
// another address, or its join is refused.
func TestTheMachinesTroubleCostsNoNode(t *testing.T) {
	cfg := &config{Name: "late", Dir: "/data", Device: "soft:/device"}
	open := func(cause error) error { return &fs.PathError{Op: "open", Path: "/data/members", Err: cause} }
	for cause, way := range map[syscall.Errno]string{
		syscall.EROFS: "for writing", syscall.ENOSPC: "make room", syscall.EDQUOT: "more room", syscall.EIO: "disk fails", syscall.EMFILE: "LimitNOFILE",
		syscall.ENFILE: "file-max", syscall.ENOMEM: "memory", syscall.EACCES: "owner", syscall.EPERM: "owner", syscall.ENOTDIR: "put the folder back",
		syscall.EISDIR: "put the file back", syscall.ENOENT: "mount", syscall.EADDRNOTAVAIL: "address of this machine",
	} {
		device := &hsm.Error{Op: "open", Err: fmt.Errorf("%w: %w", hsm.ErrStorage, open(cause))}
		for what, err := range map[string]error{"node": startTrouble(cfg, open(cause)), "device": startTrouble(cfg, deviceTrouble(cfg, device))} {
			said := new(app).wayOut(err)
			if !strings.Contains(said, way) || strings.Contains(said, "remove") || strings.Contains(said, "replace") {
				t.Errorf("%s, %v: %q", what, cause, said)
			}
		}
	}
	lost := startTrouble(cfg, &node.DamagedLogError{Path: "/data/raft/log.db", Cause: open(syscall.ENOENT)})
	if said := new(app).wayOut(lost); !strings.Contains(said, "cluster remove late") || !strings.Contains(said, "another listen address") {
		t.Errorf("a lost log: %q", said)
	}
}

// A first start that fails on what it would listen at leaves nothing behind.
func TestAFirstStartThatFailsLeavesNothing(t *testing.T) {
	m := newMachine(t)
	seal := []string{"--seal-source", m.newSeal("seal")}
	taken, err := net.Listen("tcp", m.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	path := filepath.Join(m.dir, "answers")
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	fresh := filepath.Join(m.dir, "fresh", "data")
	for what, more := range map[string][]string{
		"address already in use":          nil,
		"for the API":                     {"--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1", "--api-listen", m.listen},
		"another process answers":         {"--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1", "--socket", path},
		"longer than":                     {"--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1", "--socket", "/" + strings.Repeat("x", 120)},
		"no such file or directory":       {"--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1", "--socket", "/none/socket"},
		"cannot assign requested address": {"--listen", "192.0.2.1:7400"},
	} {
		m.refused(what, []string{"node late", what}, "", append(append(seal, "--dir", fresh), more...)...)
		if _, err := os.Stat(filepath.Dir(fresh)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something was made: %v", what, err)
			os.RemoveAll(filepath.Dir(fresh))
		}
	}
}
