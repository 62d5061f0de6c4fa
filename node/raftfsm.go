package node

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// signal tells any number of waiters that something changed: a waiter takes the
// channel first, looks second, and waits third.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// raftMachine stands between Raft and the machine. It knows which entries the
// state contains; Raft only knows which it has handed out.
type raftMachine struct {
	id      raft.ServerID
	machine machine
	mark    *mark
	joins   func(index, term uint64) error // makes the log go on from a snapshot
	fail    func(error)

	applied  atomic.Uint64 // last command or configuration that the state contains
	config   atomic.Uint64 // index of the last committed configuration
	restores atomic.Uint64 // snapshots restored so far
	member   atomic.Bool   // a committed configuration has named this node
	changed  signal        // applied grew

	// Touched by Raft's state goroutine only, and before it starts.
	stopped  error // why nothing more is applied
	inARow   int   // restores since the last applied entry
	lastFail error // of the last Restore, which Raft only logs
}

// ApplyBatch implements raft.BatchingFSM. Raft gives it commands and
// configurations, in order, and no other kind of entry.
func (m *raftMachine) ApplyBatch(entries []*raft.Log) []any {
	results := make([]any, len(entries))
	for i, entry := range entries {
		if m.stopped != nil {
			results[i] = stoppedResult{m.stopped}
			continue
		}
		results[i] = m.apply(entry)
	}
	if m.stopped == nil {
		m.inARow = 0
	}
	m.changed.fire()
	return results
}

// stoppedResult is the answer for an entry that is committed but that this node
// did not apply.
type stoppedResult struct{ cause error }

func (m *raftMachine) apply(entry *raft.Log) any {
	var result any
	switch entry.Type {
	case raft.LogCommand:
		var fatal error
		if result, fatal = m.machine.Apply(entry.Index, entry.Data); fatal != nil {
			m.stop(fmt.Errorf("node: apply entry %d: %w", entry.Index, fatal))
			return stoppedResult{m.stopped}
		}
	case raft.LogConfiguration:
		m.config.Store(entry.Index)
		m.look(raft.DecodeConfiguration(entry.Data))
	}
	// Noted before it can be seen: SyncMark of an entry seen must include it.
	m.mark.note(position{m.machine.Incarnation(), entry.Index})
	m.applied.Store(entry.Index)
	return result
}

// look notices this node's own removal. A joining node is sent configurations
// from before it was a member, which say nothing.
func (m *raftMachine) look(configuration raft.Configuration) {
	for _, server := range configuration.Servers {
		if server.ID == m.id {
			m.member.Store(true)
			return
		}
	}
	if m.member.Load() {
		m.fail(fmt.Errorf("node: %w", ErrRemoved))
	}
}

func (m *raftMachine) stop(cause error) {
	m.stopped = cause
	m.fail(cause)
}

// Apply implements raft.FSM; Raft calls ApplyBatch instead.
func (m *raftMachine) Apply(entry *raft.Log) any { return m.ApplyBatch([]*raft.Log{entry})[0] }

// Snapshot implements raft.FSM. A stopped state is behind Raft's count, and a
// snapshot of it would pass for the whole.
func (m *raftMachine) Snapshot() (raft.FSMSnapshot, error) {
	if m.stopped != nil {
		return nil, m.stopped
	}
	snapshot, err := m.machine.Snapshot()
	if err != nil {
		return nil, err
	}
	if snapshot == nil {
		return nil, errors.New("node: snapshot: none given") // Raft would panic
	}
	return persistedSnapshot{snapshot}, nil
}

// Restore implements raft.FSM.
func (m *raftMachine) Restore(content io.ReadCloser) error {
	meta, err := metaOf(content)
	if err == nil {
		err = m.machine.Restore(content)
	}
	if err == nil { // not before: a snapshot that does not verify must not cost the log
		err = m.joins(meta.Index, meta.Term)
	}
	m.lastFail = err
	if err != nil {
		return err
	}
	m.restores.Add(1)
	m.config.Store(meta.ConfigurationIndex)
	m.mark.note(position{m.machine.Incarnation(), meta.Index})
	m.applied.Store(meta.Index)
	m.look(meta.Configuration)
	m.changed.fire()
	if m.inARow++; m.inARow >= maxRestores {
		m.fail(fmt.Errorf("node: restored %d snapshots in a row (the last at entry %d) and could apply nothing after any: "+
			"this node's log differs from the cluster's; start it again, which drops that log", m.inARow, meta.Index))
	}
	return nil
}

// persistedSnapshot writes a snapshot while later entries are applied. Raft
// cancels the sink where Persist fails, and closes it where it does not.
type persistedSnapshot struct{ content io.WriterTo }

func (p persistedSnapshot) Persist(sink raft.SnapshotSink) error {
	_, err := p.content.WriteTo(sink)
	return err
}

func (persistedSnapshot) Release() {}
