package transport

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Memory is a network in memory for tests: hosts with names of the test's
// choice, joined by buffered streams. Nothing in it waits except on locks,
// condition variables and timers, so it works inside testing/synctest bubbles,
// where its delays cost no wall time.
//
// A cut link behaves like TCP over a cut wire: bytes under way are held back
// and arrive after Heal, dials wait, and neither side is told.
type Memory struct {
	mu        sync.Mutex
	dialing   *sync.Cond
	listeners map[string]*memoryListener
	conns     map[*memoryConn]struct{}
	blocked   map[link]bool
	delays    map[link]time.Duration
	hung      map[string]bool
	nextPort  int
}

// link is one direction between two hosts.
type link struct{ from, to string }

// NewMemory returns a network on which every host reaches every other.
func NewMemory() *Memory {
	m := &Memory{
		listeners: map[string]*memoryListener{},
		conns:     map[*memoryConn]struct{}{},
		blocked:   map[link]bool{},
		delays:    map[link]time.Duration{},
		hung:      map[string]bool{},
		nextPort:  40000,
	}
	m.dialing = sync.NewCond(&m.mu)
	return m
}

// Host returns the network as seen by the host of that name, such as
// "10.0.0.1". It may be called again for the same host.
func (m *Memory) Host(name string) Network { return memoryHost{m, name} }

// Partition cuts both directions between two hosts.
func (m *Memory) Partition(a, b string) {
	m.change(func() { m.blocked[link{a, b}], m.blocked[link{b, a}] = true, true })
}

// PartitionOneWay holds back what from sends to to. Dials between them wait in
// either direction, since a handshake needs both.
func (m *Memory) PartitionOneWay(from, to string) {
	m.change(func() { m.blocked[link{from, to}] = true })
}

// Heal mends both directions between two hosts.
func (m *Memory) Heal(a, b string) {
	m.change(func() { delete(m.blocked, link{a, b}); delete(m.blocked, link{b, a}) })
}

// HealAll mends every cut link and wakes every hung host. Delays stay.
func (m *Memory) HealAll() {
	m.change(func() { clear(m.blocked); clear(m.hung) })
}

// Isolate cuts a host off from every host that listens or is connected now.
func (m *Memory) Isolate(host string) {
	m.change(func() {
		others := map[string]bool{}
		for _, l := range m.listeners {
			others[l.host] = true
		}
		for c := range m.conns {
			others[c.host] = true
		}
		for other := range others {
			m.blocked[link{host, other}], m.blocked[link{other, host}] = true, true
		}
	})
}

// Delay makes every byte between two hosts take d in each direction; bytes
// already under way keep their time.
func (m *Memory) Delay(a, b string, d time.Duration) {
	m.change(func() { m.delays[link{a, b}], m.delays[link{b, a}] = d, d })
}

// Drop resets the connections that are open between two hosts. New ones can be
// made at once.
func (m *Memory) Drop(a, b string) {
	m.change(func() {
		for c := range m.conns {
			if c.host == a && c.peer.host == b || c.host == b && c.peer.host == a {
				c.reset = true
			}
		}
	})
}

// Hang makes a host silent: what it sends and what is sent to it is held back,
// its connections stay open, and dials to it wait. It is a stopped process or
// a dead switch port.
func (m *Memory) Hang(host string) { m.change(func() { m.hung[host] = true }) }

// Resume ends Hang.
func (m *Memory) Resume(host string) { m.change(func() { delete(m.hung, host) }) }

// Crash closes a host's listeners and resets its connections, as the kernel
// does for a killed process. The host may listen again.
func (m *Memory) Crash(host string) {
	m.change(func() {
		for addr, l := range m.listeners {
			if l.host == host {
				l.close(addr)
			}
		}
		for c := range m.conns {
			if c.host == host || c.peer.host == host {
				c.reset = true
			}
		}
	})
}

