package client

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

const (
	dialTimeout = 5 * time.Second
	// silence is how long a request waits before its node is asked for a sign of
	// life, and again after each one; and how long that may take.
	silence = 5 * time.Second
)

// silentError is a node that takes connections, if that, and answers nothing.
type silentError struct{ cause error }

func (e *silentError) Error() string {
	return fmt.Sprintf("stands still: no answer in %v, and no sign of life: %v", silence, e.cause)
}
func (e *silentError) Unwrap() error { return e.cause }

// whileAlive does a request for as long as its node gives signs of life: an
// answer that takes long looks like a process that was stopped or a machine that
// went away. HTTP/2 has pings for that, and costs a node half as much again for a
// signature; so requests go over HTTP/1.1, and the question over a connection of
// its own.
func (c *Client) whileAlive(req *http.Request) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	watch := time.AfterFunc(c.silence, func() {
		for ctx.Err() == nil {
			if err := c.alive(ctx, req); err != nil {
				cancel(&silentError{err})
			}
			select {
			case <-time.After(c.silence):
			case <-ctx.Done():
			}
		}
	})
	stop := func() {
		watch.Stop()
		cancel(nil)
	}
	answer, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		stop()
		if silent, ok := context.Cause(ctx).(*silentError); ok {
			err = silent
		}
		return nil, nil, err
	}
	return answer, stop, nil
}

// alive asks a request's node whether its process runs.
func (c *Client) alive(ctx context.Context, req *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, c.silence)
	defer cancel()
	at := *req.URL
	at.Path, at.RawQuery = c.routes[api.HealthAlive].Path, ""
	question, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	answer, err := c.probe.Do(question)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}
