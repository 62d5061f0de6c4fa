package node

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// ErrDisk: this node cannot write its log, because its disk is full or fails. It
// goes on with what it has, takes no change, and recovers by itself once it can
// write again.
var ErrDisk = errors.New("the log cannot be written on this node's disk")

// diskTrouble is why the last write failed, and since when writes do.
type diskTrouble struct {
	since time.Time
	err   error
}

// watchedLog remembers whether the last write of the log failed. Raft itself
// tries again for ever and tells nobody: the node would look well, and whoever
// asked it for a change would wait for entries that it cannot take.
type watchedLog struct {
	raft.LogStore
	trouble atomic.Pointer[diskTrouble] // nil: the last write succeeded
	begun   signal                      // a write has failed
	fail    func(error)                 // stops the log for good; nil before it runs
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
	since := time.Now()
	if last := w.trouble.Load(); last != nil {
		since = last.since
		if errors.Is(err, bbolterrors.ErrInvalidMapping) && w.fail != nil {
			// bbolt could not map the grown file, and will not try again: only a
			// new start heals this. The first cause says more.
			w.fail(last.err)
			return err
		}
	}
	w.trouble.Store(&diskTrouble{since, fmt.Errorf("%w: %w", ErrDisk, err)})
	w.begun.fire()
	return err
}

// diskTrouble says why the log cannot be written now, or nil.
func (l *raftLog) diskTrouble() error {
	if trouble := l.stores.log.trouble.Load(); trouble != nil {
		return trouble.err
	}
	return nil
}

// upTo is until when the state had everything that the node has heard of: it hears
// of entries that it cannot write, and so cannot apply.
func (l *raftLog) upTo() time.Time {
	last := l.LastContact()
	if trouble := l.stores.log.trouble.Load(); trouble != nil && trouble.since.Before(last) {
		return trouble.since
	}
	return last
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
