package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
)

// Handler answers one method for a member. from is the caller's proven
// fingerprint; body is the handler's to keep, at most MaxBody bytes. ctx ends
// when the caller gives up, is removed, or the server closes.
type Handler func(ctx context.Context, from Fingerprint, body []byte) ([]byte, error)

// Peers is request and answer between members: HTTP/2 inside kc-peer/1
// streams, one connection per peer, many requests at a time.
type Peers struct {
	server    *Server
	queue     *queue
	http      *http.Server
	transport *http.Transport

	mu       sync.Mutex
	closed   bool
	handlers map[string]Handler
	addrs    map[Fingerprint]string // where to dial, as last named by a caller
	running  sync.WaitGroup         // handlers
}

func newPeers(s *Server) *Peers {
	p := &Peers{
		server:   s,
		queue:    newQueue(advertiseAddr(s.advertise)),
		handlers: map[string]Handler{},
		addrs:    map[Fingerprint]string{},
	}
	// TLS is done below; what net/http sees is a plain stream with HTTP/2.
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	settings := &http.HTTP2Config{
		MaxConcurrentStreams: maxPeerRequests,
		SendPingTimeout:      pingAfter,
		PingTimeout:          pingTimeout,
		WriteByteTimeout:     pingAfter + pingTimeout,
	}
	p.http = &http.Server{
		Handler:        http.HandlerFunc(p.serve),
		Protocols:      &protocols,
		HTTP2:          settings,
		MaxHeaderBytes: 8 << 10,
		BaseContext:    func(net.Listener) context.Context { return s.ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, conn.(*peerConn).peer)
		},
		ErrorLog: slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	p.transport = p.caller(p.dial)
	s.running.Go(func() { p.http.Serve(p.queue) })
	return p
}

type callerKey struct{}

// caller makes the calling half. It speaks what the answering half does.
func (p *Peers) caller(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		Protocols:              p.http.Protocols,
		HTTP2:                  p.http.HTTP2,
		DisableCompression:     true,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 8 << 10,
		DialContext:            dial,
	}
}

// Handle registers the handler of a method: 1 to 64 of a-z, 0-9, "-", "_" and
// ".". Registering a method again replaces its handler.
func (p *Peers) Handle(method string, handler Handler) error {
	if !validName(method, MaxMethod) {
		return fmt.Errorf("transport: handle: %q is no method name", method)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[method] = handler
	return nil
}

// Call sends body to a peer's method and returns its answer, each at most
// MaxBody bytes. It dials where no connection is open. A context without a
// deadline gets 30 seconds.
//
// A *RemoteError is the peer's own answer. ErrNotMember, ErrTooLarge and a
// *FingerprintError mean that nothing was sent. After any other error the peer
// may or may not have acted: callers repeat with the same request ID.
func (p *Peers) Call(ctx context.Context, peer Peer, method string, body []byte) ([]byte, error) {
	return p.call(ctx, p.transport, peer, method, body)
}

// CallAt is Call over a connection of its own, which ends with it: whoever answers is
// at this address now, wherever the peer's other connections lead. The peer may be
// this server itself.
func (p *Peers) CallAt(ctx context.Context, peer Peer, method string, body []byte) ([]byte, error) {
	alone := p.caller(func(ctx context.Context, _, _ string) (net.Conn, error) { return p.connect(ctx, peer) })
	defer alone.CloseIdleConnections()
	return p.call(ctx, alone, peer, method, body)
}

func (p *Peers) call(ctx context.Context, over *http.Transport, peer Peer, method string, body []byte) ([]byte, error) {
	answer, err := p.ask(ctx, over, peer, method, body)
	if err != nil {
		var remote *RemoteError
		if errors.As(err, &remote) {
			return nil, err
		}
		return nil, fmt.Errorf("transport: call %s at %s: %w", method, peer.Addr, err)
	}
	return answer, nil
}

func (p *Peers) ask(ctx context.Context, over *http.Transport, peer Peer, method string, body []byte) ([]byte, error) {
	if !validName(method, MaxMethod) {
		return nil, fmt.Errorf("%q is no method name", method)
	}
	if len(body) > MaxBody {
		return nil, ErrTooLarge
	}
	// A pooled connection may outlive its peer's membership by a moment.
	if !p.server.config.Directory.IsMember(peer.Fingerprint) {
		return nil, ErrNotMember
	}
	if over == p.transport && !p.remember(peer) {
		return nil, ErrClosed
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	// The host is the fingerprint: net/http pools by host, and a connection
	// belongs to a key, wherever that key lives at the moment.
	target := "http://" + peer.Fingerprint.String() + "/" + method
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := over.RoundTrip(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, readError(response)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, MaxBody+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > MaxBody {
		return nil, fmt.Errorf("answer: %w", errOversizedAnswer)
	}
	return answer, nil
}

// errOversizedAnswer is not ErrTooLarge, which promises that nothing was sent.
var errOversizedAnswer = errors.New("larger than 1 MiB")

func readError(response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, maxErrorFrame))
	if err != nil {
		return err
	}
	remote, err := decodeError(data)
	if err != nil {
		return fmt.Errorf("status %d: %w", response.StatusCode, err)
	}
	return remote
}

func (p *Peers) remember(peer Peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs[peer.Fingerprint] = peer.Addr
	return !p.closed
}

// dial is net/http's way to a new connection; addr is a fingerprint with a port.
func (p *Peers) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	fingerprint, err := ParseFingerprint(host)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	target := p.addrs[fingerprint]
	p.mu.Unlock()
	return p.connect(ctx, Peer{fingerprint, target})
}

func (p *Peers) connect(ctx context.Context, peer Peer) (net.Conn, error) {
	conn, err := p.server.dial(ctx, peer, protocolPeer)
	if err != nil {
		return nil, err
	}
	return &peerConn{conn, peer.Fingerprint}, nil
}

// close ends the handlers and the pooled connections.
func (p *Peers) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.queue.Close()
	p.http.Close()
	p.transport.CloseIdleConnections()
	p.running.Wait()
}
