package node_test

import (
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A share that its holder did not sign is not taken, good as it may be: the
// device is filled from the others.
func TestUnsignedShareIsRefused(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		target := blankDevice(c, c.Members[2])
		for _, m := range c.Members[:2] {
			m.SignWrongly()
		}
		held := holdAt(target, "gathered")
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID(), Expires: 30 * time.Second})
		c.Approve(id, 1)
		c.Eventually("both were asked", func() bool {
			row, _ := c.Leader().View().Ceremony(id)
			return len(row.Releases) == 2
		})
		if row := ended(c, id); row.Outcome == "success" || held.reached.Load() {
			t.Errorf("filled by shares that nobody signed: %s %s", row.Outcome, row.Detail)
		}
	})
}
