package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
)

// raftTransport is what Raft is spoken over. Its LocalAddr is the address that
// other members reach this node at.
type raftTransport interface {
	raft.Transport
	raft.WithPreVote
}

// raftConfig describes one member of a node's own Raft group.
type raftConfig struct {
	ID        string        // the node ID in hex: permanent and never reused
	Dir       string        // folder of the stores; "" keeps all in memory, for tests
	Transport raftTransport // closed by Close
	Machine   machine
	Peers     peerCalls
	Logger    *slog.Logger

	// Stamp puts the leader's time into a command, and refuses one that is not
	// valid, at the leader right before it is appended. It must not keep or
	// change the bytes it is given. Nil leaves commands as they are.
	Stamp func(command []byte, now time.Time) ([]byte, error)
	// Gained is called when this node has become leader and its state contains
	// everything committed before. Its context ends with the leadership; an
	// error hands leadership on. Lost is called after every Gained that
	// returned, whether or not with an error, when the leadership is over.
	Gained func(ctx context.Context, term uint64) error
	Lost   func()
	// Fatal is told once, on a goroutine of its own, why the log has stopped and
	// the node must exit. It is not told of Close.
	Fatal func(error)

	// Heartbeat is how long a follower waits for a leader before it asks for
	// votes, and how long a vote waits. Shorter than a machine's worst pause, it
	// makes leadership wander. Default 500 ms: a dead leader costs about a second.
	Heartbeat time.Duration
	// Lease is how long a leader that hears from no majority goes on. At most
	// Heartbeat; default four fifths of it.
	Lease time.Duration
	// Patience is how long a request waits for a leader to be found. Default four
	// times Heartbeat.
	Patience time.Duration
	// Deadline bounds a request whose context has none. Default 10 s.
	Deadline time.Duration
	// SnapshotAfter is how many entries make a new snapshot due. Default 8192.
	SnapshotAfter uint64
	// SnapshotInterval is how often that is looked at. Default 30 s.
	SnapshotInterval time.Duration
	// TrailingLogs is how many entries are kept behind a snapshot. Default, and
	// least, 10240.
	TrailingLogs uint64
}
