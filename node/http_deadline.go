package node

import (
	"context"
	"sync"
	"time"
)

// requestContext ends with the connection that it came over, at its deadline, or
// when it is closed. A timer for the deadline, and a place among what the
// connection's end ends, cost a request more than looking a key up: it has them
// from when somebody waits for it, and most requests are answered before.
type requestContext struct {
	context.Context // of the connection
	deadline        time.Time

	mu     sync.Mutex
	timed  context.Context    // from when somebody waits; nil before
	cancel context.CancelFunc // of timed
	closed bool
}

func newRequestContext(parent context.Context, deadline time.Time) *requestContext {
	return &requestContext{Context: parent, deadline: deadline}
}

// Deadline implements context.Context.
func (c *requestContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.cancel = context.WithDeadline(c.Context, c.deadline)
		if c.closed {
			c.cancel()
		}
	}
	return c.timed.Done()
}

// Err implements context.Context.
func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.timed != nil:
		return c.timed.Err()
	case c.closed:
		return context.Canceled
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// close ends it.
func (c *requestContext) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.cancel != nil {
		c.cancel()
	}
}
