package transport_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/transport"
)

var memberProtocols = []string{"kc-raft/1", "kc-peer/1", "kc-gossip/1"}

func TestOnlyMembersSpeakMemberProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		for _, protocol := range memberProtocols {
			conn, err := r.dialTLS("10.0.0.2", r.addrs[0], protocol, r.identities[1])
			if err != nil {
				t.Errorf("%s: a member was refused: %v", protocol, err)
				continue
			}
			if gone(conn) {
				t.Errorf("%s: a member was dropped", protocol)
			}
			conn.Close()

			// In TLS 1.3 a client has finished before it is refused.
			conn, err = r.dialTLS("10.9.9.9", r.addrs[0], protocol, newIdentity(t))
			if err == nil {
				conn.SetReadDeadline(time.Now().Add(time.Minute))
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), "tls: bad certificate") {
				t.Errorf("%s: a stranger was not told: %v", protocol, err)
			}
			conn, err = r.dialTLS("10.9.9.9", r.addrs[0], protocol, nil)
			if err == nil && !gone(conn) {
				t.Errorf("%s: somebody without a certificate was let in", protocol)
			}
		}
	})
}

// A member that was removed is told so, and gets nothing else.
func TestARemovedMemberIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a", "b")
		if err := r.nodes[1].Peers().Handle("echo", func(_ context.Context, _ transport.Fingerprint, body []byte) ([]byte, error) {
			t.Error("it was answered")
			return body, nil
		}); err != nil {
			t.Fatal(err)
		}
		r.members.expel(r.nodes[0].Fingerprint())
		if _, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "echo", nil); !errors.Is(err, transport.ErrRemoved) || !errors.Is(err, transport.ErrNotAdmitted) {
			t.Errorf("a call: %v", err)
		}
		for _, protocol := range []string{"kc-raft/1", "kc-peer/1", "kc-gossip/1"} {
			conn, err := r.dialTLS("a", r.addrs[1], protocol, r.identities[0]) // has read one byte
			if err != nil {
				t.Fatalf("%s: %v", protocol, err)
			}
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("%s: goes on after that", protocol)
			}
			conn.Close()
		}
	})
}

func TestUnknownProtocolIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		for _, protocol := range []string{"kc-raft/2", "kc-", "spdy/3", "acme-tls/1"} {
			if conn, err := r.dialTLS("10.9.9.9", r.addrs[0], protocol, r.identities[0]); err == nil {
				t.Errorf("%q was accepted as %q", protocol, conn.ConnectionState().NegotiatedProtocol)
			}
		}
	})
}

// A member's key in a certificate that is out of date, for another name and
// signed by nobody is still that member's key; tickets are not given out.
func TestOnlyTheKeyCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		f, err := transport.FingerprintOf(public)
		if err != nil {
			t.Fatal(err)
		}
		r.members.add(f, "10.0.0.7:7400")
		past := time.Date(1985, 1, 1, 0, 0, 0, 0, time.UTC)
		template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: past, NotAfter: past.Add(time.Hour), DNSNames: []string{"example.org"}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := r.network.Host("10.0.0.7").Dial(t.Context(), r.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		cache := tls.NewLRUClientSessionCache(4)
		conn := tls.Client(raw, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
			NextProtos:   []string{"kc-raft/1"}, InsecureSkipVerify: true,
			ServerName: "node", ClientSessionCache: cache,
		})
		defer conn.Close()
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := welcomed(conn); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		_, err = conn.Read(make([]byte, 1))
		if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
			t.Errorf("the member was cut off: %v", err)
		}
		if _, ok := cache.Get("node"); ok {
			t.Error("the server gave out a session ticket")
		}
	})
}

// A removed member or client loses what it has open, at once.
func TestCutClosesLiveConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		out, client, other := r.identities[1], newIdentity(t), newIdentity(t)
		r.members.clients[client.Fingerprint()] = true
		var conns []*tls.Conn
		open := func(protocol string, identity *transport.Identity) *tls.Conn {
			conn, err := r.dialTLS("10.0.0.2", r.addrs[0], protocol, identity)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
			return conn
		}
		defer func() {
			for _, conn := range conns {
				conn.Close()
			}
		}()
		for _, protocol := range memberProtocols {
			open(protocol, out)
		}
		open("h2", out)
		fromClient, stays := open("h2", client), open("h2", other)
		if _, err := r.nodes[0].Raft().Dial("10.0.0.2:7400", time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := r.network.Connections("10.0.0.1", "10.0.0.2"); n != 7 {
			t.Fatalf("%d connections, want 7", n)
		}
		start := time.Now()
		r.members.remove(out.Fingerprint())
		r.nodes[0].Cut(out.Fingerprint())
		for i, conn := range conns[:4] {
			if !gone(conn) {
				t.Errorf("connection %d outlived its owner's membership", i)
			}
		}
		r.nodes[0].Cut(client.Fingerprint())
		if !gone(fromClient) {
			t.Error("a removed client kept its connection")
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("cutting took %v", took)
		}
		if n := r.network.Connections("10.0.0.1", "10.0.0.2"); n != 1 {
			t.Errorf("%d connections are left, want 1", n)
		}
		if gone(stays) {
			t.Error("somebody else's connection was cut too")
		}
	})
}

