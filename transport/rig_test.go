package transport_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/transport"
)

// members is a Directory that tests change as they go. It is one for all nodes
// of a rig, as if Raft took no time.
type members struct {
	mu      sync.Mutex
	at      map[string]transport.Fingerprint
	is      map[transport.Fingerprint]bool
	was     map[transport.Fingerprint]bool
	clients map[transport.Fingerprint]bool
}

func newMembers() *members {
	return &members{
		at:      map[string]transport.Fingerprint{},
		is:      map[transport.Fingerprint]bool{},
		was:     map[transport.Fingerprint]bool{},
		clients: map[transport.Fingerprint]bool{},
	}
}

func (m *members) add(f transport.Fingerprint, addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.is[f], m.at[addr] = true, f
}

func (m *members) remove(f transport.Fingerprint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.is, f)
	for addr, at := range m.at {
		if at == f {
			delete(m.at, addr)
		}
	}
}

func (m *members) IsMember(f transport.Fingerprint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.is[f]
}

func (m *members) WasMember(f transport.Fingerprint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.was[f]
}

// expel removes a member, and remembers it as one that was removed.
func (m *members) expel(f transport.Fingerprint) {
	m.remove(f)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.was[f] = true
}

func (m *members) IsClient(f transport.Fingerprint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clients[f]
}

func (m *members) MemberAt(addr string) (transport.Fingerprint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.at[addr]
	return f, ok
}

// rig is a few servers on one memory network, all of them members.
type rig struct {
	t          *testing.T
	network    *transport.Memory
	members    *members
	nodes      []*transport.Server
	addrs      []string
	hosts      []string
	identities []*transport.Identity
}

func newIdentity(t testing.TB) *transport.Identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := transport.NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func newRig(t *testing.T, hosts ...string) *rig {
	t.Helper()
	r := &rig{t: t, network: transport.NewMemory(), members: newMembers()}
	for _, host := range hosts {
		r.start(host, transport.Config{})
	}
	return r
}

func (r *rig) start(host string, config transport.Config) *transport.Server {
	r.t.Helper()
	if config.Identity == nil {
		config.Identity = newIdentity(r.t)
	}
	config.Network = r.network.Host(host)
	config.Listen = host + ":7400"
	config.Directory = r.members
	server, err := transport.Listen(config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			r.t.Error(err)
		}
	})
	r.members.add(server.Fingerprint(), server.Addr())
	r.nodes = append(r.nodes, server)
	r.addrs = append(r.addrs, server.Addr())
	r.hosts = append(r.hosts, host)
	r.identities = append(r.identities, config.Identity)
	return server
}

func (r *rig) peer(i int) transport.Peer {
	return transport.Peer{Fingerprint: r.nodes[i].Fingerprint(), Addr: r.addrs[i]}
}

// dialTLS connects as anybody could: any key, any protocol, no checks.
func (r *rig) dialTLS(host, addr, protocol string, identity *transport.Identity) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	raw, err := r.network.Host(host).Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	if protocol != "" {
		config.NextProtos = []string{protocol}
	}
	if identity != nil {
		config.Certificates = []tls.Certificate{identity.Certificate()}
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if strings.HasPrefix(protocol, "kc-") && protocol != "kc-join/1" {
		if err := welcomed(conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// welcomed reads the byte by which a member's caller is let in.
func welcomed(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := conn.Read(make([]byte, 1))
	conn.SetReadDeadline(time.Time{})
	return err
}

// gone waits until the other side has closed conn; false after a minute.
func gone(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := conn.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return err != nil && !(ok && timeout.Timeout())
}
