package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// AddMember lets a node receive the log, without a vote, or gives a member its
// new address. Only the leader can; the same call again is harmless.
func (l *raftLog) AddMember(ctx context.Context, peer Peer) error {
	return l.change(ctx, "add member", func(configuration raft.Configuration, index uint64, timeout time.Duration) (raft.IndexFuture, error) {
		for _, server := range configuration.Servers {
			// Votes are remembered by address: another node's must not be taken over.
			if string(server.Address) == peer.Addr && string(server.ID) != peer.ID {
				return nil, fmt.Errorf("%w: address %s belongs to node %s", ErrNotAppended, peer.Addr, server.ID)
			}
		}
		// On a voter this changes the address and leaves the vote.
		return l.raft.AddNonvoter(raft.ServerID(peer.ID), raft.ServerAddress(peer.Addr), index, timeout), nil
	})
}

// Promote gives a member its vote as soon as it has caught up. A voter that lags
// would count for a majority that it cannot help to make.
func (l *raftLog) Promote(ctx context.Context, id string) error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	if l.config.Peers == nil {
		return fmt.Errorf("node: promote %s: no way to ask it", id)
	}
	return l.change(ctx, "promote", func(configuration raft.Configuration, index uint64, timeout time.Duration) (raft.IndexFuture, error) {
		for _, server := range configuration.Servers {
			if string(server.ID) != id {
				continue
			}
			if server.Suffrage == raft.Voter {
				return nil, nil
			}
			if err := l.waitCaughtUp(ctx, Peer{ID: id, Addr: string(server.Address)}); err != nil {
				return nil, err
			}
			return l.raft.AddVoter(server.ID, server.Address, index, timeout), nil
		}
		return nil, fmt.Errorf("%w: node %s is not a member", ErrNotAppended, id)
	})
}

// RemoveMember takes a member out of the log. The last voter stays.
func (l *raftLog) RemoveMember(ctx context.Context, id string) error {
	return l.change(ctx, "remove member", func(configuration raft.Configuration, index uint64, timeout time.Duration) (raft.IndexFuture, error) {
		for _, server := range configuration.Servers {
			if string(server.ID) == id {
				return l.raft.RemoveServer(server.ID, index, timeout), nil
			}
		}
		return nil, nil
	})
}

// change makes one change to the configuration that is committed now, or none: a
// start that returns no future has nothing to do.
func (l *raftLog) change(ctx context.Context, op string, start func(raft.Configuration, uint64, time.Duration) (raft.IndexFuture, error)) error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	if err := l.Err(); err != nil {
		return doing(err, "%s", op)
	}
	if l.reign.Load() == nil {
		return fmt.Errorf("node: %s: %w", op, notAppended(l.notLeader()))
	}
	// GetConfiguration's own index is always zero, which would mean "whatever it
	// is by then". An index read before the configuration can only be too old,
	// and is then refused.
	index := l.machine.config.Load()
	configuration := l.raft.GetConfiguration().Configuration()
	future := &pending[raft.IndexFuture]{}
	var refused error
	err := future.wait(ctx, &l.gate, func() raft.IndexFuture {
		var made raft.IndexFuture
		if made, refused = start(configuration, index, l.config.Deadline); made == nil {
			return nothingToDo{}
		}
		return made
	})
	switch {
	case err == nil && refused != nil:
		return doing(refused, "%s", op)
	case err != nil:
		return fmt.Errorf("node: %s: %w", op, l.appendError(err))
	}
	l.spread(ctx, configuration, future.of.Index())
	return nil
}

