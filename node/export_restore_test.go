package node

import (
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// LoseLog takes the log of a folder that is not in use: stores and snapshots.
func (m *Memory) LoseLog() { m.log = memoryStores{} }

// KnownForTest is the highest log entry that a stopped node knows of.
func (s *Stopped) KnownForTest() (uint64, error) {
	had, err := s.had()
	return had.index, err
}

// Get is the content of a file of a folder.
func (m *Memory) Get(t *testing.T, name string) []byte {
	t.Helper()
	content, err := m.files.read(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Put gives a folder that is not in use a file.
func (m *Memory) Put(name string, content []byte) {
	m.files.mu.Lock()
	defer m.files.mu.Unlock()
	m.files.content[name] = content
}

// Forget takes a file of a folder that is not in use.
func (m *Memory) Forget(name string) {
	m.files.mu.Lock()
	defer m.files.mu.Unlock()
	delete(m.files.content, name)
}

// ForgeNumbers writes the last of all numbers where a folder that is not in use says
// how far it and the others have come.
func ForgeNumbers(t *testing.T, dir string) {
	t.Helper()
	forged := &mark{path: filepath.Join(dir, "mark")}
	err := forged.write(position{math.MaxUint64, math.MaxUint64})
	peers, openErr := openPeerMarks(disk{dir: dir})
	for id := range peers.all() {
		peers.note(raft.ServerID(id), math.MaxUint64)
	}
	err = errors.Join(err, openErr, peers.write())
	stores, openErr := openStores(filepath.Join(dir, "raft"), nil, raftLogger(slog.New(slog.DiscardHandler)))
	if err := errors.Join(err, openErr); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stores.stable.SetUint64([]byte(keyCurrentTerm), math.MaxUint64), stores.close()); err != nil {
		t.Fatal(err)
	}
}
