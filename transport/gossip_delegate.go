package transport

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// gossipDelegate is what memberlist calls, often under its own lock: nothing
// here waits or calls back, and what is kept is copied.
type gossipDelegate struct{ gossip *Gossip }

// NotifyAlive filters what any member says about the existence of another.
func (d gossipDelegate) NotifyAlive(node *memberlist.Node) error {
	g := d.gossip
	if len(node.Meta) > MaxMeta {
		return errors.New("transport: gossip: meta too large")
	}
	if node.Name != g.config.Name {
		if _, ok := g.config.Peer(node.Name); !ok {
			return fmt.Errorf("transport: gossip: %q: %w", node.Name, ErrNotMember)
		}
	}
	want := standIn(node.Name)
	if !node.Addr.Equal(want.ip()) || node.Port != gossipPort {
		return fmt.Errorf("transport: gossip: %q: not its address", node.Name)
	}
	return nil
}

// NotifyJoin is called for a node that is new or back.
func (d gossipDelegate) NotifyJoin(node *memberlist.Node) {
	g := d.gossip
	if node.Name == g.config.Name {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alive[node.Name] = true
	g.emit(PeerAlive, node.Name, node.Meta)
}

// NotifyLeave is called for a node that is dead or has left; memberlist does
// not say which.
func (d gossipDelegate) NotifyLeave(node *memberlist.Node) {
	g := d.gossip
	if node.Name == g.config.Name {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.alive, node.Name)
	g.emit(PeerDead, node.Name, node.Meta)
}

// NotifyUpdate is called for a node with a new meta.
func (d gossipDelegate) NotifyUpdate(node *memberlist.Node) {
	if node.Name != d.gossip.config.Name {
		d.gossip.emit(PeerMeta, node.Name, node.Meta)
	}
}

// NodeMeta returns this node's meta. memberlist panics over one beyond limit.
func (d gossipDelegate) NodeMeta(limit int) []byte {
	d.gossip.mu.Lock()
	defer d.gossip.mu.Unlock()
	if len(d.gossip.meta) > limit {
		return nil
	}
	return bytes.Clone(d.gossip.meta)
}

// Nothing of the product's own travels by gossip.

func (gossipDelegate) NotifyMsg([]byte)                  {}
func (gossipDelegate) GetBroadcasts(int, int) [][]byte   { return nil }
func (gossipDelegate) LocalState(bool) []byte            { return nil }
func (gossipDelegate) MergeRemoteState(_ []byte, _ bool) {}

var (
	_ memberlist.Delegate      = gossipDelegate{}
	_ memberlist.EventDelegate = gossipDelegate{}
	_ memberlist.AliveDelegate = gossipDelegate{}
)
