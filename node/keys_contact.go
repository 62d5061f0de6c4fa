package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

const (
	// contactEvery is how often a node makes sure that a quorum still knows it.
	contactEvery = 10 * time.Second
	// contactTime is how long it waits for that.
	contactTime = 5 * time.Second
	// contactRetry is how long a use waits for a quorum before it is refused as
	// stale.
	contactRetry = time.Second
)

// contact remembers when a quorum last confirmed that the local state was whole.
// It counts by the monotonic clock: setting the machine's clock makes no state
// younger.
type contact struct {
	base time.Time
	last atomic.Int64 // nanoseconds after base; 0: not since the start
}

func (c *contact) begin() { c.base = time.Now() }

// confirm takes note of a confirmation that was asked for at that time.
func (c *contact) confirm(asked time.Time) {
	at := max(int64(asked.Sub(c.base)), 1)
	for {
		last := c.last.Load()
		if last >= at || c.last.CompareAndSwap(last, at) {
			return
		}
	}
}

// age is how old the local state may be. After a start that has not met a quorum
// yet it counts from the newest command in the state, by the clock: a restart
// must not make a state younger.
func (r *keyRoom) age(view *fsm.View) time.Duration {
	now := time.Since(r.contact.base)
	if last := r.contact.last.Load(); last != 0 {
		return now - time.Duration(last)
	}
	return max(now, r.node.now().Sub(time.UnixMilli(view.Time())))
}

// keepContact asks for a read barrier now and then.
func (r *keyRoom) keepContact(ctx context.Context) {
	ticker := time.NewTicker(contactEvery)
	defer ticker.Stop()
	for {
		r.touch(ctx, contactTime)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// touch asks for one read barrier.
func (r *keyRoom) touch(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	asked := time.Now()
	if _, err := r.node.consistent(ctx); err != nil {
		return err
	}
	r.contact.confirm(asked)
	return nil
}

// fresh returns a state that may be acted on, and how old it may be, or
// [ErrStale].
func (r *keyRoom) fresh(ctx context.Context) (*fsm.View, time.Duration, error) {
	view, err := r.known(ctx)
	if err != nil {
		return nil, 0, err
	}
	cluster, _ := view.Cluster()
	limit := cluster.Policy.StaleTime()
	age := r.age(view)
	if age <= limit {
		return view, age, nil
	}
	if err := r.touch(ctx, contactRetry); err != nil {
		return nil, age, fmt.Errorf("%w: the last was %v ago, the policy allows %v: %w", ErrStale, age.Round(time.Second), limit, err)
	}
	return r.node.view(), 0, nil
}

// known is the local state, or, where the node has read nothing since its start,
// what a majority knows.
func (r *keyRoom) known(ctx context.Context) (*fsm.View, error) {
	view := r.node.view()
	if _, ok := view.Cluster(); ok {
		return view, nil
	}
	if err := r.touch(ctx, contactRetry); err != nil {
		return nil, fmt.Errorf("%w: %w", errNothingYet, err)
	}
	view = r.node.view()
	if _, ok := view.Cluster(); !ok {
		return nil, errNothingYet
	}
	return view, nil
}

// StateAge is how long ago a quorum last confirmed that this node's state was
// whole.
func (n *Node) StateAge() time.Duration {
	if n.keys.ready() != nil {
		return 0
	}
	return n.keys.age(n.view())
}