// spread waits a little for the other members to know of a change. It is
// committed already; but a voter that has not heard of another's promotion refuses
// it its vote, and if the leader dies now the two may never agree on a new one.
func (l *raftLog) spread(ctx context.Context, members raft.Configuration, index uint64) {
	if l.config.Peers == nil || index == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*l.config.Heartbeat)
	defer cancel()
	var wg sync.WaitGroup
	for _, server := range members.Servers {
		if string(server.ID) == l.config.ID {
			continue
		}
		wg.Go(func() {
			for {
				applied, err := l.config.Peers.AppliedIndex(ctx, Peer{ID: string(server.ID), Addr: string(server.Address)})
				if err == nil && applied >= index || !sleep(ctx, l.config.Heartbeat/10) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// nothingToDo is a future that has come.
type nothingToDo struct{}

func (nothingToDo) Error() error  { return nil }
func (nothingToDo) Index() uint64 { return 0 }

// waitCaughtUp returns when the peer has applied what was committed less than an
// election timeout before: the rest is on its way.
func (l *raftLog) waitCaughtUp(ctx context.Context, peer Peer) error {
	for {
		reign := l.reign.Load()
		if reign == nil {
			return notAppended(l.notLeader())
		}
		target, asked := reign.visible(l.raft.CommitIndex()), time.Now()
		for {
			applied, err := l.config.Peers.AppliedIndex(ctx, peer)
			if err == nil && applied >= target {
				break
			}
			if !sleep(ctx, l.config.Heartbeat/5) {
				return fmt.Errorf("%w: node %s has not caught up: it applied %d of %d: %w",
					ErrNotAppended, peer.ID, applied, target, errors.Join(err, context.Cause(ctx)))
			}
		}
		if time.Since(asked) < l.config.Heartbeat {
			return nil
		}
	}
}

// TransferLeadership hands leadership to a voter that has caught up. It is done
// at most once in a term: two transfers to a peer that hangs leave a leader that
// refuses every write and does not notice.
func (l *raftLog) TransferLeadership(ctx context.Context) error {
	reign := l.reign.Load()
	if reign == nil || l.config.Peers == nil {
		return fmt.Errorf("node: transfer leadership: %w", l.notLeader())
	}
	ctx, cancel := context.WithTimeout(ctx, 3*l.config.Heartbeat)
	defer cancel()
	target := reign.visible(l.raft.CommitIndex())
	// Followers hear of the last commit a moment later: ask for a heartbeat's time.
	for end := time.Now().Add(l.config.Heartbeat); ; {
		if server, ok := l.caughtUp(ctx, target); ok {
			return l.transferTo(ctx, server, reign.term)
		}
		if time.Now().After(end) || !sleep(ctx, l.config.Heartbeat/25) {
			return errors.New("node: transfer leadership: no other voter has caught up")
		}
	}
}

// caughtUp finds another voter that has applied the target.
func (l *raftLog) caughtUp(ctx context.Context, target uint64) (raft.Server, bool) {
	for _, server := range l.raft.GetConfiguration().Configuration().Servers {
		if server.Suffrage != raft.Voter || string(server.ID) == l.config.ID {
			continue
		}
		ask, stop := context.WithTimeout(ctx, l.config.Heartbeat/2)
		applied, err := l.config.Peers.AppliedIndex(ask, Peer{ID: string(server.ID), Addr: string(server.Address)})
		stop()
		if err == nil && applied >= target {
			return server, true
		}
	}
	return raft.Server{}, false
}

func (l *raftLog) transferTo(ctx context.Context, server raft.Server, term uint64) error {
	if !l.transfer.claim(term) {
		return fmt.Errorf("node: transfer leadership: already tried in term %d", term)
	}
	future := &pending[raft.Future]{}
	err := future.wait(ctx, &l.gate, func() raft.Future { return l.raft.LeadershipTransferToServer(server.ID, server.Address) })
	if err != nil {
		return doing(err, "transfer leadership to %s", server.ID)
	}
	return nil
}

// transferGuard counts transfers, and notices one that never ends.
type transferGuard struct {
	mu           sync.Mutex
	term         uint64    // of the last transfer
	since, until time.Time // writes were refused all the time between
}

func (g *transferGuard) claim(term uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.term == term {
		return false
	}
	g.term = term
	return true
}

// stuck notes a write refused because of a transfer and reports whether that has
// gone on for more than three election timeouts; a transfer that ends takes two.
func (g *transferGuard) stuck(now time.Time, election time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since.IsZero() || now.Sub(g.until) > election {
		g.since = now
	}
	g.until = now
	return now.Sub(g.since) > 3*election
}

// clear notes that writes pass.
func (g *transferGuard) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = time.Time{}
}
