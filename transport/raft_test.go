package transport_test

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/transport"
)

// counter is an FSM that counts what it applied.
type counter struct{ raft.MockFSM }

// cluster is a Raft group with one node on each server of a rig.
type cluster struct {
	rig    *rig
	rafts  []*raft.Raft
	states []*counter
	layers []*raft.NetworkTransport
}

func newCluster(r *rig) *cluster {
	c := &cluster{rig: r}
	var servers []raft.Server
	for i, addr := range r.addrs {
		servers = append(servers, raft.Server{ID: raft.ServerID(nodeName(i)), Address: raft.ServerAddress(addr)})
	}
	for i, node := range r.nodes {
		config := raft.DefaultConfig()
		config.LocalID = raft.ServerID(nodeName(i))
		config.LogOutput = io.Discard
		store, state := raft.NewInmemStore(), &counter{}
		// One request at a time: Raft's pipeline waits for ever where an answer refuses
		// while more requests are sent (package node keeps it from that).
		layer := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: node.Raft(), MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 5 * time.Second, Logger: hclog.NewNullLogger(),
		})
		instance, err := raft.NewRaft(config, state, store, store, raft.NewInmemSnapshotStore(), layer)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := instance.BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
			r.t.Fatal(err)
		}
		c.rafts, c.states, c.layers = append(c.rafts, instance), append(c.states, state), append(c.layers, layer)
	}
	return c
}

func (c *cluster) close() {
	for i, instance := range c.rafts {
		if err := instance.Shutdown().Error(); err != nil {
			c.rig.t.Error(err)
		}
		c.layers[i].Close()
	}
}

// leader waits for one that can commit, other than the given node.
func (c *cluster) leader(not int) int {
	c.rig.t.Helper()
	for range 300 {
		for i, instance := range c.rafts {
			if i != not && instance.State() == raft.Leader && instance.VerifyLeader().Error() == nil {
				return i
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.rig.t.Fatal("no leader after 30 s")
	return -1
}

func (c *cluster) apply(leader, n int) {
	c.rig.t.Helper()
	for i := range n {
		if err := c.rafts[leader].Apply(fmt.Append(nil, i), time.Second).Error(); err != nil {
			c.rig.t.Fatalf("apply: %v", err)
		}
	}
}

func (c *cluster) expect(n int) {
	c.rig.t.Helper()
	for i, state := range c.states {
		if got := len(state.Logs()); got != n {
			c.rig.t.Errorf("node %d has applied %d entries, want %d", i, got, n)
		}
	}
}

func TestRaftSurvivesPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		c := newCluster(r)
		defer c.close()
		first := c.leader(-1)
		c.apply(first, 20)

		r.network.Isolate(r.hosts[first])
		second := c.leader(first)
		c.apply(second, 20)

		r.network.HealAll()
		time.Sleep(10 * time.Second)
		c.apply(c.leader(-1), 1)
		time.Sleep(5 * time.Second)
		c.expect(41)

		// Slow, and with its connections torn now and then.
		for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
			r.network.Delay(r.hosts[pair[0]], r.hosts[pair[1]], 20*time.Millisecond)
		}
		third := c.leader(-1)
		for range 5 {
			c.apply(third, 4)
			r.network.Drop(r.hosts[third], r.hosts[(third+1)%3])
		}
		time.Sleep(5 * time.Second)
		c.expect(61)
	})
}

// A member that is removed while it leads loses its streams; the rest go on
// without it, though it still believes in itself.
func TestRaftGoesOnWithoutTheRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		c := newCluster(r)
		defer c.close()
		first := c.leader(-1)
		c.apply(first, 5)
		out := r.nodes[first].Fingerprint()
		r.members.remove(out)
		for i, node := range r.nodes {
			if i != first {
				node.Cut(out)
			}
		}
		second := c.leader(first)
		c.apply(second, 5)
		if got := len(c.states[first].Logs()); got != 5 {
			t.Errorf("the removed node has applied %d entries, want 5", got)
		}
	})
}

func TestRaftLayerSaysItsAdvertisedAddress(t *testing.T) {
	r := newRig(t)
	r.start("10.0.0.1", transport.Config{Advertise: "custodian-1.example.org:7400"})
	if got := r.nodes[0].Raft().Addr().String(); got != "custodian-1.example.org:7400" {
		t.Errorf("address %s", got)
	}
}
