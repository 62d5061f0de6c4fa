package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// sumSize is how many bytes of a SHA-256 are kept beside an entry, in the field
// that Raft leaves to its users.
const sumSize = 16

// checkedLog keeps a checksum with every entry on disk. bbolt has none for what
// it holds: a bit that the disk lost would be applied here, and be sent to others
// by a leader.
type checkedLog struct {
	raft.LogStore
	path string
	fail func(error) // stops the log for good; nil before it runs
}

// entrySum covers what others must agree on.
func entrySum(entry *raft.Log) []byte {
	head := binary.BigEndian.AppendUint64(nil, entry.Index)
	head = binary.BigEndian.AppendUint64(head, entry.Term)
	sum := sha256.New()
	sum.Write(append(head, byte(entry.Type)))
	sum.Write(entry.Data)
	return sum.Sum(nil)[:sumSize]
}

func (c *checkedLog) StoreLog(entry *raft.Log) error { return c.StoreLogs([]*raft.Log{entry}) }

func (c *checkedLog) StoreLogs(entries []*raft.Log) error {
	summed := make([]*raft.Log, len(entries))
	for i, entry := range entries {
		one := *entry
		one.Extensions = entrySum(entry)
		summed[i] = &one
	}
	return c.LogStore.StoreLogs(summed)
}

// GetLog fails with a *DamagedLogError where the entry is not what was stored.
func (c *checkedLog) GetLog(index uint64, entry *raft.Log) error {
	err := c.LogStore.GetLog(index, entry)
	switch {
	case err == nil && entry.Index == index && bytes.Equal(entry.Extensions, entrySum(entry)):
		entry.Extensions = nil
		return nil
	case err == nil:
		err = errors.New("its checksum does not agree")
	case errors.Is(err, raft.ErrLogNotFound), errors.Is(err, bbolterrors.ErrDatabaseNotOpen), errors.Is(err, bbolterrors.ErrInvalidMapping):
		return err
	}
	*entry = raft.Log{}
	damaged := &DamagedLogError{Path: c.path, Cause: fmt.Errorf("entry %d: %w", index, err)}
	if c.fail != nil {
		c.fail(damaged)
	}
	return damaged
}
