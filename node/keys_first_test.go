package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Whoever has seen the create end can make a key at any node, also at one that has
// yet to hear of the end.
func TestTheFirstKeyIsMadeAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		leader := c.Leader()
		for _, m := range others(c, leader) {
			c.Network.Delay(leader.Host, m.Host, 100*time.Millisecond)
		}
		c.CreateDKEK()
		for _, m := range others(c, leader) {
			if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: m.Name, Type: hsm.ECDSAP256}); err != nil {
				t.Errorf("at %s: %v", m.Name, err)
			}
		}
	})
}
