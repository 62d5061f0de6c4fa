package transport

import (
	"container/list"
	"net"
	"sync"
)

// budget decides which handshakes may be under way. Nobody is known before the
// handshake is done, so it goes by the source address: hosts that a member was
// seen at have a pool of their own, and in both pools a newcomer to a full pool
// pushes out the oldest. Slow handshakes are old handshakes, so 10,000 of them
// only push out one another.
type budget struct {
	strangers, members *pool
	hosts              *recent
}

func newBudget() *budget {
	return &budget{
		strangers: newPool(maxStrangerHandshakes, maxStrangerHandshakesPerSource),
		members:   newPool(maxMemberHandshakes, maxMemberHandshakesPerSource),
		hosts:     newRecent(maxMemberHosts),
	}
}

// enter admits a connection to its handshake. The caller calls leave when the
// handshake has ended, however it did.
func (b *budget) enter(conn net.Conn) (leave func()) {
	source := hostOf(conn.RemoteAddr())
	if b.hosts.has(source) {
		return b.members.enter(conn, source)
	}
	return b.strangers.enter(conn, source)
}

// pool holds a limited number of connections; entering a full one closes the
// oldest, of the same source where that source is at its own limit.
type pool struct {
	limit, perSource int

	mu      sync.Mutex
	entries *list.List // of *poolEntry, oldest first
	sources map[string]int
}

type poolEntry struct {
	conn   net.Conn
	source string
}

func newPool(limit, perSource int) *pool {
	return &pool{limit: limit, perSource: perSource, entries: list.New(), sources: map[string]int{}}
}

func (p *pool) enter(conn net.Conn, source string) (leave func()) {
	p.mu.Lock()
	evicted := p.makeRoom(source)
	element := p.entries.PushBack(&poolEntry{conn, source})
	p.sources[source]++
	p.mu.Unlock()
	// Not under the lock: closing may call the connection's own leave.
	if evicted != nil {
		evicted.Close()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.remove(element)
	}
}

func (p *pool) makeRoom(source string) (evicted net.Conn) {
	if p.sources[source] >= p.perSource {
		for e := p.entries.Front(); e != nil; e = e.Next() {
			if e.Value.(*poolEntry).source == source {
				return p.remove(e)
			}
		}
	}
	if p.entries.Len() >= p.limit {
		return p.remove(p.entries.Front())
	}
	return nil
}

// remove takes an entry out, once, and returns its connection.
func (p *pool) remove(element *list.Element) net.Conn {
	entry := element.Value.(*poolEntry)
	if entry.conn == nil {
		return nil
	}
	conn := entry.conn
	entry.conn = nil
	p.entries.Remove(element)
	if p.sources[entry.source]--; p.sources[entry.source] == 0 {
		delete(p.sources, entry.source)
	}
	return conn
}

// recent is a small set of hosts that forgets the one seen longest ago.
type recent struct {
	limit int

	mu    sync.Mutex
	order *list.List
	at    map[string]*list.Element
}

func newRecent(limit int) *recent {
	return &recent{limit: limit, order: list.New(), at: map[string]*list.Element{}}
}

func (r *recent) add(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.at[host]; e != nil {
		r.order.MoveToBack(e)
		return
	}
	if r.order.Len() >= r.limit {
		delete(r.at, r.order.Remove(r.order.Front()).(string))
	}
	r.at[host] = r.order.PushBack(host)
}

func (r *recent) has(host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at[host] != nil
}
