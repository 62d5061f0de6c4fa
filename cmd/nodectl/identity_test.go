package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/client"
)

const (
	// slowHandshakes is how many are begun at each of three nodes, 10,000 in all;
	// KEYCUSTODIAN_SIEGE=full begins fullHandshakes.
	slowHandshakes, fullHandshakes = 3334, 10000
	// slowWave is how many of them this process has open at a node at a time.
	slowWave = 500
	// mostDescriptors bounds what a node has open meanwhile: 256 handshakes of
	// strangers, 128 from where members are, and what is its own.
	mostDescriptors = 600
	// servedMeanwhile is how many signatures each node gives to new connections
	// while an attack goes on.
	servedMeanwhile = 3
	// calmHeartbeat is how long the nodes wait for a leader that says nothing. They share
	// this machine's processors with their attackers, and one that gets none for half a
	// second looks dead to the others. A leader that moves nonetheless was moved.
	calmHeartbeat = 5 * time.Second
)

var (
	memberProtocols = []string{"kc-raft/1", "kc-peer/1", "kc-gossip/1"}
	raftTerm        = regexp.MustCompile(`(?m)^keycustodian_raft_term (\S+)$`)
	raftLeader      = regexp.MustCompile(`(?m)^keycustodian_raft_leader 1$`)
)

// siege is a cluster that is attacked by those who have no place in it, while
// clients use it.
type siege struct {
	*processes
	served map[*process]*atomic.Int64 // signatures given to new connections
	last   atomic.Value               // error of a client that was not served
}

// Who has no member's key gets no access, changes no leader and keeps nobody from
// being served.
func TestSiege(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	s := &siege{served: map[*process]*atomic.Int64{}}
	s.processes = startProcesses(t, 3, func(p *processes) { p.env = []string{heartbeatSetting + "=" + calmHeartbeat.String()} })
	s.nodectl(nil, "key", "create", "kept", "--type", "ecdsa-p256")
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for _, n := range s.nodes {
		count := new(atomic.Int64)
		s.served[n] = count
		config := s.clientConfig(n)
		clients.Go(func() { s.use(ctx, config, count) })
	}
	s.slowHandshakes(t)
	s.foreignKeys(t)
	s.copies(t)
	s.tokens(t)
	s.awaitReady()
}

