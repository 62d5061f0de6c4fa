package transport_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/transport"
)

// gossips runs gossip on every node of a rig; node i is called "node-i".
type gossips struct {
	rig   *rig
	nodes []*transport.Gossip

	mu     sync.Mutex
	events []string // "node-0: dead node-1"
	metas  map[string]string
	kinds  map[string]transport.GossipKind // by "observer subject"
	hung   chan struct{}
}

// hang makes every Notify wait until resume.
func (g *gossips) hang() (resume func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hung = make(chan struct{})
	return sync.OnceFunc(func() { close(g.hung) })
}

func (g *gossips) hanging() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hung == nil {
		g.hung = make(chan struct{})
		close(g.hung)
	}
	return g.hung
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

func newGossips(r *rig) *gossips {
	g := &gossips{rig: r, metas: map[string]string{}, kinds: map[string]transport.GossipKind{}}
	for i := range r.nodes {
		g.nodes = append(g.nodes, g.start(i))
	}
	return g
}

func (g *gossips) start(i int) *transport.Gossip { return g.startAs(i, nodeName(i)) }

func (g *gossips) startAs(i int, name string) *transport.Gossip {
	r := g.rig
	gossip, err := r.nodes[i].Gossip(transport.GossipConfig{
		Name: name,
		Meta: []byte(r.addrs[i]),
		Members: func() []string {
			var names []string
			for i := range r.nodes {
				names = append(names, nodeName(i))
			}
			return names
		},
		Peer: func(name string) (transport.Peer, bool) {
			for i := range r.nodes {
				if name == nodeName(i) && r.members.IsMember(r.nodes[i].Fingerprint()) {
					return r.peer(i), true
				}
			}
			return transport.Peer{}, false
		},
		Notify: func(event transport.GossipEvent) {
			<-g.hanging()
			g.mu.Lock()
			defer g.mu.Unlock()
			key := nodeName(i) + " " + event.Name
			g.events = append(g.events, fmt.Sprintf("%s: %s %s", nodeName(i), event.Kind, event.Name))
			g.kinds[key] = event.Kind
			if event.Meta != nil {
				g.metas[key] = string(event.Meta)
			}
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return gossip
}

func (g *gossips) believes(observer, subject int) transport.GossipKind {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.kinds[nodeName(observer)+" "+nodeName(subject)]
}

func (g *gossips) meta(observer, subject int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.metas[nodeName(observer)+" "+nodeName(subject)]
}

func (g *gossips) seen() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.events)
}

// close ends all and gives memberlist's last probes their time.
func (g *gossips) close() {
	for _, node := range g.nodes {
		node.Close()
	}
	time.Sleep(time.Minute)
}

func TestGossipFindsEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		g := newGossips(r)
		defer g.close()
		time.Sleep(10 * time.Second)
		for i := range r.nodes {
			for j := range r.nodes {
				if i != j && (g.believes(i, j) != transport.PeerAlive || g.meta(i, j) != r.addrs[j]) {
					t.Errorf("node %d believes of node %d: %v at %q", i, j, g.believes(i, j), g.meta(i, j))
				}
			}
		}
		if err := g.nodes[2].UpdateMeta([]byte("10.9.9.9:7400")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if g.meta(0, 2) != "10.9.9.9:7400" || g.meta(1, 2) != "10.9.9.9:7400" {
			t.Errorf("the new address did not arrive: %q, %q", g.meta(0, 2), g.meta(1, 2))
		}
		time.Sleep(2 * time.Hour)
		for _, event := range g.seen() {
			if strings.Contains(event, "dead") {
				t.Errorf("in peace: %s", event)
			}
		}
	})
}

func TestGossipNoticesSilenceAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		g := newGossips(r)
		defer g.close()
		time.Sleep(10 * time.Second)
		r.network.Hang("10.0.0.3")
		time.Sleep(30 * time.Second)
		for i := range 2 {
			if g.believes(i, 2) != transport.PeerDead {
				t.Errorf("node %d believes of a silent node: %v", i, g.believes(i, 2))
			}
		}
		r.network.Resume("10.0.0.3")
		time.Sleep(time.Minute)
		for i := range 2 {
			if g.believes(i, 2) != transport.PeerAlive {
				t.Errorf("node %d believes of the node that is back: %v", i, g.believes(i, 2))
			}
		}
	})
}

func TestGossipForgetsTheRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		g := newGossips(r)
		defer g.close()
		time.Sleep(10 * time.Second)
		out := r.nodes[2].Fingerprint()
		r.members.remove(out)
		for _, node := range r.nodes[:2] {
			node.Cut(out)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait() // the removed node knocks every 5 s and is turned away
		for i := range 2 {
			if g.believes(i, 2) != transport.PeerDead {
				t.Errorf("node %d believes of a removed node: %v", i, g.believes(i, 2))
			}
			if n := r.network.Connections(r.hosts[i], "10.0.0.3"); n != 0 {
				t.Errorf("node %d has %d connections with a removed node", i, n)
			}
		}
	})
}

// A member that calls itself by a name that is in no table is not believed.
func TestGossipRefusesInventedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		g := &gossips{rig: r, metas: map[string]string{}, kinds: map[string]transport.GossipKind{}}
		g.nodes = append(g.nodes, g.start(0), g.start(1), g.startAs(2, "ghost"))
		defer g.close()
		time.Sleep(time.Minute)
		if g.believes(0, 1) != transport.PeerAlive || g.believes(1, 0) != transport.PeerAlive {
			t.Error("the honest do not find each other")
		}
		for _, event := range g.seen() {
			if strings.HasSuffix(event, "ghost") {
				t.Error(event)
			}
		}
	})
}

// A caller that hangs in Notify holds up nothing but its own events, of which
// the newest are kept.
func TestGossipDoesNotWaitForItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		g := newGossips(r)
		defer g.close()
		resume := g.hang()
		time.Sleep(10 * time.Second)
		for i := range 400 {
			if err := g.nodes[1].UpdateMeta(fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		resume()
		time.Sleep(10 * time.Second)
		if got := g.meta(0, 1); got != "399" {
			t.Errorf("the last event is %q", got)
		}
	})
}

func TestGossipConfigIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		good := transport.GossipConfig{
			Name: "a", Members: func() []string { return nil }, Notify: func(transport.GossipEvent) {},
			Peer: func(string) (transport.Peer, bool) { return transport.Peer{}, false },
		}
		for name, change := range map[string]func(*transport.GossipConfig){
			"no name":   func(c *transport.GossipConfig) { c.Name = "" },
			"big meta":  func(c *transport.GossipConfig) { c.Meta = make([]byte, transport.MaxMeta+1) },
			"no notify": func(c *transport.GossipConfig) { c.Notify = nil },
		} {
			config := good
			change(&config)
			if _, err := r.nodes[0].Gossip(config); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		good.Meta = make([]byte, transport.MaxMeta)
		gossip, err := r.nodes[0].Gossip(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := gossip.UpdateMeta(make([]byte, transport.MaxMeta+1)); err == nil {
			t.Error("big new meta: accepted")
		}
		gossip.Close()
		time.Sleep(time.Minute)
	})
}
