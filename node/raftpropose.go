package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Propose implements replicatedLog. Whatever was certainly not appended is tried
// again while there is hope for a leader.
func (l *raftLog) Propose(ctx context.Context, command []byte) (appliedCommand, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	for start := time.Now(); ; {
		applied, err := l.proposeOnce(ctx, command)
		if err == nil || !errors.Is(err, ErrNotAppended) || errors.Is(err, ErrDisk) || l.Err() != nil {
			return applied, err
		}
		if !l.waitForLeader(ctx, start) {
			return applied, err
		}
	}
}

// proposeOnce appends here or asks the leader to.
func (l *raftLog) proposeOnce(ctx context.Context, command []byte) (appliedCommand, error) {
	if err := l.Err(); err != nil {
		return appliedCommand{}, notAppended(err)
	}
	if err := l.diskTrouble(); err != nil {
		return appliedCommand{}, notAppended(err) // it could be committed and never come here
	}
	if l.raft.State() == raft.Leader {
		return l.append(ctx, command)
	}
	leader, ok := l.Leader()
	if !ok || leader.ID == l.config.ID || l.config.Peers == nil {
		return appliedCommand{}, notAppended(ErrNoLeader)
	}
	asking, cancel := l.whileLeads(ctx, leader)
	defer cancel()
	applied, err := l.config.Peers.ProposeHere(asking, leader, command)
	if err != nil {
		return appliedCommand{}, classified(err)
	}
	// The caller looks at the local state next. Where this node does not catch up in
	// time, that is one from before the command, which may have no such key.
	if err := l.WaitApplied(ctx, applied.Index); err != nil {
		return appliedCommand{}, unknownOutcome(err)
	}
	return applied, nil
}

// classified keeps what a peer said about the outcome. What says nothing is
// unknown: a broken connection proves nothing about the command.
func classified(err error) error {
	if errors.Is(err, ErrNotAppended) || errors.Is(err, ErrOutcomeUnknown) {
		return err
	}
	if refused := (*RefusedError)(nil); errors.As(err, &refused) {
		return err
	}
	return unknownOutcome(err)
}

// ProposeHere implements replicatedLog.
func (l *raftLog) ProposeHere(ctx context.Context, command []byte) (appliedCommand, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	applied, err := l.append(ctx, command)
	return applied, err
}

// append stamps the command and gives it to Raft, as the leader. Many callers at
// once is what fills Raft's batches: nothing here takes them one by one.
func (l *raftLog) append(ctx context.Context, command []byte) (appliedCommand, error) {
	if err := l.mayAppend(ctx); err != nil {
		return appliedCommand{}, notAppended(err)
	}
	if l.config.Stamp != nil {
		stamped, err := l.config.Stamp(command, time.Now())
		if err != nil {
			return appliedCommand{}, &RefusedError{Cause: err}
		}
		command = stamped
	}
	if len(command) > maxCommand {
		return appliedCommand{}, &RefusedError{Cause: fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(command), maxCommand)}
	}
	future := &pending[raft.ApplyFuture]{}
	if err := future.wait(ctx, &l.gate, func() raft.ApplyFuture { return l.raft.Apply(command, l.config.Deadline) }); err != nil {
		return appliedCommand{}, l.appendError(err)
	}
	l.transfer.clear()
	result := future.of.Response()
	if stopped, ok := result.(stoppedResult); ok {
		return appliedCommand{}, unknownOutcome(stopped.cause)
	}
	return appliedCommand{Index: future.of.Index(), Result: result}, nil
}

// mayAppend refuses on a node that stopped, that does not lead, or that leads but
// has not finished taking over, unless it is what is taking over that asks.
func (l *raftLog) mayAppend(ctx context.Context) error {
	if err := l.Err(); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if l.raft.State() != raft.Leader {
		return l.notLeader()
	}
	if !l.IsLeader() && ctx.Value(takingOver{}) == nil {
		return errTakingOver
	}
	return nil
}

var errTakingOver = errors.New("the leader is still taking over")

// appendError says what Raft's error means for the command. Everything that is
// not known to come before the append leaves the outcome unknown: a disk that
// failed may have written, a leader that was deposed may have sent.
func (l *raftLog) appendError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return notAppended(l.notLeader())
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return notAppended(err)
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		if l.transfer.stuck(time.Now(), l.config.Heartbeat) {
			l.fail(fmt.Errorf("node: leadership transfer never ended: this leader refuses every write: start it again"))
		}
		return notAppended(err)
	}
	return unknownOutcome(err)
}

func (l *raftLog) notLeader() error {
	leader, _ := l.Leader()
	return &NotLeaderError{Leader: leader}
}

func notAppended(cause error) error {
	return fmt.Errorf("%w: %w", ErrNotAppended, cause)
}

func unknownOutcome(cause error) error {
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, cause)
}

// RefusedError is a command that the leader found not to be valid. It was not
// appended, and repeating it is of no use.
type RefusedError struct{ Cause error }

func (e *RefusedError) Error() string { return "refused: " + e.Cause.Error() }
func (e *RefusedError) Unwrap() error { return e.Cause }

// pending waits for a future of Raft with the caller's own deadline: Raft's
// timeout bounds the way into its queue only.
type pending[F raft.Future] struct{ of F }

func (p *pending[F]) wait(ctx context.Context, gate *gate, start func() F) error {
	if !gate.enter() {
		return notAppended(ErrClosed)
	}
	done := make(chan error, 1)
	go func() {
		defer gate.leave()
		p.of = start()
		done <- p.of.Error()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gate counts the futures that somebody waits for. Raft forgets those in its
// queue when it is shut down, so the last one is let out before.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside int
	empty  chan struct{} // closed when the last one is out; nil before closing
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.closed {
		close(g.empty)
	}
}

// close lets nobody in any more, and waits for those inside until ctx ends.
func (g *gate) close(ctx context.Context) {
	g.mu.Lock()
	if !g.closed {
		g.closed, g.empty = true, make(chan struct{})
		if g.inside == 0 {
			close(g.empty)
		}
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}
