package transport

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// RaftLayer is a raft.StreamLayer over the server's port.
type RaftLayer struct {
	server *Server
	queue  *queue
}

var _ raft.StreamLayer = (*RaftLayer)(nil)

// Accept returns the next Raft stream of a member.
func (l *RaftLayer) Accept() (net.Conn, error) { return l.queue.Accept() }

// Close stops Accept; the server goes on.
func (l *RaftLayer) Close() error { return l.queue.Close() }

// Addr returns the advertised address.
func (l *RaftLayer) Addr() net.Addr { return advertiseAddr(l.server.advertise) }

// Dial opens a stream to the member whose address is addr. The Directory says
// which key that member has; an address it does not know is not dialled, and
// another member's key at this address is as wrong as a stranger's, since Raft
// would count its answers as the first one's.
func (l *RaftLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	fingerprint, ok := l.server.config.Directory.MemberAt(string(addr))
	if !ok {
		return nil, fmt.Errorf("transport: raft: no member has the address %s: %w", addr, ErrNotMember)
	}
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return l.server.dial(ctx, Peer{Fingerprint: fingerprint, Addr: string(addr)}, protocolRaft)
}
