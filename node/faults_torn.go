//go:build faults

package node

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// clockOrder names a file with seconds by which this node's clock is wrong. It is
// read whenever the clock is.
const clockOrder = "KEYCUSTODIAN_CLOCK"

func shiftedClock(now func() time.Time) func() time.Time {
	path := os.Getenv(clockOrder)
	if path == "" {
		return now
	}
	return func() time.Time {
		order, err := os.ReadFile(path)
		if err != nil {
			return now()
		}
		seconds, err := strconv.Atoi(strings.TrimSpace(string(order)))
		if err != nil {
			return now()
		}
		return now().Add(time.Duration(seconds) * time.Second)
	}
}

// snapshotOrder is how many log entries make a snapshot due, in place of
// thousands, so that a test need not wait for one.
const snapshotOrder = "KEYCUSTODIAN_SNAPSHOT_AFTER"

func (c *raftConfig) oftenSnapshot() {
	if after, err := strconv.ParseUint(os.Getenv(snapshotOrder), 10, 64); err == nil {
		c.SnapshotAfter, c.SnapshotInterval = after, time.Second
	}
}

// tear lets a test tear what Raft writes (secret.TearNow): "log" are entries, "term"
// and "vote" what the log's file holds beside them, "snapshots" are snapshots.
func (s *raftStores) tear() {
	if s.path == "" {
		return
	}
	file := &tornBolt{path: s.path}
	s.log.LogStore = tornLog{s.log.LogStore, file}
	s.stable.StableStore = tornVotes{s.stable.StableStore, file}
	s.snapshots.SnapshotStore = tornSnapshots{s.snapshots.SnapshotStore}
}

// tornLog leaves a copy of the file from before its last write, "log.db.before",
// when it dies by order, "cut" or "lost": from both a test makes any of the files
// that a power cut could have left. By order "fail" nothing is written, or it is
// and an error is reported.
type tornLog struct {
	raft.LogStore
	file *tornBolt
}

func (l tornLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

func (l tornLog) StoreLogs(entries []*raft.Log) error {
	return l.file.write("log", func() error { return l.LogStore.StoreLogs(entries) })
}

func (l tornLog) DeleteRange(first, last uint64) error {
	return l.file.write("range", func() error { return l.LogStore.DeleteRange(first, last) })
}

// tornVotes does so with the term, which is written first, and with the vote.
type tornVotes struct {
	raft.StableStore
	file *tornBolt
}

func (v tornVotes) Set(key, value []byte) error {
	return v.file.write("vote", func() error { return v.StableStore.Set(key, value) })
}

func (v tornVotes) SetUint64(key []byte, value uint64) error {
	return v.file.write("term", func() error { return v.StableStore.SetUint64(key, value) })
}

// tornBolt is the file that both write to, one at a time: what lies between the two
// copies is one write.
type tornBolt struct {
	path string
	mu   sync.Mutex
}

func (b *tornBolt) write(what string, write func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	order := secret.TearNow(what)
	switch {
	case order == nil:
		return write()
	case order.How == "fail" && order.Random.IntN(2) == 0:
		return secret.ErrTorn
	case order.How == "fail":
		write()
		return secret.ErrTorn
	}
	before, err := os.ReadFile(b.path)
	if err == nil {
		err = os.WriteFile(b.path+".before", before, 0o600)
	}
	if err == nil {
		write()
	}
	secret.Die()
	return nil
}

// tornSnapshots tear the next snapshot.
type tornSnapshots struct{ raft.SnapshotStore }

func (s tornSnapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, transport raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, transport)
	if err != nil {
		return nil, err
	}
	return &tornSink{SnapshotSink: sink}, nil
}

type tornSink struct {
	raft.SnapshotSink
	order *secret.Torn // to die when it is closed
}

func (s *tornSink) Write(p []byte) (int, error) {
	if order := secret.TearNow("snapshots"); order != nil && order.How == "lost" {
		s.order = order
	} else if order != nil {
		n, err := s.SnapshotSink.Write(p[:order.Random.IntN(len(p)+1)])
		if order.How == "cut" {
			secret.Die()
		}
		if err == nil {
			err = secret.ErrTorn
		}
		return n, err
	}
	return s.SnapshotSink.Write(p)
}

func (s *tornSink) Close() error {
	if s.order != nil {
		if s.order.Random.IntN(2) == 0 {
			s.SnapshotSink.Close()
		}
		secret.Die()
	}
	return s.SnapshotSink.Close()
}
