package node

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// ErrDisk: this node cannot write its log, because its disk is full or fails. It
// goes on with what it has, takes no change, and recovers by itself once it can
// write again.
var ErrDisk = errors.New("the log cannot be written on this node's disk")

// watchedLog remembers whether the last write of the log failed. Raft itself
// tries again for ever and tells nobody: the node would look well, and whoever
// asked it for a change would wait for entries that it cannot take.
type watchedLog struct {
	raft.LogStore
	trouble atomic.Pointer[error] // nil: the last write succeeded
}

func (w *watchedLog) StoreLog(entry *raft.Log) error { return w.saw(w.LogStore.StoreLog(entry)) }

func (w *watchedLog) StoreLogs(entries []*raft.Log) error {
	return w.saw(w.LogStore.StoreLogs(entries))
}

func (w *watchedLog) saw(err error) error {
	if err == nil {
		w.trouble.Store(nil)
		return nil
	}
	trouble := fmt.Errorf("%w: %w", ErrDisk, err)
	w.trouble.Store(&trouble)
	return err
}

// diskTrouble says why the log cannot be written now, or nil.
func (l *raftLog) diskTrouble() error {
	if trouble := l.stores.log.trouble.Load(); trouble != nil {
		return *trouble
	}
	return nil
}

// diskTrouble says why this node cannot take part in changes now, or nil.
func (n *Node) diskTrouble() error {
	m := n.cluster.Load()
	if m == nil {
		return nil
	}
	if log, ok := m.log.(interface{ diskTrouble() error }); ok {
		return log.diskTrouble()
	}
	return nil
}
