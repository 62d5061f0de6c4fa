package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// gossipTransport is memberlist.Transport inside kc-gossip/1 connections. A
// connection's first byte says what follows: packets in frames, one connection
// per peer and direction, or one stream.
type gossipTransport struct {
	server *Server
	config GossipConfig
	ctx    context.Context
	cancel context.CancelFunc

	packets chan *memberlist.Packet
	streams chan net.Conn
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	senders map[string]*gossipSender
}

var _ memberlist.NodeAwareTransport = (*gossipTransport)(nil)

func newGossipTransport(ctx context.Context, s *Server, config GossipConfig) *gossipTransport {
	t := &gossipTransport{
		server:  s,
		config:  config,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		senders: map[string]*gossipSender{},
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.running.Go(t.accept)
	return t
}

// standIn is the address of a node inside memberlist, made from its name.
// memberlist wants an IP address and treats a new one as another node; ours
// come from the members table, may be DNS names and may change. So memberlist
// gets an address that means the name and is never dialled.
type standInAddr [16]byte

const gossipPort = 7400

func standIn(name string) standInAddr {
	digest := sha256.Sum256([]byte("keycustodian gossip address v1\x00" + name))
	addr := standInAddr{0xfd} // RFC 4193: local, so memberlist does not warn
	copy(addr[1:], digest[:])
	return addr
}

func (a standInAddr) ip() net.IP { return net.IP(a[:]) }
func (a standInAddr) address() string {
	return net.JoinHostPort(a.ip().String(), strconv.Itoa(gossipPort))
}

// FinalAdvertiseAddr returns this node's stand-in.
func (t *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return standIn(t.config.Name).ip(), gossipPort, nil
}

// WriteTo is not enough to know a peer; memberlist calls WriteToAddress.
func (t *gossipTransport) WriteTo(_ []byte, addr string) (time.Time, error) {
	return time.Time{}, fmt.Errorf("transport: gossip: %s has no name", addr)
}

// DialTimeout is not enough to know a peer; memberlist calls DialAddressTimeout.
func (t *gossipTransport) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	return nil, fmt.Errorf("transport: gossip: %s has no name", addr)
}

// WriteToAddress queues a packet. Like UDP it promises nothing: a full queue
// or a peer that cannot be reached loses it.
func (t *gossipTransport) WriteToAddress(packet []byte, addr memberlist.Address) (time.Time, error) {
	if len(packet) > maxGossipPacket {
		return time.Time{}, fmt.Errorf("transport: gossip: packet of %d bytes", len(packet))
	}
	// No error for a node that is out: memberlist would take it for a fault of
	// ours and believe the node alive for ever.
	if _, ok := t.config.Peer(addr.Name); !ok {
		return time.Now(), nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return time.Time{}, ErrClosed
	}
	sender := t.senders[addr.Name]
	if sender == nil {
		sender = &gossipSender{transport: t, name: addr.Name, queue: make(chan []byte, maxGossipQueue)}
		t.senders[addr.Name] = sender
		t.running.Go(sender.run)
	}
	select {
	case sender.queue <- bytes.Clone(packet):
	default:
	}
	return time.Now(), nil
}

// DialAddressTimeout opens a stream.
func (t *gossipTransport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.dial(ctx, addr.Name, gossipStream)
	if err != nil {
		return nil, err
	}
	return t.untilShutdown(conn), nil
}

// untilShutdown makes a stream end with gossip, whoever waits on it.
func (t *gossipTransport) untilShutdown(conn net.Conn) net.Conn {
	return &gossipConn{conn, context.AfterFunc(t.ctx, func() { conn.Close() })}
}

type gossipConn struct {
	net.Conn
	stop func() bool
}

func (c *gossipConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (t *gossipTransport) dial(ctx context.Context, name string, kind byte) (net.Conn, error) {
	peer, ok := t.config.Peer(name)
	if !ok {
		return nil, fmt.Errorf("transport: gossip: %q: %w", name, ErrNotMember)
	}
	conn, err := t.server.dial(ctx, peer, protocolGossip)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(deadline)
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// PacketCh delivers peers' packets.
func (t *gossipTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh delivers peers' streams.
func (t *gossipTransport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown ends everything and waits for it.
func (t *gossipTransport) Shutdown() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.running.Wait()
	return nil
}

func (t *gossipTransport) accept() {
	for {
		conn, err := t.server.gossips.acceptContext(t.ctx)
		if err != nil {
			return
		}
		t.running.Go(func() { t.receive(conn.(*peerConn)) })
	}
}

// receive reads one connection's kind and serves it.
func (t *gossipTransport) receive(from *peerConn) {
	conn := t.untilShutdown(from)
	conn.SetReadDeadline(time.Now().Add(gossipKindWait))
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{})
	switch kind[0] {
	case gossipStream:
		select {
		case t.streams <- conn:
			return // memberlist closes it
		case <-t.ctx.Done():
		}
	case gossipPackets:
		t.receivePackets(conn)
	}
	conn.Close()
}

func (t *gossipTransport) receivePackets(conn net.Conn) {
	for {
		data, err := readPacket(conn)
		if err != nil {
			return
		}
		packet := &memberlist.Packet{Buf: data, From: conn.RemoteAddr(), Timestamp: time.Now()}
		select {
		case t.packets <- packet:
		case <-t.ctx.Done():
			return
		}
	}
}
