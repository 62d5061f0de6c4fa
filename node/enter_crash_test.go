package node_test

import (
	"context"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Row 24 of the crash table: an init that ends before Raft's bootstrap goes on
// when it is given again, with the same operators only.
func TestCrashInInit(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m := c.NewMember()
		m.Start()
		alice, mallory := nodetest.NewOperator("alice"), nodetest.NewOperator("mallory")
		cut, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Init(cut, node.InitOptions{Operators: []fsm.Operator{alice.Public()}}); err == nil {
			t.Fatal("the init was not cut off")
		}
		if len(m.Config.Memory.Content("identity")) == 0 || len(m.Config.Memory.Content("pins")) == 0 {
			t.Fatal("it was cut off before the identity and the pins were written")
		}
		begun := m.Cluster()
		m.Restart()
		if _, err := m.Init(t.Context(), node.InitOptions{Operators: []fsm.Operator{mallory.Public()}}); err == nil {
			t.Error("another operator's init goes on")
		}
		id, err := m.Init(t.Context(), node.InitOptions{Operators: []fsm.Operator{alice.Public()}})
		if err != nil || id != begun {
			t.Fatalf("init again: cluster %v, was %v: %v", id, begun, err)
		}
		if cluster, ok := m.View().Cluster(); !ok || cluster.ID != id {
			t.Error("there is no cluster")
		}
	})
}

// Row 25: a node that dies as soon as it is let in catches up by itself.
func TestCrashInJoin(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m := c.NewMember()
		m.Start()
		if err := m.Join(t.Context(), c.Token()); err != nil {
			t.Fatal(err)
		}
		m.Restart()
		c.Eventually("it votes", func() bool {
			row, ok := m.View().Member(m.ID())
			return ok && row.Voter
		})
	})
}
