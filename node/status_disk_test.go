package node_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A full disk is in every member's status, also after a start on it, when the
// node knows nothing of its cluster any more but why. Who cannot write is not
// counted on: not for a majority, not for a release.
func TestStatusCountsFullDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		status := func(m *nodetest.Member) api.Status { return m.StatusOnSocket(t.Context()) }
		says := func(m *nodetest.Member, what string) bool {
			return strings.Contains(strings.Join(status(m).Warnings, "\n"), what)
		}
		make := func(m *nodetest.Member, name string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := m.CreateKey(ctx, node.KeySpec{Name: name, Type: hsm.ECDSAP256})
			return err
		}
		stuck := c.Follower()
		stuck.Close()
		fill := stuck.Config.Memory.Disk()
		stuck.Start()
		c.Eventually("it is there", func() bool { return status(c.Leader()).CanLose.Nodes == 1 })
		fill(true)
		if err := make(c.Leader(), "one"); err != nil {
			t.Fatal(err)
		}
		c.Eventually("the others say what is wrong", func() bool {
			return says(c.Leader(), stuck.Name+" is unready: the log cannot be written")
		})
		if s := status(c.Leader()); s.CanLose.Nodes != 0 || !s.Restore.Possible || len(s.Restore.Holders) != 2 || !s.Quorum {
			t.Errorf("with one disk full: %+v, %+v, quorum %v", s.CanLose, s.Restore, s.Quorum)
		}

		stuck.Restart()
		if err := make(c.Leader(), "two"); err != nil {
			t.Fatal(err)
		}
		c.Eventually("they still do after its start", func() bool {
			return says(c.Leader(), stuck.Name+" is unready: the log cannot be written")
		})
		c.Eventually("so does it", func() bool {
			s := status(stuck)
			return strings.Contains(s.Node.Missing, "cannot be written") && strings.Contains(s.Restore.Why, "has yet to reach this node")
		})

		leader := c.Leader()
		var second func(bool)
		for _, m := range c.Members {
			if m != leader && m != stuck {
				m.Close()
				second = m.Config.Memory.Disk()
				second(true)
				m.Start()
			}
		}
		if make(leader, "three") == nil { // a full disk shows where something is written
			t.Error("a key was acknowledged with one disk of three that can be written")
		}
		c.Eventually("no majority can write", func() bool {
			s := status(leader)
			return !s.Quorum && !s.Restore.Possible && strings.Contains(s.Restore.Why, "cannot write")
		})
		fill(false)
		second(false)
		c.Eventually("all is well", func() bool {
			s := status(c.Leader())
			return s.Quorum && s.Restore.Possible && s.CanLose.Nodes == 1
		})
		time.Sleep(time.Second)
	})
}
