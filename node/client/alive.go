package client

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

const (
	dialTimeout = 5 * time.Second
	// silence is how long a request waits before its node is asked for a sign of
	// life, and how soon that comes from a node that has not much else to do.
	silence = time.Second
	// patience is how long a sign of life may take, and how often there must be one.
	patience = 5 * time.Second
)

// silentError is a node that takes connections, if that, and answers nothing.
type silentError struct {
	patience time.Duration
	cause    error
}

func (e *silentError) Error() string {
	return fmt.Sprintf("stands still: no sign of life in %v: %v", e.patience, e.cause)
}
func (e *silentError) Unwrap() error { return e.cause }

// watcher is told what becomes of a request before there is an answer.
type watcher struct {
	connected func() // it may reach the node
	quiet     func() // a sign of life does not come soon
}

// whileAlive does a request for as long as its node gives signs of life: an
// answer that takes long looks like a process that was stopped or a machine that
// went away. HTTP/2 has pings for that, and costs a node half as much again for a
// signature; so requests go over HTTP/1.1, and the question over a connection of
// its own.
func (c *Client) whileAlive(req *http.Request, w watcher) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	watch := time.AfterFunc(c.silence, func() {
		for ctx.Err() == nil {
			late := time.AfterFunc(c.silence, w.quiet)
			err := c.alive(ctx, req)
			late.Stop()
			if err != nil {
				cancel(&silentError{c.patience, err})
			}
			select {
			case <-time.After(c.patience):
			case <-ctx.Done():
			}
		}
	})
	stop := func() {
		watch.Stop()
		cancel(nil)
	}
	connected := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { w.connected() }})
	answer, err := c.http.Do(req.WithContext(connected))
	if err != nil {
		stop()
		if silent, ok := context.Cause(ctx).(*silentError); ok {
			err = silent
		}
		return nil, nil, err
	}
	return answer, stop, nil
}

// alive waits for a sign of life from a request's node. One that is refused says
// little: a client key may have all the connections that it may have.
func (c *Client) alive(ctx context.Context, req *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	var refused error
	for ctx.Err() == nil {
		// One question at a time, whose answer is for all who wait for the node: it
		// does not end with the request that happened to ask it.
		asked := c.asking.DoChan(req.URL.Host, func() (any, error) {
			return nil, c.askAlive(context.WithoutCancel(ctx), req)
		})
		select {
		case answer := <-asked:
			if refused = answer.Err; refused == nil {
				return nil
			}
		case <-ctx.Done():
		}
	}
	return cmp.Or(refused, ctx.Err())
}

// askAlive asks a request's node once whether its process runs. A refusal takes as
// long as the wait for the next question.
func (c *Client) askAlive(ctx context.Context, req *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	next := time.After(c.silence)
	at := *req.URL
	at.Path, at.RawQuery = c.routes[api.HealthAlive].Path, ""
	question, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	answer, err := c.probe.Do(question)
	if err != nil {
		<-next
		return err
	}
	return answer.Body.Close()
}
