package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Close implements replicatedLog. A second Close returns nil at once or when the
// first has ended.
func (l *raftLog) Close(ctx context.Context) error {
	l.closing.Lock()
	defer l.closing.Unlock()
	select {
	case <-l.stop:
		return nil
	default:
	}
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	if l.end(ErrClosed) && l.raft.State() == raft.Leader {
		if err := l.TransferLeadership(ctx); err != nil {
			l.config.Logger.Debug("closing without a successor", "error", err)
		}
	}
	l.letOut()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.raft.Shutdown().Error()
	}()
	select {
	case <-ended:
	case <-ctx.Done(): // waits for a peer, which closing the transport ends
	}
	var failures []error
	if closer, ok := l.config.Transport.(raft.WithClose); ok {
		failures = append(failures, closer.Close())
	}
	select {
	case <-ended:
	default:
		if !l.endedSoon(ended) {
			// Raft still writes: the store must stay open under it.
			return fmt.Errorf("node: close log: Raft did not end: %w", context.Cause(ctx))
		}
	}
	close(l.stop)
	l.loops.Wait()
	failures = append(failures, l.mark.sync(), l.stores.close())
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("node: close log: %w", err)
	}
	return nil
}

// letOut waits for what is under way. Without a majority a leader steps down
// within a heartbeat and answers all of it.
func (l *raftLog) letOut() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*l.config.Heartbeat)
	defer cancel()
	l.gate.close(ctx)
}

// endedSoon waits for Raft a last time, after its transport was closed.
func (l *raftLog) endedSoon(ended <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*l.config.Heartbeat)
	defer cancel()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}
