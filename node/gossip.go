package node

import (
	"fmt"
	"sync"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/transport"
)

// neighbours is what gossip believes about the other members. It decides
// nothing: a hint where to try first, and something for status to show.
type neighbours struct {
	mu   sync.Mutex
	last map[string]transport.GossipKind // by node ID
}

func (b *neighbours) note(event transport.GossipEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == nil {
		b.last = map[string]transport.GossipKind{}
	}
	if event.Kind != transport.PeerMeta {
		b.last[event.Name] = event.Kind
	}
}

// answers tells whether a member is believed to answer. One that gossip has not
// spoken of yet is: trying costs little.
func (b *neighbours) answers(id dkek.NodeID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	kind, known := b.last[id.String()]
	return !known || kind == transport.PeerAlive
}

// startGossip lets this node gossip inside its streams to the other members.
func (n *Node) startGossip(m *membership) error {
	gossip, err := n.server.Gossip(transport.GossipConfig{
		Name: n.id.String(), Meta: []byte(n.config.Advertise), Logger: n.logger,
		Members: func() []string {
			var names []string
			for member := range m.state.State().Members() {
				names = append(names, member.ID.String())
			}
			return names
		},
		Peer: func(name string) (transport.Peer, bool) {
			var id dkek.NodeID
			if !decodeID(id[:], name) {
				return transport.Peer{}, false
			}
			member, ok := m.state.State().Member(id)
			if !ok {
				return transport.Peer{}, false
			}
			return transport.Peer{Fingerprint: transport.Fingerprint(member.Fingerprint), Addr: member.Addr}, true
		},
		Notify: n.neighbours.note,
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	m.gossip = gossip
	return nil
}
