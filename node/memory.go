package node

import (
	"sync"

	"github.com/hashicorp/raft"
)

// Memory is a data folder in memory, for tests. It outlives a node: another
// node opened on it after Close is the same node started again. The zero value
// is empty.
type Memory struct {
	files memoryFiles
	log   memoryStores

	mu    sync.Mutex
	taken bool
}

func (m *Memory) take() (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken {
		return func() {}, ErrInUse
	}
	m.taken = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.taken = false
	}, nil
}

// memoryStores are Raft's stores in memory.
type memoryStores struct {
	log       memoryLog
	snapshots *raft.InmemSnapshotStore
}

type memoryLog interface {
	raft.LogStore
	raft.StableStore
}

// open returns the stores as they were left, or empty ones.
func (m *memoryStores) open() *memoryStores {
	if m.log == nil {
		m.log, m.snapshots = raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	}
	return m
}
