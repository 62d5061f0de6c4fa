package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Config says who a server is and where. Identity, Listen and Directory are
// required.
type Config struct {
	// Identity is this node's key pair.
	Identity *Identity // see also Server.Identify
	// Network is how connections are made; nil means TCP().
	Network Network
	// Listen is the address of the one port, host:port.
	Listen string
	// Advertise is the address that peers are told to dial; empty means the
	// address listened on. It must not be a wildcard: Raft hands it out.
	Advertise string
	// APIListen is an address of its own for the API; empty means Listen.
	// Where it is set, Listen does not speak HTTP.
	APIListen string
	// APICertificate is shown to API clients that ask for a name it is valid
	// for; nil means that every client sees the Identity.
	APICertificate *tls.Certificate
	// Directory tells who is a member.
	Directory Directory
	// Logger receives refusals at Debug and failures at Warn; nil discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.Identity == nil:
		return errors.New("transport: config: no identity")
	case c.Directory == nil:
		return errors.New("transport: config: no directory")
	case c.Listen == "":
		return errors.New("transport: config: no address to listen on")
	}
	if c.Network == nil {
		c.Network = TCP()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Server is one node's end of everything: it listens, dials and keeps account
// of every connection. Its methods may be called from any goroutine.
type Server struct {
	config    Config
	advertise string
	ctx       context.Context
	cancel    context.CancelFunc
	listeners []net.Listener
	budget    *budget
	tracker   *tracker
	keys      atomic.Pointer[identities]
	running   sync.WaitGroup

	raft      *RaftLayer
	peers     *Peers
	gossips   *queue
	apis      *queue
	strangers *pool // API connections of callers whom nobody registered
	joins     *pool // join requests that are not proven yet
	joining   chan struct{}
	join      atomic.Pointer[JoinHandler]
}

// Listen starts a server. Close ends it.
func Listen(config Config) (*Server, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	listener, err := config.Network.Listen(config.Listen)
	if err != nil {
		return nil, fmt.Errorf("transport: listen on %s: %w", config.Listen, err)
	}
	advertise := config.Advertise
	if advertise == "" {
		advertise = listener.Addr().String()
	}
	if err := dialable(advertise); err != nil {
		listener.Close()
		return nil, err
	}
	s := &Server{
		config:    config,
		advertise: advertise,
		listeners: []net.Listener{listener},
		budget:    newBudget(),
		tracker:   newTracker(),
		strangers: newPool(maxStrangerConnections, maxStrangerConnectionsPerSource),
		joins:     newPool(maxUnprovenJoins, maxUnprovenJoinsPerSource),
		joining:   make(chan struct{}, maxJoins),
	}
	s.keys.Store(&identities{current: config.Identity})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	addr := advertiseAddr(advertise)
	s.gossips, s.apis = newQueue(addr), newQueue(addr)
	s.raft = &RaftLayer{server: s, queue: newQueue(addr)}
	if config.APIListen != "" {
		separate, err := config.Network.Listen(config.APIListen)
		if err != nil {
			listener.Close()
			return nil, fmt.Errorf("transport: listen for the API on %s: %w", config.APIListen, err)
		}
		s.listeners = append(s.listeners, separate)
		s.apis.addr = separate.Addr()
	}
	s.peers = newPeers(s)
	for i, l := range s.listeners {
		separate := len(s.listeners) > 1
		settings := s.serverTLS(i == 0, i == 1 || !separate)
		s.running.Go(func() { s.accept(l, settings) })
	}
	return s, nil
}

// dialable refuses what no peer can dial.
func dialable(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("transport: advertise %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || port == "" || port == "0" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("transport: advertise %q: peers cannot dial that: give this node's own address", addr)
	}
	return nil
}

// Addr returns the address that peers are told to dial.
func (s *Server) Addr() string { return s.advertise }

// Fingerprint returns this node's own.
func (s *Server) Fingerprint() Fingerprint { return s.keys.Load().current.fingerprint }

// Identify changes this node's key. Other, which may be nil, is for peers that do
// not know current: shown to those who ask for it, and tried where current is not
// admitted. Open connections stay as they are; each peer cuts what it believes no
// more.
func (s *Server) Identify(current, other *Identity) { s.keys.Store(&identities{current, other}) }

// Raft returns the stream layer for raft.NewNetworkTransport.
func (s *Server) Raft() *RaftLayer { return s.raft }

// Peers returns the caller and the methods of peer RPC.
func (s *Server) Peers() *Peers { return s.peers }

// API returns a listener of TLS connections, handshake done, for
// http.Server.Serve, which finds h2 or http/1.1 by itself. Callers may be
// anybody; PeerFingerprint(*r.TLS) tells who. Closing it stops the API alone.
func (s *Server) API() net.Listener { return s.apis }

// Cut closes every connection with a fingerprint at once, in both directions:
// Raft, peer RPC, gossip, join and API. Call it after the Directory has
// forgotten the fingerprint, else it may be back before Cut returns.
func (s *Server) Cut(f Fingerprint) {
	if n := s.tracker.cut(f); n > 0 {
		s.config.Logger.Info("cut connections", "peer", f.String(), "connections", n)
	}
}

// CutFormer cuts everybody with whom a member's connection is open and whom the
// Directory does not call a member any more: it may have known one only for as
// long as it knew no better.
func (s *Server) CutFormer() {
	for _, f := range s.tracker.members() {
		if !s.config.Directory.IsMember(f) {
			s.Cut(f)
		}
	}
}

// Close ends all connections, waits for handlers to return and ends every
// goroutine of the server. Close a Gossip first, and shut Raft down first.
func (s *Server) Close() error {
	s.cancel()
	var errs []error
	for _, l := range s.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, q := range []*queue{s.raft.queue, s.gossips, s.apis} {
		q.Close()
	}
	s.tracker.closeAll()
	s.peers.close()
	s.running.Wait()
	return errors.Join(errs...)
}

// accept never waits for a caller: each handshake is a goroutine's affair.
func (s *Server) accept(l net.Listener, settings *tls.Config) {
	for {
		raw, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: wait for some to come back.
			s.config.Logger.Warn("accept failed", "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		conn, ok := s.tracker.add(raw)
		if !ok {
			return
		}
		leave := s.budget.enter(conn)
		s.running.Go(func() { s.handshake(conn, settings, leave) })
	}
}

func (s *Server) handshake(conn *tracked, settings *tls.Config, leave func()) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	secured := tls.Server(conn, settings)
	err := secured.HandshakeContext(ctx)
	leave()
	if err == nil {
		err = s.admit(conn, secured)
	}
	if err != nil {
		conn.Close()
		s.config.Logger.Debug("connection refused", "from", conn.RemoteAddr().String(), "error", err)
	}
}

// admit looks at who the caller proved to be and hands the connection to what
// it asked to speak.
func (s *Server) admit(conn *tracked, secured *tls.Conn) error {
	state := secured.ConnectionState()
	caller, _ := PeerFingerprint(state)
	protocol := state.NegotiatedProtocol
	kind := s.classify(protocol, caller)
	if !s.tracker.own(conn, caller, kind) {
		return fmt.Errorf("transport: %s from %s: too many connections", protocol, caller)
	}
	if kind == member {
		// After own, so that a removal either is seen here or cuts this.
		if !s.config.Directory.IsMember(caller) {
			return s.turnAway(secured, caller)
		}
		s.budget.hosts.add(hostOf(conn.RemoteAddr()))
		if err := greet(secured, welcomeByte); err != nil {
			return err
		}
	}
	if kind == stranger {
		s.tracker.pooled(conn, s.strangers.enter(conn, hostOf(conn.RemoteAddr())))
	}
	switch protocol {
	case protocolRaft:
		return s.raft.queue.put(secured)
	case protocolPeer:
		return s.peers.queue.put(&peerConn{secured, caller})
	case protocolGossip:
		return s.gossips.put(&peerConn{secured, caller})
	case protocolJoin:
		s.serveJoin(conn, secured, caller)
		return nil
	case protocolHTTP2, protocolHTTP1, "":
		return s.apis.put(secured)
	}
	return fmt.Errorf("transport: unknown protocol %q", protocol)
}

// turnAway tells a member that was removed.
func (s *Server) turnAway(secured *tls.Conn, caller Fingerprint) error {
	if !s.config.Directory.WasMember(caller) {
		return ErrNotMember
	}
	return errors.Join(ErrNotMember, greet(secured, farewellByte))
}

func (s *Server) classify(protocol string, caller Fingerprint) class {
	switch protocol {
	case protocolRaft, protocolPeer, protocolGossip:
		return member
	case protocolJoin:
		return joiner
	}
	if s.config.Directory.IsMember(caller) || s.config.Directory.IsClient(caller) {
		return client
	}
	return stranger
}
