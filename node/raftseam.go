package node

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// seamLog is the log as it goes on from the newest snapshot that was restored: it
// answers for the entry that the snapshot ends with. Raft asks the log alone whether
// a follower has that entry. Where the log begins right behind it (after a recovery,
// or where a snapshot was sent) the answer would be no, and a leader whose entries
// differ from the follower's would send the snapshot again and again.
type seamLog struct {
	raft.LogStore
	end atomic.Pointer[raft.Log] // nil before the first restore
}

// join makes the log go on from a snapshot that ends with this entry. Entries before
// it that do not lead to it are dropped: they differ from what was committed, or end
// short of it, and nobody must be sent them with the end after them. What lies behind
// it gives way to the leader's entries as always.
func (s *seamLog) join(index, term uint64) error {
	entry, found, err := entryAt(s.LogStore, index)
	if err != nil {
		return err
	}
	if !found || entry.Term != term {
		if err := s.dropTo(index); err != nil {
			return fmt.Errorf("node: drop entries that a snapshot replaced: %w", err)
		}
	}
	s.end.Store(&raft.Log{Index: index, Term: term, Type: raft.LogNoop})
	return nil
}

func (s *seamLog) dropTo(index uint64) error {
	first, err := s.FirstIndex()
	if err != nil || first == 0 || first > index {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	return s.DeleteRange(first, min(index, last))
}

// GetLog implements raft.LogStore.
func (s *seamLog) GetLog(index uint64, entry *raft.Log) error {
	err := s.LogStore.GetLog(index, entry)
	if end := s.end.Load(); end != nil && end.Index == index && errors.Is(err, raft.ErrLogNotFound) {
		*entry = *end
		return nil
	}
	return err
}