// change runs f under the lock and wakes everything that may have waited for it.
func (m *Memory) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	m.dialing.Broadcast()
	for c := range m.conns {
		c.cond.Broadcast()
	}
}

func (m *Memory) open(from, to string) bool {
	return from == to || !m.hung[from] && !m.hung[to] && !m.blocked[link{from, to}]
}

type memoryHost struct {
	memory *Memory
	name   string
}

func (h memoryHost) Listen(addr string) (net.Listener, error) {
	m := h.memory
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("transport: memory: listen: %w", err)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = h.name
	}
	if host != h.name {
		return nil, fmt.Errorf("transport: memory: listen %s: %w", addr, syscall.EADDRNOTAVAIL)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if port == "0" {
		port = m.port()
	}
	full := net.JoinHostPort(host, port)
	if m.listeners[full] != nil {
		return nil, fmt.Errorf("transport: memory: listen %s: %w", full, syscall.EADDRINUSE)
	}
	l := &memoryListener{memory: m, host: h.name, addr: memoryAddr(full), cond: sync.NewCond(&m.mu)}
	m.listeners[full] = l
	m.dialing.Broadcast()
	return l, nil
}

func (h memoryHost) Dial(ctx context.Context, addr string) (net.Conn, error) {
	m := h.memory
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("transport: memory: dial: %w", err)
	}
	if err := m.roundTrip(ctx, h.name, host); err != nil {
		return nil, fmt.Errorf("transport: memory: dial %s: %w", addr, err)
	}
	defer context.AfterFunc(ctx, func() { m.change(func() {}) })()
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("transport: memory: dial %s: %w", addr, err)
		}
		if m.open(h.name, host) && m.open(host, h.name) {
			l := m.listeners[addr]
			if l == nil {
				return nil, fmt.Errorf("transport: memory: dial %s: %w", addr, syscall.ECONNREFUSED)
			}
			if len(l.queue) < memoryBacklog {
				near, far := m.pair(h.name, memoryAddr(net.JoinHostPort(h.name, m.port())), l.host, l.addr)
				l.queue = append(l.queue, far)
				l.cond.Signal()
				return near, nil
			}
		}
		m.dialing.Wait()
	}
}

// roundTrip waits as long as a connection takes to be set up.
func (m *Memory) roundTrip(ctx context.Context, from, to string) error {
	m.mu.Lock()
	d := m.delays[link{from, to}] + m.delays[link{to, from}]
	m.mu.Unlock()
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Memory) port() string {
	m.nextPort++
	return strconv.Itoa(m.nextPort)
}

// memoryBacklog is how many connections wait for Accept before dials wait too.
const memoryBacklog = 128

type memoryListener struct {
	memory *Memory
	host   string
	addr   memoryAddr
	cond   *sync.Cond
	queue  []*memoryConn
	closed bool
}

func (l *memoryListener) Accept() (net.Conn, error) {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	for len(l.queue) == 0 {
		if l.closed {
			return nil, fmt.Errorf("transport: memory: accept: %w", net.ErrClosed)
		}
		l.cond.Wait()
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	l.memory.dialing.Broadcast()
	return c, nil
}

func (l *memoryListener) Close() error {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	if l.closed {
		return fmt.Errorf("transport: memory: close listener: %w", net.ErrClosed)
	}
	l.close(string(l.addr))
	return nil
}

// close is called under the lock. Connections nobody accepted are reset.
func (l *memoryListener) close(addr string) {
	l.closed = true
	delete(l.memory.listeners, addr)
	for _, c := range l.queue {
		c.reset, c.peer.reset = true, true
		c.peer.cond.Broadcast()
	}
	l.queue = nil
	l.cond.Broadcast()
	l.memory.dialing.Broadcast()
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }

// Connections returns how many connections are open between two hosts, seen
// from the first.
func (m *Memory) Connections(a, b string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for c := range m.conns {
		if c.host == a && c.peer.host == b && !c.reset {
			n++
		}
	}
	return n
}
