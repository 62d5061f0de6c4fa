package node_test

import (
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// The leader dies at any step of a ceremony that it has no part in, and stays
// away: the next one carries on. Where it has a part see TestCrashInCreate.
func TestLeaderLoss(t *testing.T) {
	for _, c := range []struct {
		ceremony string
		points   []string
		lose     func(t *testing.T, point string)
	}{
		{"provision", []string{"gathered", "device initialised", "device ready", "proof committed"}, lostInProvision},
		{"reshare", []string{
			"dealt", "dealing recorded", "release committed", "release recorded", "some sub-shares", "bundle written", "acknowledged",
			"gathered", "device ready", "proof committed", "looking for proofs", "proof written", "share erased",
		}, lostInReshare},
		{"drill", []string{"gathered", "device ready", "proof committed"}, lostInDrill},
		{"govern", []string{"govern committed"}, lostInGovern},
	} {
		for _, point := range c.points {
			t.Run(c.ceremony+"/"+point, func(t *testing.T) {
				in(t, func(t *testing.T) { c.lose(t, point) })
			})
		}
	}
}

func lostInProvision(t *testing.T, point string) {
	c := nodetest.Start(t, 3)
	target := blankDevice(c, c.Follower())
	there := pauseAt(target, point)
	id := openProvision(t, target, node.CeremonyOptions{})
	c.Approve(id, 1)
	there.pass(c, func() { c.Leader().Crash() })
	c.Done(id)
	row, _ := c.Leader().View().Proven()
	if kcv := deviceKCV(t, target); kcv != row.KCV {
		t.Errorf("the device has the DKEK %v, want %v", kcv, row.KCV)
	}
}

func lostInReshare(t *testing.T, point string) {
	c := nodetest.Start(t, 4)
	leader := c.Leader()
	// The leader is dropped, and cannot deal.
	leader.Config.Memory.SetContent("shares/1-1", nil)
	options := node.CeremonyOptions{}
	for _, m := range c.Members {
		if m != leader {
			options.Holders = append(options.Holders, m.ID())
		}
	}
	id := openReshare(t, c.Follower(), options)
	info, err := c.Follower().Ceremony(t.Context(), id)
	if err != nil || info.Terms.Plan.DealerIndex(leader.ID()) >= 0 {
		t.Fatalf("the leader deals: %v", err)
	}
	// The first new holder deals, holds and proves.
	first := info.Terms.Plan.Holders[0].Node
	at := slices.IndexFunc(c.Members, func(m *nodetest.Member) bool { return m.ID() == first })
	there := pauseAt(c.Members[at], point)
	c.Approve(id, 1)
	there.pass(c, leader.Crash)
	c.Done(id)
	row, ok := c.Leader().View().Proven()
	if !ok || row.Plan.Epoch != 2 {
		t.Fatalf("epoch %d is in force", row.Plan.Epoch)
	}
	onlyShares(c, row)
}

func lostInDrill(t *testing.T, point string) {
	c := nodetest.Start(t, 3)
	makeKeys(t, c.Leader(), "k", 2)
	m := c.Follower()
	there := pauseAt(m, point)
	opened, err := m.OpenDrill(t.Context(), node.CeremonyOptions{Node: m.ID(), Sample: 2})
	if err != nil {
		t.Fatal(err)
	}
	c.Approve(opened.ID, 1)
	there.pass(c, func() { c.Leader().Crash() })
	c.Done(opened.ID)
	if row := ended(c, opened.ID); row.Detail != "2 of 2 sampled keys proven" {
		t.Error(row.Detail)
	}
}

// What a majority has heard of holds: the operators of before approve nothing more.
func lostInGovern(t *testing.T, point string) {
	c := nodetest.Start(t, 3)
	next := nodetest.NewOperator("next")
	m := c.Follower()
	there := pauseAt(m, point)
	opened, err := m.OpenGovern(t.Context(), fsm.Proposal{Operators: []fsm.Operator{next.Public()}, Approvals: 1}, node.CeremonyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Approve(opened.ID, 1)
	there.pass(c, func() { c.Leader().Crash() })
	c.Eventually("the others have pinned the new set", func() bool {
		return !slices.ContainsFunc(c.Members, func(m *nodetest.Member) bool { return m.Node != nil && m.Pinned().Number != 2 })
	})
	drill, err := c.Leader().OpenDrill(t.Context(), node.CeremonyOptions{Node: m.ID()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Operators[0].Approve(t.Context(), c.Leader().Node, drill.ID); err == nil {
		t.Error("an operator of before approved a drill")
	}
	if err := next.Approve(t.Context(), c.Leader().Node, drill.ID); err != nil {
		t.Error(err)
	}
	c.Done(drill.ID)
}
