package node_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A member that leaves, or is removed while it runs, stops, is told why, and stays
// out; the others go on, also without the one that led them.
func TestLeave(t *testing.T) {
	for name, who := range map[string]func(c *nodetest.Cluster) *nodetest.Member{
		"the leader": (*nodetest.Cluster).Leader, "a follower": (*nodetest.Cluster).Follower,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leave(t, who, func(_ *nodetest.Cluster, m *nodetest.Member) error { return m.Leave(t.Context(), "moving out") })
			})
		})
		t.Run(name+" is removed", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leave(t, who, func(c *nodetest.Cluster, m *nodetest.Member) error {
					by := c.Members[slices.IndexFunc(c.Members, func(other *nodetest.Member) bool { return other != m })]
					return by.ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), &fsm.MemberRemove{Node: m.ID()})
				})
			})
		})
	}
}

func leave(t *testing.T, who func(c *nodetest.Cluster) *nodetest.Member, how func(*nodetest.Cluster, *nodetest.Member) error) {
	c := nodetest.StartWith(t, 4, nodetest.Options{})
	devicesReady(c)
	leaves := who(c)
	id := leaves.ID()
	if err := how(c, leaves); err != nil {
		t.Fatal(err)
	}
	c.Eventually("it stops", func() bool {
		select {
		case <-leaves.Done():
			return true
		default:
			return false
		}
	})
	if err := leaves.Err(); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("it stopped for %v", err)
	}
	leaves.Close()
	leader := c.Leader()
	if removed, ok := leader.View().Removed(id); !ok || removed.Index == 0 {
		t.Error("the others do not know that it left")
	}
	makeKey(t, leader, "after")
	if again, err := node.Open(t.Context(), leaves.Config); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("it is started again: %v", err)
		if again != nil {
			again.Close(t.Context())
		}
	}
}

// Nobody leaves who is needed to bring the DKEK back.
func TestLeaveKeepsEnoughHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 2)
		if err := c.Follower().Leave(t.Context(), ""); !errors.Is(err, fsm.WrongState) {
			t.Errorf("one of two holders left: %v", err)
		}
	})
}

// Who is needed by those that answer neither leaves nor is removed, and nothing is
// lost by the try: of five voters two are down. Those may be removed.
func TestNobodyLeavesWhomTheOthersNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 5)
		devicesReady(c)
		down := []*nodetest.Member{c.Members[3], c.Members[4]}
		ids := []dkek.NodeID{down[0].ID(), down[1].ID()}
		for _, m := range down {
			m.Crash()
		}
		leader := c.Leader()
		leaves := c.Follower()
		err := leaves.Leave(t.Context(), "")
		if !errors.Is(err, fsm.WrongState) || !strings.Contains(err.Error(), "of 4 voters only 2") || !strings.Contains(err.Error(), down[0].Name) {
			t.Errorf("it left: %v", err)
		}
		b := browse(t, c, c.Operators[0].Key)
		refused := b.post(leader, "/v1/members/remove", api.MemberRemoveRequest{Node: leaves.ID().String()})
		wantCode(t, refused, api.CodeWrongState)
		wantCode(t, b.post(leaves, "/v1/members/leave", api.MemberLeaveRequest{Node: leaves.ID().String()}), api.CodeWrongState)
		for _, id := range ids {
			read[api.Ack](t, b.post(leader, "/v1/members/remove", api.MemberRemoveRequest{Node: id.String()}))
		}
		makeKey(t, leader, "after")
	})
}

// A majority would be left, and fewer readable shares than it takes.
func TestNobodyLeavesWithAShareThatIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 4)
		devicesReady(c)
		for _, m := range c.Members {
			c.Eventually(m.Name+"'s share is reported", func() bool {
				row, ok := c.Members[0].View().Member(m.ID())
				return ok && row.Share != nil && row.Share.OK
			})
		}
		c.Members[3].Crash()
		leader := c.Leader()
		err := c.Follower().Leave(t.Context(), "")
		if !errors.Is(err, fsm.WrongState) || !strings.Contains(err.Error(), "2 holders answer") || !strings.Contains(err.Error(), "3 are needed") {
			t.Errorf("it left with its share: %v", err)
		}
		makeKey(t, leader, "after")
	})
}

// A member that comes back at another address says so, is found there and takes
// part; its ID and its share stay what they were.
func TestChangedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		devicesReady(c)
		moves := c.Follower()
		id := moves.ID()
		moves.Close()
		moves.Host = "10.0.7.7"
		moves.Config.Listen = moves.Host + ":7400"
		moves.Config.Network = c.Network.Host(moves.Host)
		moves.Start()
		for _, m := range c.Members {
			c.Eventually(m.Name+" knows the new address", func() bool {
				row, ok := m.View().Member(id)
				return ok && row.Addr == "10.0.7.7:7400"
			})
		}
		// It is needed for a majority now, and its vote and share count.
		for _, m := range c.Members {
			if m != moves && m != c.Leader() {
				m.Crash()
				break
			}
		}
		makeKey(t, moves, "made-there")
		target := blankDevice(c, moves)
		opened := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
		c.Approve(opened, 1)
		c.Done(opened)
		covers(c, target, 1)
	})
}
