package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
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
	Cluster   string        // the cluster ID in hex
	Dir       string        // folder of the stores, with the mark beside it; "" keeps all in memory, for tests
	Memory    *memoryStores // with Dir "": what outlives a restart; nil for nothing
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
	// Settled, if set, is told the last index of log and snapshot before Raft
	// starts: this node has neither voted nor acknowledged anything yet. An error
	// refuses the start.
	Settled func(last uint64) error
	// Meet, if set, is asked before the first request of another member is taken,
	// and may wait; last tells the last index of the log. An error stops the log.
	Meet func(from raft.ServerID, last func() uint64) error
	// PeerHas, if set, is told which committed entry another member is now known
	// to have on its disk, many times a second: it must be quick.
	PeerHas func(id raft.ServerID, index uint64)
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

// raftLog is a member of a node's own Raft group.
type raftLog struct {
	config   raftConfig
	raft     *raft.Raft
	stores   *raftStores
	acks     *ackedTransport
	machine  *raftMachine
	mark     *mark
	openedAt uint64 // the last index of log and snapshot then
	transfer transferGuard
	gate     gate

	reign         atomic.Pointer[reign] // nil unless leading with a state up to date
	leading       atomic.Bool           // Gained is done and the term not over
	leaderChanged signal
	leaderMu      sync.Mutex
	leaderless    time.Time // since when no leader is known; zero if one is
	knewLeader    bool      // one was known since this was opened

	errMu   sync.Mutex
	err     error         // why the log has stopped
	failed  chan struct{} // closed with err
	stop    chan struct{} // ends the loops, after Raft
	loops   sync.WaitGroup
	closing sync.Mutex
}

var _ replicatedLog = (*raftLog)(nil)

// openRaft opens the stores, makes sure that they are whole and reach the mark,
// and starts Raft. A new node is then bootstrapped, or added by a leader.
func openRaft(config raftConfig) (_ *raftLog, err error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("node: open log: %w", err)
	}
	logger := raftLogger(config.Logger)
	stores, err := openStores(config.Dir, config.Memory, logger)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			stores.close()
		}
	}()
	config.patch(stores)
	hasState, err := stores.hasState()
	if err != nil {
		return nil, err
	}
	if err := config.settleOwner(stores, hasState); err != nil {
		return nil, err
	}
	last, dropped, err := settleLog(stores.path, stores.log, stores.snapshots)
	if err != nil {
		return nil, err
	}
	if dropped != "" {
		config.Logger.Warn("dropped part of the log", "dropped", dropped)
	}
	mark, err := openMarkFor(config.markPath(), hasState, last)
	if err != nil {
		return nil, err
	}
	if config.Settled != nil {
		if err := config.Settled(last); err != nil {
			return nil, err
		}
	}

	l := &raftLog{config: config, stores: stores, mark: mark, openedAt: last, acks: newAckedTransport(config.Transport, config.PeerHas),
		failed: make(chan struct{}), stop: make(chan struct{}), leaderless: time.Now()}
	seam := &seamLog{LogStore: stores.log}
	l.machine = &raftMachine{id: raft.ServerID(config.ID), machine: config.Machine, mark: mark, joins: seam.join, fail: l.fail, inARow: -1} // the restore at a start does not count
	stores.stable.fail, stores.log.fail = l.fail, l.fail
	if stores.summed != nil {
		stores.summed.fail = l.fail
	}
	// Raft's loop waits for this channel's reader, who is not always there at once.
	notify := make(chan bool, 64)
	// It writes its term; where it cannot, orStop ends the goroutine that tried.
	started := make(chan struct{})
	go func() {
		defer close(started)
		l.raft, err = raft.NewRaft(config.raft(logger, notify), l.machine, seam, stores.stable, stores.snapshots, l.acks)
	}()
	<-started
	if l.raft == nil && err == nil {
		err = l.Err()
	}
	if err != nil {
		if l.machine.lastFail != nil { // Raft logs the cause and returns another error
			err = &DamagedLogError{Path: filepath.Join(config.Dir, "snapshots"), Cause: l.machine.lastFail}
		}
		return nil, fmt.Errorf("node: open log: %w", err)
	}
	l.loops.Go(func() { l.acks.forward(l.stop, l.mayEnter()) })
	events := make(chan raft.Observation, 64)
	l.raft.RegisterObserver(raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	}))
	l.loops.Go(func() { l.leadLoop(notify) })
	l.loops.Go(func() { l.watch(events) })
	return l, nil
}

