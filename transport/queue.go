package transport

import (
	"context"
	"errors"
	"net"
	"sync"
)

// queue is a net.Listener that is fed with connections whose handshake is done.
type queue struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn, maxPending), closed: make(chan struct{})}
}

// put never waits: where nobody accepts, the connection is refused.
func (q *queue) put(conn net.Conn) error {
	select {
	case <-q.closed:
		return net.ErrClosed
	default:
	}
	select {
	case q.conns <- conn:
		return nil
	default:
		return errors.New("transport: nobody accepts connections fast enough")
	}
}

// Accept returns the next connection.
func (q *queue) Accept() (net.Conn, error) { return q.acceptContext(context.Background()) }

func (q *queue) acceptContext(ctx context.Context) (net.Conn, error) {
	select {
	case <-q.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close stops Accept. Connections still waiting are closed by the server's
// tracker or by their other side.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

// Addr returns where peers reach this listener.
func (q *queue) Addr() net.Addr { return q.addr }

// advertiseAddr is an address as peers are told it; it may hold a DNS name.
type advertiseAddr string

func (advertiseAddr) Network() string  { return "tcp" }
func (a advertiseAddr) String() string { return string(a) }
