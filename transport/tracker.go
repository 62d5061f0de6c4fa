package transport

import (
	"net"
	"sync"
)

// tracker knows every open connection of a server, in both directions, and
// whose it is once its handshake is done, so that Cut and Close find them all.
type tracker struct {
	mu      sync.Mutex
	closed  bool
	conns   map[*tracked]struct{}
	owned   map[Fingerprint]map[*tracked]struct{}
	clients int
}

// class is whose share of the connection limits a connection uses.
type class int

const (
	unknown  class = iota // handshake not done: the budget's business
	stranger              // the API, by a key nobody registered or none: a pool's business
	joiner                // join, by anybody: a pool's business
	client                // the API, by a registered key
	member
)

func newTracker() *tracker {
	return &tracker{
		conns: map[*tracked]struct{}{},
		owned: map[Fingerprint]map[*tracked]struct{}{},
	}
}

// tracked is the connection below TLS. Closing it is immediate; closing the
// TLS connection above it says goodbye first and closes it too.
type tracked struct {
	net.Conn
	tracker *tracker
	owner   Fingerprint // valid where class is not unknown
	class   class
	leave   func() // of the pool that it is in, or nil
	once    sync.Once
	err     error
}

// add takes a new connection in; false, and conn is closed, after closeAll.
func (t *tracker) add(conn net.Conn) (*tracked, bool) {
	c := &tracked{Conn: conn, tracker: t}
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.conns[c] = struct{}{}
	}
	t.mu.Unlock()
	if closed {
		conn.Close()
		return nil, false
	}
	return c, true
}

// own records whose connection c is; false where it is closed already or its
// owner has too many.
func (t *tracker) own(c *tracked, owner Fingerprint, kind class) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, open := t.conns[c]; !open {
		return false
	}
	registered := kind == client || kind == member
	if registered && len(t.owned[owner]) >= maxConnectionsPerPeer || kind == client && t.clients >= maxClientConnections {
		return false
	}
	c.owner, c.class = owner, kind
	if kind == client {
		t.clients++
	}
	if t.owned[owner] == nil {
		t.owned[owner] = map[*tracked]struct{}{}
	}
	t.owned[owner][c] = struct{}{}
	return true
}

// pooled has leave called when c is closed, at once where it is already.
func (t *tracker) pooled(c *tracked, leave func()) {
	t.mu.Lock()
	_, open := t.conns[c]
	if open {
		c.leave = leave
	}
	t.mu.Unlock()
	if !open {
		leave()
	}
}

func (t *tracker) remove(c *tracked) (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
	if c.class == client {
		t.clients--
	}
	delete(t.owned[c.owner], c)
	if len(t.owned[c.owner]) == 0 {
		delete(t.owned, c.owner)
	}
	return c.leave
}

// cut closes every connection of one owner.
func (t *tracker) cut(owner Fingerprint) int {
	t.mu.Lock()
	var cut []*tracked
	for c := range t.owned[owner] {
		cut = append(cut, c)
	}
	t.mu.Unlock()
	for _, c := range cut {
		c.Close()
	}
	return len(cut)
}

// members are the owners of members' connections.
func (t *tracker) members() []Fingerprint {
	t.mu.Lock()
	defer t.mu.Unlock()
	var owners []Fingerprint
	for owner, conns := range t.owned {
		for c := range conns {
			if c.class == member {
				owners = append(owners, owner)
				break
			}
		}
	}
	return owners
}

// closeAll closes everything, and whatever is added later.
func (t *tracker) closeAll() {
	t.mu.Lock()
	t.closed = true
	var all []*tracked
	for c := range t.conns {
		all = append(all, c)
	}
	t.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

func (c *tracked) Close() error {
	c.once.Do(func() {
		c.err = c.Conn.Close()
		if leave := c.tracker.remove(c); leave != nil {
			leave()
		}
	})
	return c.err
}
