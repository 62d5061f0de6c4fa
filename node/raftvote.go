package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/hashicorp/raft"
)

// Raft's own names of what it keeps in the stable store.
const (
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
	// keyVote holds term (8 bytes, big endian) and candidate as one record.
	keyVote = "Vote"
)

// voteStore makes Raft's vote one write. Raft stores the term first and the
// candidate after it; a crash in between leaves the new term beside the old
// candidate, who would then get this term's vote again without a look at its log.
type voteStore struct {
	raft.StableStore
	fail func(error) // stops the log for good

	mu      sync.Mutex
	pending uint64 // a vote's term, waiting for its candidate
}

func (v *voteStore) SetUint64(key []byte, value uint64) error {
	if string(key) != keyVoteTerm {
		return v.orStop(v.StableStore.SetUint64(key, value))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending = value
	return nil
}

// orStop ends the log where its term cannot be written. Raft would panic, and
// take the process along that may have other work to do.
func (v *voteStore) orStop(err error) error {
	if err == nil || v.fail == nil {
		return err
	}
	v.fail(fmt.Errorf("%w: the term: %w", ErrDisk, err))
	runtime.Goexit() // of Raft's loop
	return err
}

func (v *voteStore) Set(key, value []byte) error {
	if string(key) != keyVoteCandidate {
		return v.StableStore.Set(key, value)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	term := v.pending
	v.pending = 0
	if term == 0 {
		return errors.New("node: vote without a term")
	}
	return v.StableStore.Set([]byte(keyVote), append(binary.BigEndian.AppendUint64(nil, term), value...))
}

func (v *voteStore) GetUint64(key []byte) (uint64, error) {
	if string(key) != keyVoteTerm {
		return v.StableStore.GetUint64(key)
	}
	term, _, err := v.vote()
	return term, err
}

func (v *voteStore) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCandidate {
		return v.StableStore.Get(key)
	}
	_, candidate, err := v.vote()
	return candidate, err
}

// vote reads the last vote that is on disk: a term alone is not a vote yet.
func (v *voteStore) vote() (term uint64, candidate []byte, err error) {
	record, err := v.StableStore.Get([]byte(keyVote))
	if err != nil {
		return 0, nil, err // "not found" as the store says it
	}
	if len(record) < 8 {
		return 0, nil, fmt.Errorf("node: damaged vote record of %d bytes", len(record))
	}
	return binary.BigEndian.Uint64(record), record[8:], nil
}
