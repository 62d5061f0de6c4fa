package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// reign is one leadership of this node, from the moment on that its state
// contains all that was committed before.
type reign struct {
	term    uint64
	barrier uint64 // index of the entry that showed it
	applied uint64 // the last entry at or before it that the state can see
}

// visible is the entry that a state must reach to contain everything up to the
// commit index. Raft does not show the state its own entries, which a leader
// writes when it begins, up to the barrier; all later ones are shown.
func (r *reign) visible(commit uint64) uint64 {
	if commit <= r.barrier {
		return r.applied
	}
	return commit
}

// takingOver marks the context of Gained, which may propose before all others.
type takingOver struct{}

// leadLoop takes over and lets go as Raft says. It always drains Raft's channel:
// Raft's own loop waits for it.
func (l *raftLog) leadLoop(notify <-chan bool) {
	leads := false
	for {
		if !leads {
			select {
			case leads = <-notify:
			case <-l.stop:
				return
			}
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.lead(ctx)
		}()
		stopping := false
		for leads && !stopping {
			select {
			case leads = <-notify:
			case <-l.stop:
				stopping = true
			}
		}
		cancel()
		for ended := false; !ended; {
			select {
			case leads = <-notify: // the last word counts
			case <-done:
				ended = true
			}
		}
		if stopping {
			return
		}
	}
}

// lead is one leadership, from its beginning until ctx ends. A step that fails
// is tried again, after an attempt to hand over to somebody who may do better:
// until it succeeds this node does not say that it leads.
func (l *raftLog) lead(ctx context.Context) {
	defer l.leaderChanged.fire()
	defer l.reign.Store(nil)
	term := l.raft.CurrentTerm()
	for !l.takeOver(ctx, term) {
		if l.raft.State() == raft.Leader && l.Err() == nil {
			if err := l.TransferLeadership(ctx); err != nil {
				l.config.Logger.Warn("leadership could not be handed on", "error", err)
			}
		}
		if !sleep(ctx, l.config.Heartbeat) {
			return
		}
	}
	l.leading.Store(true)
	l.leaderChanged.fire()
	<-ctx.Done()
	l.leading.Store(false)
	if l.config.Lost != nil {
		l.config.Lost()
	}
}

// takeOver brings the own state up to date, once, and calls Gained.
func (l *raftLog) takeOver(ctx context.Context, term uint64) bool {
	if l.reign.Load() == nil {
		future := &pending[raft.Future]{}
		if err := future.wait(ctx, &l.gate, func() raft.Future { return l.raft.Barrier(l.config.Deadline) }); err != nil {
			if ctx.Err() == nil {
				l.config.Logger.Warn("new leader cannot reach its own log's end", "error", err)
			}
			return false
		}
		barrier, ok := future.of.(raft.IndexFuture)
		if !ok || l.raft.CurrentTerm() != term {
			return false
		}
		l.reign.Store(&reign{term: term, barrier: barrier.Index(), applied: l.AppliedIndex()})
	}
	if l.config.Gained == nil {
		return true
	}
	err := l.config.Gained(context.WithValue(ctx, takingOver{}, true), term)
	if err == nil {
		return true
	}
	l.config.Logger.Warn("taking over leadership failed", "term", term, "error", err)
	if l.config.Lost != nil {
		l.config.Lost()
	}
	return false
}

// watch follows what Raft observes, and keeps the mark within markInterval of
// what is applied.
func (l *raftLog) watch(events <-chan raft.Observation) {
	ticker := time.NewTicker(markInterval)
	defer ticker.Stop()
	for {
		select {
		case <-events:
		case <-ticker.C:
			if err := l.mark.sync(); err != nil {
				l.config.Logger.Error("the applied index could not be marked", "error", err)
			}
		case <-l.stop:
			return
		}
		l.observe()
	}
}

// observe looks at Raft as it is now; events may be dropped, the state is not.
func (l *raftLog) observe() {
	if l.raft.State() == raft.Shutdown && l.Err() == nil {
		// Nobody but Close and Raft itself, on the leader's own removal, ends it.
		l.fail(ErrRemoved)
	}
	addr, _ := l.raft.LeaderWithID()
	l.leaderMu.Lock()
	switch {
	case addr != "":
		l.leaderless, l.knewLeader = time.Time{}, true
	case l.leaderless.IsZero():
		l.leaderless = time.Now()
	}
	leaderless := l.leaderless
	l.leaderMu.Unlock()
	// A removed follower is sent its removal, but not always that it was
	// committed: nobody talks to it any more.
	if !leaderless.IsZero() && time.Since(leaderless) > 4*l.config.Patience && l.machine.member.Load() && !l.listed() {
		l.fail(fmt.Errorf("node: %w", ErrRemoved))
	}
	l.leaderChanged.fire()
}

// listed reports whether the latest configuration, committed or not, names this node.
func (l *raftLog) listed() bool {
	for _, server := range l.raft.GetConfiguration().Configuration().Servers {
		if string(server.ID) == l.config.ID {
			return true
		}
	}
	return false
}

// waitForLeader waits a little for a change of leadership and reports whether a
// request that began at start should be tried again. Where no leader has been
// known for long there is no point in waiting once more.
func (l *raftLog) waitForLeader(ctx context.Context, start time.Time) bool {
	changed := l.leaderChanged.wait()
	since := start
	l.leaderMu.Lock()
	if !l.leaderless.IsZero() && l.leaderless.Before(since) {
		since = l.leaderless
	}
	l.leaderMu.Unlock()
	left := l.config.Patience - time.Since(since)
	if left <= 0 {
		return false
	}
	timer := time.NewTimer(min(left, l.config.Heartbeat/10))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
		return false
	}
	return true
}

// errOtherLeader: who was asked does not lead any more, and another one does.
var errOtherLeader = errors.New("another member leads by now")

// whileLeads is a context for a question to the leader that ends when another
// one is known. A leader that stands still answers nobody, and the connection to
// it is given up only seconds after its successor was elected.
func (l *raftLog) whileLeads(ctx context.Context, leader Peer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for {
			changed := l.leaderChanged.wait()
			if now, ok := l.Leader(); ok && now.ID != leader.ID {
				cancel(errOtherLeader)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// sleep waits and reports whether ctx is still there.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Leader implements replicatedLog.
func (l *raftLog) Leader() (Peer, bool) {
	addr, id := l.raft.LeaderWithID()
	return Peer{ID: string(id), Addr: string(addr)}, id != ""
}

// IsLeader implements replicatedLog.
func (l *raftLog) IsLeader() bool {
	reign := l.reign.Load()
	return reign != nil && l.leading.Load() && l.raft.State() == raft.Leader && l.raft.CurrentTerm() == reign.term
}

// LeaderChanged implements replicatedLog.
func (l *raftLog) LeaderChanged() <-chan struct{} { return l.leaderChanged.wait() }