// complete sets the defaults and refuses what cannot work.
func (c *raftConfig) complete() error {
	setDefault(&c.Heartbeat, 500*time.Millisecond)
	setDefault(&c.Lease, c.Heartbeat*4/5)
	setDefault(&c.Patience, 4*c.Heartbeat)
	setDefault(&c.Deadline, 10*time.Second)
	setDefault(&c.SnapshotAfter, 8192)
	setDefault(&c.SnapshotInterval, 30*time.Second)
	setDefault(&c.TrailingLogs, minTrailingLogs)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.ID == "" || c.Machine == nil || c.Transport == nil:
		return errors.New("ID, Machine and Transport are needed")
	case c.TrailingLogs < minTrailingLogs:
		return fmt.Errorf("a TrailingLogs of %d is less than %d", c.TrailingLogs, minTrailingLogs)
	case c.Lease > c.Heartbeat:
		return fmt.Errorf("a Lease of %v is longer than the Heartbeat, %v", c.Lease, c.Heartbeat)
	}
	return checkAdvertised(string(c.Transport.LocalAddr()))
}

func setDefault[T comparable](value *T, standard T) {
	if *value == *new(T) {
		*value = standard
	}
}

// checkAdvertised refuses an address that only its own host could use: members
// keep it in their configuration and call it back.
func checkAdvertised(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil // a name on an in-memory network
	}
	if ip := net.ParseIP(host); host == "" || port == "" || port == "0" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("%q is not an address that other members can reach: advertise one", addr)
	}
	return nil
}

// markPath is beside the stores, so that putting those back leaves it.
func (c *raftConfig) markPath() string {
	if c.Dir == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(c.Dir), "mark")
}

func (c *raftConfig) raft(logger hclog.Logger, notify chan<- bool) *raft.Config {
	r := raft.DefaultConfig()
	r.ProtocolVersion = raft.ProtocolVersionMax
	r.LocalID = raft.ServerID(c.ID)
	r.Logger = logger
	r.NotifyCh = notify
	r.HeartbeatTimeout = c.Heartbeat
	r.ElectionTimeout = c.Heartbeat
	r.LeaderLeaseTimeout = c.Lease
	r.MaxAppendEntries = 64
	r.SnapshotThreshold = c.SnapshotAfter
	r.SnapshotInterval = c.SnapshotInterval
	r.TrailingLogs = c.TrailingLogs
	r.ShutdownOnRemove = true      // seen by observe, and said aloud
	r.PreVoteDisabled = false      // a node that was cut off must not depose a leader
	r.RestoreCommittedLogs = false // needs another store
	r.NoLegacyTelemetry = true
	return r
}

// Bootstrap makes this node the only member of a new cluster.
func (l *raftLog) Bootstrap(ctx context.Context) error {
	hasState, err := l.stores.hasState()
	if err != nil {
		return err
	}
	if hasState {
		return fmt.Errorf("node: bootstrap: %w", ErrInitialised)
	}
	self := raft.Server{ID: raft.ServerID(l.config.ID), Address: l.config.Transport.LocalAddr(), Suffrage: raft.Voter}
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	future := &pending[raft.Future]{}
	err = future.wait(ctx, &l.gate, func() raft.Future { return l.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{self}}) })
	if errors.Is(err, raft.ErrCantBootstrap) {
		err = ErrInitialised
	}
	if err != nil {
		return fmt.Errorf("node: bootstrap: %w", err)
	}
	return nil
}

// bounded gives a context without a deadline the log's own.
func (l *raftLog) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, l.config.Deadline)
}

// fail stops the log for good.
func (l *raftLog) fail(cause error) {
	if l.end(cause) && l.config.Fatal != nil {
		go l.config.Fatal(cause)
	}
}

// end makes every later request fail with cause, unless the log has ended before.
func (l *raftLog) end(cause error) bool {
	l.errMu.Lock()
	defer l.errMu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = cause
	close(l.failed)
	return true
}

// Err implements replicatedLog.
func (l *raftLog) Err() error {
	l.errMu.Lock()
	defer l.errMu.Unlock()
	return l.err
}
