package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

// proposeRetry is how long a proposal that may be repeated waits before it is.
const proposeRetry = 50 * time.Millisecond

// newRequest draws a request ID.
func newRequest() (id fsm.RequestID) {
	rand.Read(id[:])
	return id
}

// self is this node as the one who asks.
func (n *Node) self() fsm.Actor { return fsm.Actor{Who: n.Fingerprint(), Node: n.id} }

// do proposes on this node's own behalf.
func (n *Node) do(ctx context.Context, body fsm.Body) (fsm.Result, error) {
	return n.propose(ctx, fsm.Command{Header: fsm.Header{Request: newRequest(), Actor: n.self()}, Body: body})
}

// propose commits a command and returns when it is applied here. It repeats the
// same request until ctx ends, so that what is returned is what became of it:
// nil, a *fsm.Error that every node agrees on, or an error that wraps
// [ErrOutcomeUnknown] or [ErrNotAppended].
func (n *Node) propose(ctx context.Context, command fsm.Command) (fsm.Result, error) {
	m := n.cluster.Load()
	if m == nil {
		return fsm.Result{}, ErrNoCluster
	}
	encoded, err := fsm.Encode(command)
	if err != nil {
		return fsm.Result{}, doing(err, "propose")
	}
	unknown := false // some try may have been appended
	for {
		applied, err := m.log.Propose(ctx, encoded)
		if err == nil {
			return n.resultOf(ctx, applied)
		}
		var refused *fsm.Error
		if errors.As(err, &refused) {
			return fsm.Result{}, n.refusal(ctx, refused)
		}
		unknown = unknown || errors.Is(err, ErrOutcomeUnknown)
		repeat := errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotAppended)
		if repeat && !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrDisk) && ctx.Err() == nil {
			select {
			case <-time.After(proposeRetry):
				continue
			case <-ctx.Done():
			}
		}
		if unknown && !errors.Is(err, ErrOutcomeUnknown) {
			err = errors.Join(ErrOutcomeUnknown, err)
		}
		return fsm.Result{}, doing(err, "propose")
	}
}

func (n *Node) resultOf(ctx context.Context, applied appliedCommand) (fsm.Result, error) {
	result, ok := applied.Result.(fsm.Result)
	if !ok {
		return fsm.Result{}, fmt.Errorf("node: propose: %w: the state answered with %T", ErrOutcomeUnknown, applied.Result)
	}
	if result.Err != nil {
		return result, n.refusal(ctx, result.Err)
	}
	return result, nil
}

// view is the local state as it is now; it may lag behind the cluster's.
func (n *Node) view() *fsm.View {
	if m := n.cluster.Load(); m != nil {
		return m.state.State()
	}
	return fsm.New().State()
}

// consistent is a state that contains everything acknowledged before the call.
func (n *Node) consistent(ctx context.Context) (*fsm.View, error) {
	m := n.cluster.Load()
	if m == nil {
		return nil, ErrNoCluster
	}
	if _, err := m.log.ReadBarrier(ctx); err != nil {
		return nil, doing(err, "consistent read")
	}
	return m.state.State(), nil
}
