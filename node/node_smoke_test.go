package node_test

import (
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/node/nodetest"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		t.Log(c.Leader().Name)
		f := c.Follower()
		f.Restart()
		c.Eventually("caught up", func() bool { return f.View().Index() >= c.Leader().View().Index() })
	})
}
