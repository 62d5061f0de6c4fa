package node_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// What only has to be tried again says so, whichever node noticed: there is no
// leader, another one has begun to lead, this node's disk is full.
func TestWhatIsToBeTriedAgainSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 1)
		for name, err := range map[string]error{
			"no leader":      fmt.Errorf("node: read index: %w", &node.NotLeaderError{}),
			"another leader": fmt.Errorf("node: read index: %w", &node.NotLeaderError{Leader: node.Peer{ID: "x", Addr: "y:1"}}),
		} {
			if said := c.Members[0].Told(err); said.Code != api.CodeNoQuorum || said.Code.Exit() != api.ExitRetry || !strings.Contains(said.Hint, "try again") {
				t.Errorf("%s: %+v", name, said)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		stuck := c.Follower()
		stuck.Close()
		fill := stuck.Config.Memory.Disk()
		stuck.Start()
		c.Eventually("it has caught up", func() bool { return stuck.View().Index() == c.Leader().View().Index() })
		fill(true)
		makeKey(t, c.Leader(), "k") // a full disk shows where something is written
		b := browse(t, c, c.Operators[0].Key)
		c.Eventually("its disk is full", func() bool { return stuck.StatusOnSocket(t.Context()).Node.State == api.StateUnready })
		refused := b.post(stuck, "/v1/keys", api.KeyCreateRequest{Name: "k2", Type: "aes-256"})
		wantCode(t, refused, api.CodeNoQuorum)
		if said := refused.failure(); !strings.Contains(said.Message, "cannot be written") || !strings.Contains(said.Hint, "another node") {
			t.Errorf("%+v", said)
		}
		fill(false)
	})
}

// A node that cannot write down which slots of its device it uses says that another
// one is to be asked.
func TestSlotsThatCannotBeReservedAreToBeTriedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 1)
		m := c.Members[0]
		m.Config.Memory.Changing(func(name string) error {
			if name == "slots" {
				return syscall.ENOSPC
			}
			return nil
		})
		refused := browse(t, c, c.Operators[0].Key).post(m, "/v1/keys", api.KeyCreateRequest{Name: "k", Type: "ecdsa-p256"})
		wantCode(t, refused, api.CodeNoQuorum)
		if said := refused.failure(); !strings.Contains(said.Message, syscall.ENOSPC.Error()) || !strings.Contains(said.Hint, "another node") {
			t.Errorf("%+v", said)
		}
	})
}
