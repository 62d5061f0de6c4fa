package client

import (
	"context"
	"io"
	"sync"
)

// round is one request on its way from address to address. What changes nothing goes
// on to the next one while a node is quiet, and waits for both: a node that stands
// still costs it a moment, one that is slow nothing. A change waits until its node
// has answered or is given up, so that two nodes do not do it at a time.
type round struct {
	client    *Client
	call      *call
	read      func(io.Reader) error // takes an answer of any length; else nil
	addresses []string
	asked     int          // so many of them
	waiting   map[int]bool // those that have not ended; true: they are not waited for alone
	quiet     chan int
	ended     chan outcome
}

// outcome is what one address answered.
type outcome struct {
	of     int // the address
	answer Answer
	body   []byte
	err    error
}

func (c *Client) newRound(call *call, response any) *round {
	r := &round{client: c, call: call, addresses: c.Addresses(), waiting: map[int]bool{}}
	r.read, _ = response.(func(io.Reader) error)
	r.quiet, r.ended = make(chan int, len(r.addresses)), make(chan outcome, len(r.addresses))
	return r
}

// next returns what ends next; false: all addresses were asked and have ended.
func (r *round) next(ctx context.Context) (outcome, bool) {
	for {
		r.ask(ctx)
		if len(r.waiting) == 0 {
			return outcome{}, false
		}
		select {
		case i := <-r.quiet:
			if _, waits := r.waiting[i]; waits && !r.call.route.Changes && r.read == nil {
				r.waiting[i] = true
			}
		case o := <-r.ended:
			delete(r.waiting, o.of)
			return o, true
		}
	}
}

// ask asks the next address, if there is one, unless a node that is not quiet is at it.
func (r *round) ask(ctx context.Context) {
	for _, quiet := range r.waiting {
		if !quiet {
			return
		}
	}
	if r.asked == len(r.addresses) {
		return
	}
	i := r.asked
	r.asked++
	r.waiting[i] = false
	quiet := sync.OnceFunc(func() { r.quiet <- i })
	go func() {
		answer, body, err := r.client.try(ctx, r.addresses[i], r.call, r.read, quiet)
		r.ended <- outcome{i, answer, body, err}
	}()
}
