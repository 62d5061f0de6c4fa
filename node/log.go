package node

import (
	"context"
	"errors"
	"io"
)

// replicatedLog is the one place where node meets replication: an ordered list
// of commands that a majority holds, applied to the state on every member. A
// node's own Raft group implements it ([raftLog]); a host's log can.
//
// All methods may be called concurrently. A method that waits ends with its
// context, and a context without a deadline gets the log's own.
type replicatedLog interface {
	// Propose appends the command, from whichever member it is called on, and
	// returns when it is applied here. A command carries a request ID that the
	// state remembers, so repeating the same bytes is harmless. An error is one
	// of three: [ErrNotAppended] (with the reason beside it; try again at will),
	// [ErrOutcomeUnknown] (try again with the same bytes), or what Stamp said
	// against the command.
	Propose(ctx context.Context, command []byte) (appliedCommand, error)
	// ProposeHere is Propose without a hop to the leader: what a forwarded
	// command meets. Elsewhere than at the leader it fails with
	// ErrNotAppended and [NotLeaderError].
	ProposeHere(ctx context.Context, command []byte) (appliedCommand, error)

	// ReadBarrier returns when the local state contains everything that was
	// acknowledged anywhere before the call. A state looked at afterwards is a
	// linearizable read. It returns the index that was waited for.
	ReadBarrier(ctx context.Context) (uint64, error)
	// ReadIndex is the leader's half of ReadBarrier: the index that a reader's
	// state must reach.
	ReadIndex(ctx context.Context) (uint64, error)

	// Leader returns the member that leads, as far as this one knows.
	Leader() (Peer, bool)
	// IsLeader reports whether this member leads and has finished taking over.
	IsLeader() bool
	// LeaderChanged returns a channel that is closed when the answer of Leader
	// or IsLeader may next have changed.
	LeaderChanged() <-chan struct{}

	// AppliedIndex is the index of the last entry that the local state contains.
	AppliedIndex() uint64
	// AppliedChanged returns a channel that is closed when AppliedIndex next grows.
	AppliedChanged() <-chan struct{}
	// WaitApplied returns when the local state contains the entry, which is one
	// that Propose or ReadIndex named. It fails with [ErrDisk] where the entry cannot
	// come, as this node's disk takes none.
	WaitApplied(ctx context.Context, index uint64) error
	// SyncMark returns when it is on disk that this node has applied the entry:
	// before it acts on a Release, Destroy or Abort.
	SyncMark(index uint64) error

	// OpenedAt is the index at which this node's copy of the log ended when it was
	// opened. Whatever this node did before was done at a state up to there.
	OpenedAt() uint64

	Stats() logStats
	// Err says why the log has stopped for good, or nil.
	Err() error
	// Close ends replication here: leadership is handed over if that is quick,
	// then Raft, the transport and the stores are closed, in this order.
	Close(ctx context.Context) error
}

// machine is the state that the log is applied to. The log calls Apply, Snapshot
// and Restore from one goroutine.
type machine interface {
	// Apply applies the committed command at this index. A fatal error (a kind
	// that this binary does not know) stops the log: nothing after it is applied.
	Apply(index uint64, command []byte) (result any, fatal error)
	// Snapshot returns the state as it is now, at once; it is written while
	// later commands are applied.
	Snapshot() (io.WriterTo, error)
	// Check refuses a snapshot of another cluster, by its beginning.
	Check(r io.Reader) error
	// Restore replaces the state by a snapshot's, or leaves it as it was and fails.
	Restore(r io.Reader) error
	// Incarnation is the cluster's incarnation in the state.
	Incarnation() uint64
}

// peerCalls are the questions that the log asks other members, answered there by
// the method of the same name. An error after which the command was certainly
// not appended (no connection, say) wraps [ErrNotAppended]; every other one of
// Propose is taken as ErrOutcomeUnknown.
type peerCalls interface {
	ProposeHere(ctx context.Context, leader Peer, command []byte) (appliedCommand, error)
	ReadIndex(ctx context.Context, leader Peer) (uint64, error)
	AppliedIndex(ctx context.Context, peer Peer) (uint64, error)
}

// Peer names a member of the log.
type Peer struct {
	ID   string // the node ID
	Addr string // host:port that it is reached at
}

// appliedCommand is a command that was committed and applied.
type appliedCommand struct {
	Index  uint64 // its place in the log
	Result any    // what the state's Apply returned
}

// What the log's errors say; each is found with errors.Is.
var (
	// ErrNotAppended: the command was certainly not appended. A reason is
	// wrapped beside it.
	ErrNotAppended = errors.New("not appended")
	// ErrOutcomeUnknown: the command may have been appended, or may yet be.
	ErrOutcomeUnknown = errors.New("outcome unknown: repeat the same request")
	// ErrNoLeader: no leader is known, so no majority of members is in reach.
	ErrNoLeader = errors.New("no leader: a majority of the members is not in reach")
	// ErrRemoved: this node is no longer a member.
	ErrRemoved = errors.New("this node was removed from the cluster and does not come back under its ID: join again with an empty data folder")
	// ErrClosed: the node was closed.
	ErrClosed = errors.New("the node is closed")
	// ErrInUse: another process has the data folder open.
	ErrInUse = errors.New("the data folder is in use by another process: stop it first")
	// ErrInitialised: a cluster was already created or joined in this data folder.
	ErrInitialised = errors.New("this data folder already belongs to a cluster")
	// ErrTooLarge: a command is longer than 64 KiB.
	ErrTooLarge = errors.New("command too large")
)

// NotLeaderError says that this member does not lead, and who does.
type NotLeaderError struct {
	Leader Peer // zero if not known
}

func (e *NotLeaderError) Error() string {
	if e.Leader == (Peer{}) {
		return "this node does not lead, and knows no leader"
	}
	return "this node does not lead: node " + e.Leader.ID + " at " + e.Leader.Addr + " does"
}

// Is makes it an [ErrNoLeader] where no leader is known.
func (e *NotLeaderError) Is(target error) bool {
	return target == errNotLeading || target == ErrNoLeader && e.Leader == (Peer{})
}

// errNotLeading is every NotLeaderError, also one that came over the wire.
var errNotLeading = errors.New("this node does not lead")
