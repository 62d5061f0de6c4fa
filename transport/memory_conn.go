package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memoryWindow is how many bytes one direction holds before a writer waits.
const memoryWindow = 256 << 10

// memoryConn is one end of a stream. What it reads lies in its own inbox,
// where its peer's Write puts it. Everything is guarded by the network's lock.
type memoryConn struct {
	memory        *Memory
	host          string
	local, remote memoryAddr
	peer          *memoryConn
	cond          *sync.Cond

	inbox  []parcel
	size   int
	finAt  time.Time // when the peer's close arrives; zero while it is open
	closed bool
	reset  bool

	read, write deadline
	arrival     *time.Timer
	arrivalAt   time.Time
}

// parcel is what one Write sent, readable from at on.
type parcel struct {
	at   time.Time
	data []byte
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (m *Memory) pair(nearHost string, near memoryAddr, farHost string, far memoryAddr) (*memoryConn, *memoryConn) {
	a := &memoryConn{memory: m, host: nearHost, local: near, remote: far, cond: sync.NewCond(&m.mu)}
	b := &memoryConn{memory: m, host: farHost, local: far, remote: near, cond: sync.NewCond(&m.mu)}
	a.peer, b.peer = b, a
	m.conns[a], m.conns[b] = struct{}{}, struct{}{}
	return a, b
}

func (c *memoryConn) Read(p []byte) (int, error) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.read.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case c.reset:
			return 0, c.fail("read", syscall.ECONNRESET)
		case len(p) == 0:
			return 0, nil
		}
		if c.memory.open(c.peer.host, c.host) {
			now := time.Now()
			if len(c.inbox) > 0 {
				if !c.inbox[0].at.After(now) {
					return c.take(p), nil
				}
				c.wakeAt(c.inbox[0].at)
			} else if !c.finAt.IsZero() {
				if !c.finAt.After(now) {
					return 0, io.EOF
				}
				c.wakeAt(c.finAt)
			}
		}
		c.cond.Wait()
	}
}

func (c *memoryConn) take(p []byte) int {
	head := &c.inbox[0]
	n := copy(p, head.data)
	head.data = head.data[n:]
	if len(head.data) == 0 {
		c.inbox = c.inbox[1:]
	}
	c.size -= n
	c.peer.cond.Broadcast()
	return n
}

func (c *memoryConn) Write(p []byte) (int, error) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	written := 0
	for {
		switch {
		case c.closed:
			return written, c.fail("write", net.ErrClosed)
		case c.write.passed():
			return written, c.fail("write", os.ErrDeadlineExceeded)
		case c.reset:
			return written, c.fail("write", syscall.ECONNRESET)
		case c.peer.closed && c.memory.open(c.host, c.peer.host) && c.memory.open(c.peer.host, c.host):
			return written, c.fail("write", syscall.EPIPE)
		case len(p) == 0:
			return written, nil
		}
		if room := memoryWindow - c.peer.size; room > 0 {
			n := min(room, len(p))
			c.send(p[:n])
			p, written = p[n:], written+n
			continue
		}
		c.cond.Wait()
	}
}

func (c *memoryConn) send(p []byte) {
	far := c.peer
	far.inbox = append(far.inbox, parcel{c.arrives(), append([]byte(nil), p...)})
	far.size += len(p)
	far.cond.Broadcast()
}

// arrives returns when something sent now reaches the peer: never before what
// was sent earlier.
func (c *memoryConn) arrives() time.Time {
	at := time.Now().Add(c.memory.delays[link{c.host, c.peer.host}])
	if n := len(c.peer.inbox); n > 0 && c.peer.inbox[n-1].at.After(at) {
		at = c.peer.inbox[n-1].at
	}
	return at
}

func (c *memoryConn) Close() error {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	c.peer.finAt = c.arrives()
	for _, timer := range []*time.Timer{c.arrival, c.read.timer, c.write.timer} {
		if timer != nil {
			timer.Stop()
		}
	}
	delete(c.memory.conns, c)
	c.inbox = nil
	c.cond.Broadcast()
	c.peer.cond.Broadcast()
	return nil
}

// wakeAt has the reader look again when the next parcel arrives.
func (c *memoryConn) wakeAt(at time.Time) {
	if c.arrival != nil && c.arrivalAt.Equal(at) {
		return
	}
	if c.arrival != nil {
		c.arrival.Stop()
	}
	c.arrivalAt, c.arrival = at, c.wakeIn(time.Until(at))
}

func (c *memoryConn) wakeIn(d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() {
		c.memory.mu.Lock()
		defer c.memory.mu.Unlock()
		c.cond.Broadcast()
	})
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *memoryConn) SetReadDeadline(t time.Time) error  { return c.setDeadline(&c.read, t) }
func (c *memoryConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.write, t) }

func (c *memoryConn) setDeadline(d *deadline, t time.Time) error {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.closed {
		return c.fail("set deadline", net.ErrClosed)
	}
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() && time.Until(t) > 0 {
		d.timer = c.wakeIn(time.Until(t))
	}
	c.cond.Broadcast()
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr  { return c.local }
func (c *memoryConn) RemoteAddr() net.Addr { return c.remote }

func (c *memoryConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "memory", Source: c.local, Addr: c.remote, Err: err}
}
