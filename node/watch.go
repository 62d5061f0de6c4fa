package node

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// state lets the log apply to the machine, and tells the rooms which tables
// changed. It acts on nothing itself.
type state struct {
	*fsm.Machine
	cluster  dkek.ClusterID
	mu       sync.Mutex
	watchers []watcher
}

// watcher is one room's interest in some tables.
type watcher struct {
	tables uint64 // bit per table
	wake   chan struct{}
}

// watch returns a channel that gets a value when a row of one of these tables
// may have changed since it was last received from; once at the start too. Look
// at the state after receiving, not before.
func (s *state) watch(tables ...fsm.Table) <-chan struct{} {
	w := watcher{wake: make(chan struct{}, 1)}
	for _, table := range tables {
		w.tables |= 1 << table
	}
	w.wake <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers = append(s.watchers, w)
	return w.wake
}

func (s *state) wake(tables uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		if w.tables&tables != 0 {
			select {
			case w.wake <- struct{}{}:
			default: // it has not looked since the last time
			}
		}
	}
}

// Apply implements machine.
func (s *state) Apply(index uint64, command []byte) (any, error) {
	result := s.Machine.Apply(index, command)
	if result.Fatal != nil {
		return nil, result.Fatal
	}
	var tables uint64
	for _, change := range result.Changes {
		tables |= 1 << change.Table
	}
	if tables != 0 {
		s.wake(tables)
	}
	return result, nil
}

// Snapshot implements machine.
func (s *state) Snapshot() (io.WriterTo, error) { return s.Machine.Snapshot(), nil }

// maxSnapshotHead is enough for magic, length and header of a snapshot.
const maxSnapshotHead = 8 << 10

// Check implements machine. What is wrong beside the cluster, Restore says.
func (s *state) Check(r io.Reader) error {
	h, err := fsm.ReadSnapshotHeader(r)
	if err != nil || h.Cluster == s.cluster || h.Cluster == (dkek.ClusterID{}) {
		return nil
	}
	return &ForeignLogError{Path: "a snapshot", Owner: "cluster " + h.Cluster.String(), Self: "a node of cluster " + s.cluster.String()}
}

// Restore implements machine. A snapshot of another cluster is whole and verifies:
// it is refused for whose it is.
func (s *state) Restore(content io.Reader) error {
	r := bufio.NewReaderSize(content, maxSnapshotHead)
	head, _ := r.Peek(maxSnapshotHead) // a shorter one is all there
	if err := s.Check(bytes.NewReader(head)); err != nil {
		return err
	}
	if err := s.Machine.Restore(r); err != nil {
		return fmt.Errorf("node: snapshot: %w", err)
	}
	s.wake(^uint64(0))
	return nil
}

// Incarnation implements machine.
func (s *state) Incarnation() uint64 {
	if cluster, ok := s.State().Cluster(); ok {
		return cluster.Incarnation
	}
	return 0
}
