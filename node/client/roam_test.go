package client

import (
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// Two nodes are not asked for the same change at a time, however quiet the first is.
func TestAChangeStaysWithItsNode(t *testing.T) {
	r := &round{
		call: &call{route: api.Route{Changes: true}}, addresses: []string{"first", "second"}, asked: 1,
		waiting: map[int]bool{0: false}, quiet: make(chan int), ended: make(chan outcome),
	}
	go func() {
		r.quiet <- 0
		r.ended <- outcome{of: 0}
	}()
	if o, ok := r.next(t.Context()); !ok || o.of != 0 || r.asked != 1 {
		t.Errorf("%+v ended (%v), and %d nodes were asked", o, ok, r.asked)
	}
}
