package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The first byte of a kc-gossip/1 connection.
const (
	gossipPackets = 'P'
	gossipStream  = 'S'
)

// writePacket writes a two-byte big-endian length and the packet in one Write.
func writePacket(w io.Writer, packet []byte) error {
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(packet)), uint16(len(packet)))
	_, err := w.Write(append(frame, packet...))
	return err
}

// readPacket reads what writePacket wrote. An empty packet is refused.
func readPacket(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("transport: gossip: %w", err)
	}
	size := binary.BigEndian.Uint16(head[:])
	if size == 0 {
		return nil, errors.New("transport: gossip: empty packet")
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, fmt.Errorf("transport: gossip: %w", err)
	}
	return packet, nil
}

// gossipSender writes the packets for one peer on one connection.
type gossipSender struct {
	transport *gossipTransport
	name      string
	queue     chan []byte
	conn      net.Conn
	retryAt   time.Time
}

func (s *gossipSender) run() {
	defer s.drop()
	for {
		select {
		case packet := <-s.queue:
			if _, ok := s.transport.config.Peer(s.name); !ok {
				s.transport.forget(s)
				return
			}
			s.send(packet)
		case <-s.transport.ctx.Done():
			return
		}
	}
}

// send dials where it must, and gives up on a peer for a moment after a
// failure: the packets of that moment would be stale when it is back.
func (s *gossipSender) send(packet []byte) {
	ctx, cancel := context.WithTimeout(s.transport.ctx, handshakeTimeout)
	defer cancel()
	if s.conn == nil {
		if time.Now().Before(s.retryAt) {
			return
		}
		conn, err := s.transport.dial(ctx, s.name, gossipPackets)
		if err != nil {
			s.retryAt = time.Now().Add(gossipRedial)
			return
		}
		s.conn = conn
	}
	// The deadline of ctx, and Shutdown does not wait for a peer that does not
	// read.
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writePacket(s.conn, packet); err != nil {
		s.drop()
	}
}

func (s *gossipSender) drop() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// forget takes out the sender of a peer that is no member any more.
func (t *gossipTransport) forget(s *gossipSender) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.senders[s.name] == s {
		delete(t.senders, s.name)
	}
}