// use has a node sign over one new connection after the other.
func (s *siege) use(ctx context.Context, config client.Config, count *atomic.Int64) {
	for ctx.Err() == nil {
		err := s.signOnce(ctx, config)
		if err == nil {
			count.Add(1)
		} else if ctx.Err() == nil {
			s.last.Store(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
}

func (s *siege) signOnce(ctx context.Context, config client.Config) error {
	c, err := client.New(config)
	if err != nil {
		return err
	}
	defer c.Close()
	key, err := c.Key(ctx, "kept")
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("kept"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	return verifyWithLibrary(key.Public(), digest[:], signature)
}

// serve waits until every node has served new connections that were opened after
// now.
func (s *siege) serve(t *testing.T) {
	t.Helper()
	before := map[*process]int64{}
	for _, n := range s.nodes {
		before[n] = s.served[n].Load()
	}
	eventually(t, "clients are served", func(context.Context) error {
		for _, n := range s.nodes {
			// One more: the connection of the next may have been opened before.
			if s.served[n].Load() <= before[n]+servedMeanwhile {
				return fmt.Errorf("%s has served %d: %v", n.name, s.served[n].Load()-before[n], s.last.Load())
			}
		}
		return nil
	})
}

// unmoved runs an attack while clients are served, and wants leader and term to be
// the same after it.
func (s *siege) unmoved(t *testing.T, attack func(t *testing.T)) {
	t.Helper()
	before := s.reign(t)
	attack(t)
	s.serve(t)
	if after := s.reign(t); after != before {
		t.Errorf("%s, and before the attack it was %s", after, before)
	}
}

// reign is who leads in which term, as soon as all nodes say the same.
func (s *siege) reign(t *testing.T) (reign string) {
	t.Helper()
	eventually(t, "one node leads", func(ctx context.Context) error {
		var terms, leaders []string
		for _, n := range s.nodes {
			metrics, err := n.metrics(ctx)
			if err != nil {
				return err
			}
			if term := raftTerm.FindStringSubmatch(metrics); term != nil {
				terms = append(terms, term[1])
			}
			if raftLeader.MatchString(metrics) {
				leaders = append(leaders, n.name)
			}
		}
		if len(terms) != len(s.nodes) || len(slices.Compact(terms)) != 1 || len(leaders) != 1 {
			return fmt.Errorf("leaders %v, terms %v", leaders, terms)
		}
		reign = leaders[0] + " leads in term " + terms[0]
		return nil
	})
	return reign
}

// metrics are what the node answers on its socket.
func (n *process) metrics(ctx context.Context) (string, error) {
	over := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(n.socket(), "unix:"))
	}}
	defer over.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://socket/metrics", nil)
	if err != nil {
		return "", err
	}
	response, err := over.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return string(content), err
}

// slowHandshakes begins thousands of handshakes that do not go on: half of them say
// nothing, half of them part of a hello, and one in ten a whole one for Raft, which a
// node answers at the cost of a key agreement and a signature.
func (s *siege) slowHandshakes(t *testing.T) {
	count := slowHandshakes
	if os.Getenv("KEYCUSTODIAN_SIEGE") == "full" {
		count = fullHandshakes
	}
	hello := clientHello(t)
	s.unmoved(t, func(t *testing.T) {
		var all sync.WaitGroup
		for _, n := range s.nodes {
			all.Go(func() {
				var open []net.Conn
				for begun := 0; begun < count; {
					wave := s.wave(t, n, begun, min(slowWave, count-begun), hello)
					if begun += len(wave); len(wave) == 0 {
						return
					}
					for _, conn := range open {
						conn.Close()
					}
					open = wave
				}
				// None of those that are left is let in or kept.
				for _, conn := range open {
					conn.SetReadDeadline(time.Now().Add(settleTime))
					if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s keeps a handshake that does not go on", n.name)
					}
					conn.Close()
				}
			})
		}
		s.serve(t)
		all.Wait()
	})
	t.Logf("%d handshakes at each of %d nodes", count, len(s.nodes))
}

// wave begins handshakes from 200 addresses of loopback, one of them that of all
// nodes and clients.
func (s *siege) wave(t *testing.T, n *process, begun, count int, hello []byte) (open []net.Conn) {
	for i := begun; i < begun+count; i++ {
		from := net.IPv4(127, 0, byte(i%200/100), byte(1+i%100))
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: settleTime}
		conn, err := dialer.DialContext(t.Context(), "tcp", n.addr)
		if err != nil {
			t.Errorf("%s from %v: %v", n.name, from, err)
			return open
		}
		say := hello[:len(hello)/2*(i%2)]
		if i%10 == 0 {
			say = hello
		}
		conn.Write(say) // may be pushed out already
		open = append(open, conn)
	}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.cmd.Process.Pid)); err == nil && len(files) > mostDescriptors {
		t.Errorf("%s has %d descriptors open", n.name, len(files))
	}
	return open
}

// clientHello is the first thing that somebody says who wants to speak Raft.
func clientHello(t *testing.T) []byte {
	here, there := net.Pipe()
	defer there.Close()
	go func() {
		defer here.Close()
		conn := tls.Client(here, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"kc-raft/1"}, InsecureSkipVerify: true})
		conn.HandshakeContext(t.Context())
	}()
	hello := make([]byte, 16<<10)
	n, err := there.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return hello[:n]
}

