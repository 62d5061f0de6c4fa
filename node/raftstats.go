package node

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// logStats is what the log says about itself, for status and metrics.
type logStats struct {
	State         string // follower, candidate, leader, shutdown
	Term          uint64
	Leader        Peer
	AppliedIndex  uint64
	CommitIndex   uint64
	LastIndex     uint64
	LastTerm      uint64 // of the entry there, in the log or the newest snapshot
	SnapshotIndex uint64
	Pending       int    // batches committed and waiting to be applied
	Restores      uint64 // snapshots taken from a leader since the start
	StoreBytes    int64  // size of the log's file
	Members       []logMember
}

// logMember is a member in the log's own configuration.
type logMember struct {
	Peer
	Voter bool
	// LastContact is when it last answered this node; zero where this node does
	// not lead, or for itself.
	LastContact time.Time
}

// OpenedAt implements replicatedLog.
func (l *raftLog) OpenedAt() uint64 { return l.openedAt }

// Stats implements replicatedLog.
func (l *raftLog) Stats() logStats {
	leader, _ := l.Leader()
	stats := logStats{
		State:        strings.ToLower(l.raft.State().String()),
		Term:         l.raft.CurrentTerm(),
		Leader:       leader,
		AppliedIndex: l.AppliedIndex(),
		CommitIndex:  l.raft.CommitIndex(),
		LastIndex:    l.raft.LastIndex(),
		Restores:     l.machine.restores.Load(),
	}
	raw := l.raft.Stats()
	inLog, _ := strconv.ParseUint(raw["last_log_term"], 10, 64)
	inSnapshot, _ := strconv.ParseUint(raw["last_snapshot_term"], 10, 64)
	stats.LastTerm = max(inLog, inSnapshot) // the log alone says 0 where all of it is in the snapshot
	stats.SnapshotIndex, _ = strconv.ParseUint(raw["last_snapshot_index"], 10, 64)
	stats.Pending, _ = strconv.Atoi(raw["fsm_pending"])
	if info, err := os.Stat(l.stores.path); err == nil {
		stats.StoreBytes = info.Size()
	}
	leads := l.raft.State() == raft.Leader
	for _, server := range l.raft.GetConfiguration().Configuration().Servers {
		member := logMember{Peer: Peer{ID: string(server.ID), Addr: string(server.Address)}, Voter: server.Suffrage == raft.Voter}
		if leads {
			member.LastContact = l.acks.lastContact(server.ID)
		}
		stats.Members = append(stats.Members, member)
	}
	return stats
}
