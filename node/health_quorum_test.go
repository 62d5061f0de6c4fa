package node_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A node that has just started never says in one breath that it has a quorum and
// that a majority is not in reach: while its state has yet to come, and alone.
func TestANodeThatStartsDoesNotContradictItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		m := c.Follower()
		m.Crash()
		m.Start()
		seen := false
		for range 2000 {
			health := m.HealthForTest()
			seen = seen || health.Quorum
			if health.Quorum && strings.Contains(health.Missing, "no leader") {
				t.Fatalf("%+v", health)
			}
			if _, ok := m.View().Cluster(); ok && seen {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if !seen {
			t.Error("it never had a quorum")
		}
	})
}