// foreignKeys has keys that are a client's, an operator's, a stranger's and none
// ask for what only members speak. A member's is greeted meanwhile.
func (s *siege) foreignKeys(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.nodectl(nil, "operator", "new", "--out", s.path("app.pem"))
	s.nodectl(nil, "client", "add", "--name", "app", "--public", s.path("app.pem.pub"), "--prefix", "", "--verbs", "all")
	app := &app{getenv: func(string) string { return "" }, key: s.path("app.pem")}
	signer, err := app.loadKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.unmoved(t, func(t *testing.T) {
		for i, n := range s.nodes {
			_, member := s.nodes[(i+1)%len(s.nodes)].nodeKey()
			for _, protocol := range memberProtocols {
				for who, key := range map[string]ed25519.PrivateKey{
					"a client": signer.(ed25519.PrivateKey), "an operator": s.key.(ed25519.PrivateKey), "a stranger": stranger, "nobody": nil,
				} {
					turnedAway(t, n, protocol, who, key)
				}
			}
			conn, first, err := knock(t.Context(), n.addr, "kc-peer/1", member)
			if err != nil || first != 1 {
				t.Fatalf("%s greets a member with %d: %v", n.name, first, err)
			}
			conn.Close()
		}
	})
}

// turnedAway wants a node to refuse somebody.
func turnedAway(t testing.TB, n *process, protocol, who string, key ed25519.PrivateKey) {
	t.Helper()
	conn, first, err := knock(t.Context(), n.addr, protocol, key)
	if err == nil {
		conn.Close()
		t.Errorf("%s speaks %s at %s, which says %d", who, protocol, n.name, first)
		return
	}
	if !isRefusal(err) {
		t.Errorf("%s asks for %s at %s and is not refused: %v", who, protocol, n.name, err)
	}
}

// isRefusal tells whether that is a node which turns somebody away: by an alert, or by
// the end of the connection, which overtakes the alert where the node has not read all
// that it was sent. One that cannot be reached, or says nothing, has refused nobody.
func isRefusal(err error) bool {
	var said *net.OpError
	return errors.As(err, &said) && said.Op == "remote error" || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// copies starts second processes with a node's identity, from a copy of its
// folder: one that knows where the node was, and one that must be told.
func (s *siege) copies(t *testing.T) {
	original := s.nodes[1]
	for _, forgets := range [][]string{nil, {"members"}} {
		s.unmoved(t, func(t *testing.T) {
			twin := &process{t: t, name: "twin", dir: t.TempDir(), seal: original.seal, addr: quietAddress(t)}
			if err := copyFolder(filepath.Join(twin.dir, "data"), filepath.Join(original.dir, "data")); err != nil {
				t.Fatal(err)
			}
			for _, name := range forgets {
				if err := os.Remove(filepath.Join(twin.dir, "data", name)); err != nil {
					t.Fatal(err)
				}
			}
			if err := twin.configure(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(twin.kill)
			twin.start()
			if said := twin.ends(t); !strings.Contains(said, "another process with this node's key answers at "+original.addr) {
				t.Errorf("without %v a copy is refused otherwise: %s", forgets, said)
			}
			if pid := original.cmd.Process.Pid; !isOpen(original.exited) {
				t.Fatalf("%s, process %d, has ended: %v", original.name, pid, original.state)
			}
		})
	}
}

// copyFolder copies the files in a folder that is in use.
func copyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != from:
			return nil // written beside the file that it was to replace
		case err != nil:
			return err
		case entry.IsDir():
			return os.Mkdir(target, 0o700)
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, os.WriteFile(target, content, 0o600))
	})
}

// ends waits for a process that must end by itself, with a failure.
func (n *process) ends(t *testing.T) string {
	t.Helper()
	select {
	case <-n.exited:
	case <-time.After(settleTime):
		t.Fatalf("%s goes on\n%s", n.name, n.log())
	}
	if n.state.ExitCode() != 1 {
		t.Errorf("%s ended with %v\n%s", n.name, n.state, n.log())
	}
	return n.log()
}
