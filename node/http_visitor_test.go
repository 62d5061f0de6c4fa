package node_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A client whom a node has not heard of yet is looked for in the newest state, also
// where it asks several things at once.
func TestANewClientMayAskTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		leader, late := c.Leader(), c.Follower()
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range c.Members {
			c.Network.Delay(late.Host, other.Host, 100*time.Millisecond)
		}
		added := &fsm.ClientAdd{Name: "app", Fingerprint: fsm.FingerprintOf(der), Role: fsm.RoleAuditor}
		if err := leader.ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), added); err != nil {
			t.Fatal(err)
		}
		b := browse(t, c, private)
		answers := make(chan reply, 4)
		for range 4 {
			go func() { answers <- b.get(late, "/v1/whoami") }()
		}
		for range 4 {
			if who := read[api.Identity](t, <-answers); who.Name != "app" {
				t.Errorf("it is taken for %+v", who)
			}
		}
	})
}
