package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// ReadBarrier implements replicatedLog.
func (l *raftLog) ReadBarrier(ctx context.Context) (uint64, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	for start := time.Now(); ; {
		index, err := l.askReadIndex(ctx)
		if err == nil {
			return index, l.WaitApplied(ctx, index)
		}
		if errors.Is(err, errOtherLeader) {
			continue
		}
		if l.Err() != nil || errors.Is(err, ErrDisk) || !l.waitForLeader(ctx, start) {
			if _, led := l.Leader(); !led && l.Err() == nil && !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrDisk) {
				err = fmt.Errorf("%w: %w", ErrNoLeader, err) // a connection that broke says less
			}
			return 0, fmt.Errorf("node: read barrier: %w", err)
		}
	}
}

func (l *raftLog) askReadIndex(ctx context.Context) (uint64, error) {
	if l.raft.State() == raft.Leader {
		return l.readIndex(ctx)
	}
	if err := errors.Join(l.Err(), l.diskTrouble()); err != nil {
		return 0, err
	}
	leader, ok := l.Leader()
	if !ok || leader.ID == l.config.ID || l.config.Peers == nil {
		return 0, ErrNoLeader
	}
	asking, cancel := l.whileLeads(ctx, leader)
	defer cancel()
	index, err := l.config.Peers.ReadIndex(asking, leader)
	if err != nil && errors.Is(context.Cause(asking), errOtherLeader) {
		err = errOtherLeader
	}
	return index, err
}

// ReadIndex implements replicatedLog.
func (l *raftLog) ReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	index, err := l.readIndex(ctx)
	if err != nil {
		return 0, fmt.Errorf("node: read index: %w", err)
	}
	return index, nil
}

// readIndex takes the commit index first and makes sure afterwards that this node
// led when it took it: a majority answers, in this term, to heartbeats sent since.
// Nothing that another leader committed before the question can be missing then.
func (l *raftLog) readIndex(ctx context.Context) (uint64, error) {
	if err := l.Err(); err != nil {
		return 0, err
	}
	reign := l.reign.Load()
	if reign == nil || l.raft.State() != raft.Leader {
		return 0, l.notLeader()
	}
	index := reign.visible(l.raft.CommitIndex())
	round := l.acks.begin()
	for {
		future := &pending[raft.Future]{}
		if err := future.wait(ctx, &l.gate, l.raft.VerifyLeader); err != nil {
			return 0, l.readError(err)
		}
		if l.raft.State() != raft.Leader || l.raft.CurrentTerm() != reign.term {
			return 0, l.notLeader()
		}
		servers := l.raft.GetConfiguration().Configuration().Servers
		if l.acks.confirmed(raft.ServerID(l.config.ID), servers, reign.term, round) {
			return index, nil
		}
		if !sleep(ctx, l.config.Heartbeat/80) {
			return 0, context.Cause(ctx)
		}
	}
}

func (l *raftLog) readError(err error) error {
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
		return l.notLeader()
	}
	return err
}

// AppliedIndex implements replicatedLog.
func (l *raftLog) AppliedIndex() uint64 { return l.machine.applied.Load() }

// AppliedChanged implements replicatedLog.
func (l *raftLog) AppliedChanged() <-chan struct{} { return l.machine.changed.wait() }

// WaitApplied implements replicatedLog.
func (l *raftLog) WaitApplied(ctx context.Context, index uint64) error {
	for {
		changed, trouble := l.AppliedChanged(), l.stores.log.begun.wait()
		if l.AppliedIndex() >= index {
			return nil
		}
		if err := l.Err(); err != nil {
			return err
		}
		if err := l.diskTrouble(); err != nil && l.raft.LastIndex() < index {
			return fmt.Errorf("node: wait for entry %d, at %d: %w", index, l.AppliedIndex(), err)
		}
		select {
		case <-changed:
		case <-trouble:
		case <-l.failed:
		case <-ctx.Done():
			return fmt.Errorf("node: wait for entry %d, at %d: %w", index, l.AppliedIndex(), context.Cause(ctx))
		}
	}
}

// SyncMark implements replicatedLog.
func (l *raftLog) SyncMark(index uint64) error {
	if applied := l.AppliedIndex(); applied < index {
		return fmt.Errorf("node: mark entry %d: only %d are applied", index, applied)
	}
	return l.mark.sync()
}
