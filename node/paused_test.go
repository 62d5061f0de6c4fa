package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A leader that stands still costs a change no more than the election of another:
// who had asked it does not wait until the connection to it is given up.
func TestAPausedLeaderCostsAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		leader, follower := c.Leader(), c.Follower()
		c.Network.Hang(leader.Host)
		start := time.Now()
		if _, err := follower.CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err != nil {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		c.Network.Resume(leader.Host)
	})
}