// forgetful takes a fingerprint for a member's once, and never again: it is
// removed in the middle of its handshake.
type forgetful struct {
	*members
	asked atomic.Int32
}

func (f *forgetful) IsMember(transport.Fingerprint) bool { return f.asked.Add(1) == 1 }

func TestRemovalDuringTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		for _, protocol := range memberProtocols {
			server, err := transport.Listen(transport.Config{
				Identity: newIdentity(t), Network: r.network.Host("10.0.0.2"), Listen: "10.0.0.2:0", Directory: &forgetful{members: r.members},
			})
			if err != nil {
				t.Fatal(err)
			}
			conn, err := r.dialTLS("10.0.0.1", server.Addr(), protocol, r.identities[0])
			if err == nil && !gone(conn) {
				t.Errorf("%s: a removed member was let in", protocol)
			}
			server.Close()
		}
	})
}

// Ten thousand callers that say nothing, from a thousand addresses, in a
// second: a member from an address never seen before, one from a known address
// and one behind the attacker's own address all get through.
func TestSlowHandshakesDoNotStarveMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.66.0.1")
		r.nodes[0].Peers().Handle("echo", echo)
		if _, err := r.nodes[1].Peers().Call(t.Context(), r.peer(0), "echo", nil); err != nil {
			t.Fatal(err)
		}
		go func() {
			for i := range 10000 {
				host := fmt.Sprintf("10.66.%d.%d", i%4, i/4%250)
				conn, err := r.network.Host(host).Dial(t.Context(), r.addrs[0])
				if err != nil {
					return
				}
				defer conn.Close()
				time.Sleep(100 * time.Microsecond)
			}
			time.Sleep(5 * time.Second)
		}()
		time.Sleep(500 * time.Millisecond)
		for i := range 3 {
			start := time.Now()
			if _, err := r.nodes[i+1].Peers().Call(t.Context(), r.peer(0), "echo", nil); err != nil {
				t.Errorf("%s: %v", r.hosts[i+1], err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s waited %v", r.hosts[i+1], took)
			}
		}
		time.Sleep(10 * time.Second)
	})
}

func TestSilentHandshakeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		conn, err := r.network.Host("10.66.0.1").Dial(t.Context(), r.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		if !gone(conn) || time.Since(start) > 3*time.Second {
			t.Errorf("a silent caller was kept for %v", time.Since(start))
		}
	})
}

func TestStrangersCannotUseUpTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		go http.Serve(r.nodes[0].API(), whoami)
		client := newIdentity(t)
		r.members.clients[client.Fingerprint()] = true
		var opened []*tls.Conn
		for i := range 2000 {
			conn, err := r.dialTLS(fmt.Sprintf("10.66.0.%d", i%200), r.addrs[0], "http/1.1", nil)
			if err != nil {
				t.Fatal(err)
			}
			opened = append(opened, conn)
			time.Sleep(time.Millisecond)
		}
		if _, _, err := get(r, "http/1.1", client); err != nil {
			t.Errorf("a registered client was kept out: %v", err)
		}
		if _, _, err := get(r, "http/1.1", nil); err != nil {
			t.Errorf("the newest stranger was kept out by the oldest: %v", err)
		}
		open := 0
		for i := range 200 {
			open += r.network.Connections("10.0.0.1", fmt.Sprintf("10.66.0.%d", i))
		}
		if open > 256 {
			t.Errorf("strangers hold %d connections", open)
		}
		a := newAdmission()
		r.nodes[0].HandleJoin(a.handle)
		if _, err := transport.Join(t.Context(), transport.JoinAttempt{
			Network: r.network.Host("10.0.0.9"), Identity: newIdentity(t), Server: r.peer(0), Secret: a.secret,
		}); err != nil {
			t.Errorf("a joiner was kept out: %v", err)
		}
		for _, conn := range opened {
			conn.Close()
		}
	})
}

// whoami answers with the protocol and the caller's fingerprint.
var whoami = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	f, ok := transport.PeerFingerprint(*r.TLS)
	if !ok {
		fmt.Fprintf(w, "%s nobody", r.Proto)
		return
	}
	fmt.Fprintf(w, "%s %s", r.Proto, f)
})

