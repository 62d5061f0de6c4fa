package node

import "time"

// LogStats is what the log says about itself, for status and metrics.
type LogStats struct {
	State         string // follower, candidate, leader, shutdown
	Term          uint64
	Leader        Peer
	AppliedIndex  uint64
	CommitIndex   uint64
	LastIndex     uint64
	SnapshotIndex uint64
	Pending       int    // batches committed and waiting to be applied
	Restores      uint64 // snapshots taken from a leader since the start
	StoreBytes    int64  // size of the log's file
	Members       []LogMember
}

// LogMember is a member in the log's own configuration.
type LogMember struct {
	Peer
	Voter bool
	// LastContact is when it last answered this node; zero where this node does
	// not lead, or for itself.
	LastContact time.Time
}
