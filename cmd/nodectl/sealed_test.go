package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
)

// machine runs nodectl run, and nodectl against its socket.
type machine struct {
	t                 *testing.T
	dir, data, listen string
	stop              func() int // ends the daemon in order
	log               lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func newMachine(t *testing.T) *machine {
	dir, err := os.MkdirTemp("", "kc") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	listen, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, data: filepath.Join(dir, "data"), listen: listen, stop: func() int { return 0 }}
	t.Cleanup(func() {
		m.stop()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("the node said:\n%s", m.log.b.String())
		}
	})
	return m
}

// newSeal writes a seal secret to a file, and returns its source.
func (m *machine) newSeal(name string) string {
	m.t.Helper()
	key := secret.Random(secret.KeySize)
	defer key.Wipe()
	path := filepath.Join(m.dir, name)
	var err error
	key.With(func(p []byte) { err = os.WriteFile(path, []byte(hex.EncodeToString(p)), 0o600) })
	if err != nil {
		m.t.Fatal(err)
	}
	return "file:" + path
}

// start runs the daemon and waits for its socket.
func (m *machine) start(more ...string) api.NodeStatus {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	args := append([]string{"run", "--name", "late", "--dir", m.data, "--listen", m.listen}, more...)
	go func() { ended <- run(ctx, args, streams{strings.NewReader(""), &m.log, &m.log}, os.Getenv, start) }()
	m.stop = sync.OnceValue(func() int { cancel(); return <-ended })
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if out, code := m.nodectl("cluster", "status", "-o", "json"); code == 0 {
			var st api.Status
			if err := json.Unmarshal(out, &st); err != nil {
				m.t.Fatal(err)
			}
			if !strings.Contains(st.Node.Missing, "starting") {
				return st.Node
			}
		}
		if len(ended) > 0 {
			break
		}
	}
	m.t.Fatal("the node's socket never answered")
	return api.NodeStatus{}
}

func (m *machine) nodectl(args ...string) ([]byte, int) {
	var out bytes.Buffer
	code := run(m.t.Context(), append([]string{"--addr", "unix:" + filepath.Join(m.data, "socket")}, args...),
		streams{strings.NewReader(""), &out, &m.log}, os.Getenv, start)
	return out.Bytes(), code
}

// A daemon without its seal secret starts sealed and waits on its socket; with
// it, it opens its device and goes on.
func TestRunWaitsForItsSeal(t *testing.T) {
	m := newMachine(t)
	seal, other := m.newSeal("seal"), m.newSeal("other")
	if n := m.start("--seal-source", "prompt"); n.State != api.StateSealed || !strings.Contains(n.Missing, "device enter seal") {
		t.Fatalf("it starts %s: %s", n.State, n.Missing)
	}
	if _, err := os.Stat(filepath.Join(m.data, "device")); err == nil {
		t.Error("the device was opened without the seal secret")
	}
	if out, code := m.nodectl("device", "enter", "seal", "--source", seal, "-o", "json"); code != 0 || bytes.Contains(out, []byte(api.StateSealed)) {
		t.Fatalf("enter the seal secret: exit %d, %s", code, out)
	}
	out, code := m.nodectl("device", "info", "-o", "json")
	if code != 0 || !bytes.Contains(out, []byte(`"soft"`)) || bytes.Contains(out, []byte("one disk")) {
		t.Errorf("its device: exit %d, %s", code, out)
	}
	if code := m.stop(); code != 0 {
		t.Fatalf("it ended with %d", code)
	}
	if n := m.start("--seal-source", "prompt"); n.State != api.StateSealed {
		t.Errorf("started anew it is %s", n.State)
	}
	if _, code := m.nodectl("device", "enter", "seal", "--source", other); code != 3 {
		t.Errorf("another seal secret: exit %d, want 3: still sealed", code)
	}
	m.stop()
	if n := m.start("--seal-source", seal); n.State == api.StateSealed {
		t.Errorf("with its seal secret it starts %s: %s", n.State, n.Missing)
	}
}

// A reseal over the socket takes the node and its device over to another secret:
// the former one starts it no more, the new one does.
func TestResealOverTheSocket(t *testing.T) {
	m := newMachine(t)
	seal, next := m.newSeal("seal"), m.newSeal("next")
	m.start("--seal-source", seal)
	if out, code := m.nodectl("device", "reseal", "--present", next, "--new", m.newSeal("third")); code == 0 {
		t.Errorf("resealed by a secret that is not the present one: %s", out)
	}
	device, err := os.ReadFile(filepath.Join(m.data, "device"))
	if err != nil {
		t.Fatal(err)
	}
	if out, code := m.nodectl("device", "reseal", "--present", seal, "--new", next); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	if after, err := os.ReadFile(filepath.Join(m.data, "device")); err != nil || bytes.Equal(after, device) {
		t.Errorf("the device was not sealed anew: %v", err)
	}
	m.stop()
	if n := m.start("--seal-source", seal); n.State != api.StateSealed || !strings.Contains(n.Missing, "not the seal secret") {
		t.Errorf("with the former secret it starts %s: %s", n.State, n.Missing)
	}
	m.stop()
	if n := m.start("--seal-source", next); n.State == api.StateSealed {
		t.Errorf("with the new secret it starts %s: %s", n.State, n.Missing)
	}
}
