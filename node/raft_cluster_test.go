package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// register is a machine for tests: an append-only list that takes every command
// once. A command "boom" is of a kind that it does not know.
type register struct {
	mu     sync.Mutex
	Values []string
	seen   map[string]int
	epoch  uint64
	hang   chan struct{} // where it is set, Apply waits for it
}

var errUnknownKind = errors.New("unknown kind")

func (r *register) Apply(_ uint64, command []byte) (any, error) {
	r.mu.Lock()
	hang := r.hang
	r.mu.Unlock()
	if hang != nil {
		<-hang
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if bytes.HasPrefix(command, []byte("boom")) {
		return nil, errUnknownKind
	}
	return r.add(string(command)), nil
}

// add returns the place of the value, the same for a repeated one.
func (r *register) add(value string) int {
	if r.seen == nil {
		r.seen = map[string]int{}
	}
	if _, ok := r.seen[value]; !ok {
		r.Values = append(r.Values, value)
		r.seen[value] = len(r.Values)
	}
	return r.seen[value]
}

type registerSnapshot []string

func (s registerSnapshot) WriteTo(w io.Writer) (int64, error) {
	return 0, json.NewEncoder(w).Encode([]string(s))
}

func (r *register) Snapshot() (io.WriterTo, error) { return registerSnapshot(r.values()), nil }

func (r *register) Check(io.Reader) error { return nil }

func (r *register) Restore(content io.Reader) error {
	var values []string
	if err := json.NewDecoder(content).Decode(&values); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Values, r.seen = nil, nil
	for _, value := range values {
		r.add(value)
	}
	return nil
}

func (r *register) Incarnation() uint64 { return r.epoch }

func (r *register) values() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.Values)
}

// testCluster is a cluster of logs in one process, on a network that can be cut.
type testCluster struct {
	t       *testing.T
	virtual bool

	mu    sync.Mutex
	nodes map[string]*testNode
	cut   map[[2]string]bool // requests from, to: lost
	mute  map[[2]string]bool // answers to, from: lost after the request was served
}

type testNode struct {
	*raftLog
	id      string
	cluster *testCluster
	state   *register
	fatal   chan error
	inmem   *raft.InmemTransport
	config  raftConfig
}

func newTestCluster(t *testing.T) *testCluster {
	c := &testCluster{t: t, virtual: true, nodes: map[string]*testNode{}, cut: map[[2]string]bool{}, mute: map[[2]string]bool{}}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.close()
		}
		if c.virtual { // Raft leaves a transfer's last request behind, until it times out
			time.Sleep(10 * time.Second)
		}
	})
	return c
}

// memory is the config of a node on the in-memory network.
func (c *testCluster) memory(id string) (*testNode, raftConfig) {
	n := &testNode{id: id, cluster: c, state: &register{}, fatal: make(chan error, 1)}
	_, n.inmem = raft.NewInmemTransportWithTimeout(raft.ServerAddress("addr-"+id), 500*time.Millisecond)
	return n, raftConfig{ID: id, Machine: n.state, Peers: testPeers{c, id}, Logger: discard(),
		Transport: &testTransport{n.inmem, c, id}, Fatal: func(err error) { n.fatal <- err }}
}

// start opens a node; edit may change its config.
func (c *testCluster) start(id string, edit ...func(*raftConfig)) *testNode {
	c.t.Helper()
	n, config := c.memory(id)
	for _, e := range edit {
		e(&config)
	}
	n.config = config
	log, err := openRaft(n.config)
	if err != nil {
		c.t.Fatalf("open %s: %v", id, err)
	}
	n.raftLog = log
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.nodes {
		other.inmem.Connect(n.inmem.LocalAddr(), n.inmem)
		n.inmem.Connect(other.inmem.LocalAddr(), other.inmem)
	}
	c.nodes[id] = n
	return n
}

func (n *testNode) close() {
	if err := n.Close(context.Background()); err != nil {
		n.cluster.t.Errorf("close %s: %v", n.id, err)
	}
}

// threeNodes starts a, b and c as voters; a leads.
func threeNodes(t *testing.T, edit ...func(*raftConfig)) (cluster *testCluster, a, b, c *testNode) {
	t.Helper()
	cluster = newTestCluster(t)
	a, b, c = cluster.start("a", edit...), cluster.start("b", edit...), cluster.start("c", edit...)
	cluster.bootstrap(a)
	for _, n := range []*testNode{b, c} {
		cluster.must(a.AddMember(t.Context(), n.peer()))
		cluster.must(a.Promote(t.Context(), n.id))
	}
	return cluster, a, b, c
}

