package node

import (
	"time"

	"github.com/hashicorp/raft"
)

// LastContact is when this member last knew of a majority: now for a leader,
// who steps down when its lease ends, else when a leader was last heard from.
// Zero if never: Raft also counts a vote that it gave, which says nothing of a
// majority. A leader that was cut off is believed for one lease longer than it
// should be.
func (l *raftLog) LastContact() time.Time {
	l.leaderMu.Lock()
	never := !l.knewLeader
	l.leaderMu.Unlock()
	if never {
		return time.Time{}
	}
	if l.Err() != nil {
		return l.raft.LastContact()
	}
	if l.raft.State() == raft.Leader {
		return time.Now()
	}
	return l.raft.LastContact()
}

// stateAge is how long ago this node last had what a majority has; false if it
// never did since it was opened.
func (n *Node) stateAge() (time.Duration, bool) {
	return n.since(func(l *raftLog) time.Time { return l.upTo() })
}

func (n *Node) since(when func(*raftLog) time.Time) (time.Duration, bool) {
	m := n.cluster.Load()
	if m == nil {
		return 0, false
	}
	log, ok := m.log.(*raftLog)
	if !ok {
		return 0, false
	}
	last := when(log)
	if last.IsZero() {
		return 0, false
	}
	return max(0, time.Since(last)), true
}

// hasQuorum tells whether this node heard from a majority lately.
func (n *Node) hasQuorum() bool {
	age, ok := n.since(func(l *raftLog) time.Time { return l.LastContact() })
	return ok && age < quorumSilence
}

// quorumSilence is how long a node may hear nothing before it says that it has
// no quorum: several heartbeats of a patient LAN.
const quorumSilence = 3 * time.Second
