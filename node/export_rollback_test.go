package node

import (
	"bytes"
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// CopyMemory is a copy of a data folder in memory that has no snapshot yet, as
// somebody makes it who takes an image of the disk.
func CopyMemory(t *testing.T, m *Memory) *Memory {
	t.Helper()
	taken := &Memory{}
	m.files.mu.Lock()
	taken.files.content = maps.Clone(m.files.content)
	m.files.mu.Unlock()
	from, to := m.log.open(), taken.log.open()
	if list, err := from.snapshots.List(); err != nil || len(list) > 0 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	last, err := from.log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for index := uint64(1); index <= last; index++ {
		var entry raft.Log
		if err := from.log.GetLog(index, &entry); err != nil {
			t.Fatal(err)
		}
		if err := to.log.StoreLog(&entry); err != nil {
			t.Fatal(err)
		}
	}
	term, err := from.log.GetUint64([]byte("CurrentTerm"))
	err = errors.Join(err, to.log.SetUint64([]byte("CurrentTerm"), term))
	for _, key := range []string{keyVote, keyOwner} {
		value, missing := from.log.Get([]byte(key))
		if missing == nil {
			err = errors.Join(err, to.log.Set([]byte(key), bytes.Clone(value)))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

// LastLogIndex is the last index of the node's log.
func (n *Node) LastLogIndex() uint64 { return n.cluster.Load().log.Stats().LastIndex }

// TakeSnapshot has the log write a snapshot now.
func (n *Node) TakeSnapshot() error { return n.cluster.Load().log.(*raftLog).raft.Snapshot().Error() }

// MarkOnDisk is the index that the mark of a data folder reaches on its disk.
func MarkOnDisk(t *testing.T, dir string) uint64 {
	t.Helper()
	m, err := openMark(filepath.Join(dir, "mark"))
	if err != nil {
		t.Error(err)
		return 0
	}
	return m.written.index
}

// AlterLog changes a text in every entry of a log in memory that has it, to another
// of the same length.
func AlterLog(t *testing.T, m *Memory, old, new string) {
	t.Helper()
	log := m.log.open().log
	last, err := log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	altered := 0
	for index := uint64(1); index <= last; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			t.Fatal(err)
		}
		if data := bytes.ReplaceAll(entry.Data, []byte(old), []byte(new)); !bytes.Equal(data, entry.Data) {
			entry.Data = data
			altered++
			if err := log.StoreLog(&entry); err != nil {
				t.Fatal(err)
			}
		}
	}
	if altered == 0 {
		t.Fatalf("no entry has %q", old)
	}
}