func (c *testCluster) bootstrap(n *testNode) {
	c.t.Helper()
	c.must(n.Bootstrap(c.t.Context()))
	c.until(n.IsLeader)
}

func (c *testCluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// until waits in virtual time for a condition.
func (c *testCluster) until(condition func() bool) {
	c.t.Helper()
	for range 3000 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatal("it never came to be, in 30 s")
}

// leader waits for a leader among the nodes.
func (c *testCluster) leader(among ...*testNode) (leader *testNode) {
	c.t.Helper()
	c.until(func() bool {
		for _, n := range among {
			if n.IsLeader() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// isolate cuts a node off from all others, heal ends every fault.
func (c *testCluster) isolate(n *testNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.nodes {
		c.cut[[2]string{n.id, id}], c.cut[[2]string{id, n.id}] = true, true
	}
}

func (c *testCluster) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cut)
	clear(c.mute)
}

func (c *testCluster) faults(from, to string) (cut, mute bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut[[2]string{from, to}], c.mute[[2]string{from, to}]
}

// stopped waits for the reason why the node's log has stopped.
func (n *testNode) stopped() error {
	select {
	case err := <-n.fatal:
		return err
	case <-time.After(time.Minute):
		return errors.New("still running after a minute")
	}
}

func (n *testNode) peer() Peer { return Peer{ID: n.id, Addr: "addr-" + n.id} }

func (n *testNode) propose(value string) (appliedCommand, error) {
	return n.Propose(n.cluster.t.Context(), []byte(value))
}

// testTransport is an in-memory Raft transport on the cluster's network.
type testTransport struct {
	*raft.InmemTransport
	cluster *testCluster
	id      string
}

var errLost = errors.New("lost on the network")

func (t *testTransport) over(to raft.ServerID, call func() error) error {
	cut, mute := t.cluster.faults(t.id, string(to))
	if cut {
		return errLost
	}
	if err := call(); err != nil {
		return err
	}
	if mute {
		return errLost
	}
	return nil
}

func (t *testTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (t *testTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	return t.over(id, func() error { return t.InmemTransport.AppendEntries(id, target, request, response) })
}

func (t *testTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, request *raft.RequestVoteRequest, response *raft.RequestVoteResponse) error {
	return t.over(id, func() error { return t.InmemTransport.RequestVote(id, target, request, response) })
}

func (t *testTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, request *raft.RequestPreVoteRequest, response *raft.RequestPreVoteResponse) error {
	return t.over(id, func() error { return t.InmemTransport.RequestPreVote(id, target, request, response) })
}

func (t *testTransport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, request *raft.InstallSnapshotRequest, response *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.over(id, func() error { return t.InmemTransport.InstallSnapshot(id, target, request, response, data) })
}

func (t *testTransport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, request *raft.TimeoutNowRequest, response *raft.TimeoutNowResponse) error {
	return t.over(id, func() error { return t.InmemTransport.TimeoutNow(id, target, request, response) })
}

// testPeers asks other nodes of the cluster by a call.
type testPeers struct {
	cluster *testCluster
	from    string
}

func (p testPeers) reach(to Peer) (*testNode, error) {
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	n := p.cluster.nodes[to.ID]
	if n == nil || p.cluster.cut[[2]string{p.from, to.ID}] {
		return nil, fmt.Errorf("%w: %w", ErrNotAppended, errLost)
	}
	return n, nil
}

func (p testPeers) ProposeHere(ctx context.Context, leader Peer, command []byte) (appliedCommand, error) {
	n, err := p.reach(leader)
	if err != nil {
		return appliedCommand{}, err
	}
	applied, err := n.ProposeHere(ctx, command)
	if _, mute := p.cluster.faults(p.from, leader.ID); mute {
		return appliedCommand{}, errLost
	}
	return applied, err
}

func (p testPeers) ReadIndex(ctx context.Context, leader Peer) (uint64, error) {
	n, err := p.reach(leader)
	if err != nil {
		return 0, err
	}
	return n.ReadIndex(ctx)
}

func (p testPeers) AppliedIndex(_ context.Context, peer Peer) (uint64, error) {
	n, err := p.reach(peer)
	if err != nil {
		return 0, err
	}
	return n.AppliedIndex(), nil
}

// onVirtualTime runs a script in a bubble where seconds cost nothing.
func onVirtualTime(t *testing.T, script func(*testing.T)) {
	t.Helper()
	synctest.Test(t, script)
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func jsonReader(text string) io.Reader { return bytes.NewReader([]byte(text)) }