// get asks node 0's API as identity.
func get(r *rig, protocol string, identity *transport.Identity) (string, *tls.ConnectionState, error) {
	var protocols http.Protocols
	protocols.SetHTTP1(protocol != "h2")
	protocols.SetHTTP2(protocol == "h2")
	client := &http.Transport{
		Protocols: &protocols,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return r.dialTLS("10.9.9.9", addr, protocol, identity)
		},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(r.t.Context(), "GET", "https://"+r.addrs[0]+"/", nil)
	if err != nil {
		return "", nil, err
	}
	response, err := client.RoundTrip(request)
	if err != nil {
		return "", nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), response.TLS, err
}

func TestAPISpeaksHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		go http.Serve(r.nodes[0].API(), whoami)
		client := newIdentity(t)
		for protocol, want := range map[string]string{"h2": "HTTP/2.0 ", "http/1.1": "HTTP/1.1 ", "": "HTTP/1.1 "} {
			if got, _, err := get(r, protocol, client); err != nil || got != want+client.Fingerprint().String() {
				t.Errorf("%q: %q, %v", protocol, got, err)
			}
			if got, _, err := get(r, protocol, nil); err != nil || got != want+"nobody" {
				t.Errorf("%q without a certificate: %q, %v", protocol, got, err)
			}
		}
	})
}

func TestSeparateAPIListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		r.start("10.0.0.2", transport.Config{APIListen: "10.0.0.2:443"})
		if conn, err := r.dialTLS("10.9.9.9", "10.0.0.2:443", "h2", nil); err != nil {
			t.Error(err)
		} else {
			conn.Close()
		}
		if _, err := r.dialTLS("10.9.9.9", "10.0.0.2:7400", "h2", nil); err == nil {
			t.Error("the peers' port speaks HTTP")
		}
		if _, err := r.dialTLS("10.0.0.1", "10.0.0.2:443", "kc-raft/1", r.identities[0]); err == nil {
			t.Error("the API's port speaks Raft")
		}
		if got := r.nodes[1].API().Addr().String(); got != "10.0.0.2:443" {
			t.Errorf("API at %s", got)
		}
	})
}

// The ordinary certificate is for those who ask for its name; the others, who
// pin fingerprints, see the node's own.
func TestOrdinaryCertificateForTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), DNSNames: []string{"custodian.example.org"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
		if err != nil {
			t.Fatal(err)
		}
		ordinary, err := transport.FingerprintOf(public)
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t)
		r.start("10.0.0.1", transport.Config{APICertificate: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}})
		own := r.nodes[0].Fingerprint()
		for _, c := range []struct {
			name, protocol string
			want           transport.Fingerprint
		}{
			{"custodian.example.org", "h2", ordinary},
			{"other.example.org", "h2", own},
			{"", "http/1.1", own},
			{"custodian.example.org", "kc-join/1", own},
		} {
			raw, err := r.network.Host("10.9.9.9").Dial(t.Context(), r.addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, &tls.Config{
				ServerName: c.name, NextProtos: []string{c.protocol}, InsecureSkipVerify: true,
				Certificates: []tls.Certificate{newIdentity(t).Certificate()},
			})
			if err := conn.Handshake(); err != nil {
				t.Errorf("%q: %v", c.name, err)
				continue
			}
			if got, _ := transport.PeerFingerprint(conn.ConnectionState()); got != c.want {
				t.Errorf("%q over %s saw %s, want %s", c.name, c.protocol, got, c.want)
			}
			conn.Close()
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	network := transport.NewMemory().Host("10.0.0.1")
	good := transport.Config{Identity: newIdentity(t), Directory: newMembers(), Network: network, Listen: "10.0.0.1:7400"}
	for name, change := range map[string]func(*transport.Config){
		"no identity":         func(c *transport.Config) { c.Identity = nil },
		"no directory":        func(c *transport.Config) { c.Directory = nil },
		"no address":          func(c *transport.Config) { c.Listen = "" },
		"foreign address":     func(c *transport.Config) { c.Listen = "10.0.0.2:7400" },
		"wildcard advertised": func(c *transport.Config) { c.Advertise = "0.0.0.0:7400" },
		"no port advertised":  func(c *transport.Config) { c.Advertise = "10.0.0.1" },
		"API port in use":     func(c *transport.Config) { c.APIListen = c.Listen },
	} {
		config := good
		change(&config)
		if server, err := transport.Listen(config); err == nil {
			t.Errorf("%s: accepted", name)
			server.Close()
		}
	}
	server, err := transport.Listen(good)
	if err != nil {
		t.Fatalf("the port is still held: %v", err)
	}
	if _, err := transport.Listen(good); err == nil {
		t.Error("two servers on one port")
	}
	if err := errors.Join(server.Close(), server.Close()); err != nil {
		t.Error(err)
	}
}
