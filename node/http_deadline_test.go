package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestContextEnds(t *testing.T) {
	hangUp := errors.New("hung up")
	for _, c := range []struct {
		name  string
		end   func(cancel context.CancelCauseFunc, c *requestContext)
		err   error
		cause error
	}{
		{"with its connection", func(cancel context.CancelCauseFunc, _ *requestContext) { cancel(hangUp) }, context.Canceled, hangUp},
		{"at its deadline", func(context.CancelCauseFunc, *requestContext) { time.Sleep(time.Minute) }, context.DeadlineExceeded, context.DeadlineExceeded},
		{"when it is closed", func(_ context.CancelCauseFunc, c *requestContext) { c.close() }, context.Canceled, context.Canceled},
	} {
		for _, waited := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				r := newRequestContext(parent, time.Now().Add(time.Minute))
				defer r.close()
				if at, ok := r.Deadline(); !ok || !at.Equal(time.Now().Add(time.Minute)) {
					t.Errorf("%s: deadline %v, %v", c.name, at, ok)
				}
				var child context.Context = r
				if waited {
					ctx, stop := context.WithCancel(r)
					defer stop()
					child = ctx
				}
				if r.Err() != nil || child.Err() != nil {
					t.Fatalf("%s: ended at the start: %v", c.name, r.Err())
				}
				c.end(cancel, r)
				synctest.Wait()
				if !errors.Is(r.Err(), c.err) {
					t.Errorf("%s, waited for %v: %v", c.name, waited, r.Err())
				}
				<-r.Done()
				if !errors.Is(r.Err(), c.err) || waited && !errors.Is(context.Cause(child), c.cause) {
					t.Errorf("%s, waited for %v, then: %v, %v", c.name, waited, r.Err(), context.Cause(child))
				}
			})
		}
	}
}
