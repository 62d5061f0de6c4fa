package node_test

import (
	"context"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Each check that stands between an old share and its end, alone: all members but
// one have conspired, with their own keys, and every other check is content.
func TestOldShareGoesForAWholeProofOnly(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	for name, test := range map[string]struct {
		erased bool
		kcv    byte // changes the check value
		alone  bool // the victim has reported nothing itself
		bad    bool // the victim's new share is damaged
		few    bool // the reports leave a holder out
		silent bool // a holder has reported nothing itself
		acked  bool // a holder's acknowledgement is another's
	}{
		"nothing is wrong":                       {erased: true},
		"the victim has combined nothing itself": {alone: true},
		"another DKEK":                           {kcv: 1},
		"the new share is bad":                   {bad: true},
		"a holder is in no quorum":               {few: true},
		"a holder has reported nothing":          {silent: true},
		"a holder has acknowledged nothing":      {acked: true},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				for _, m := range c.Members {
					m.Reached(func(_ context.Context, point string) error {
						if point == "gathered" {
							return context.Canceled
						}
						return nil
					})
				}
				id := openReshare(t, c.Leader(), node.CeremonyOptions{})
				c.Approve(id, 1)
				victim := c.Follower()
				c.Eventually("all hold the new shares", func() bool {
					row, ok := victim.View().Sharing(2, 1)
					return ok && row.Status == fsm.SharingStaged
				})
				staged, _ := victim.View().Sharing(2, 1)
				old, _ := victim.View().Sharing(1, 1)
				cluster, _ := victim.View().Cluster()
				row, _ := victim.View().Ceremony(id)
				staged.KCV[0] ^= test.kcv
				if test.bad {
					file := victim.Config.Memory.Content("shares/2-1")
					file[len(file)-1] ^= 1
					victim.Config.Memory.SetContent("shares/2-1", file)
				}
				quorums := dkek.ProofQuorums(&staged.Plan)
				if test.few {
					quorums = quorums[:1]
				}
				if test.acked {
					staged.Acks = append(staged.Acks[1:len(staged.Acks):len(staged.Acks)], staged.Acks[1])
				}
				for i, by := range append([]*nodetest.Member{victim}, others(c, victim)...) {
					if test.alone && by == victim || test.silent && i == 2 {
						continue
					}
					quorum := quorums[i%len(quorums)]
					signed, err := fsm.SignStatement(by.Signer(), fsm.DomainReport, &fsm.ReportStatement{
						Cluster: cluster.ID, Ceremony: id, Sharing: staged.Hash, Node: by.ID(), Quorum: quorum,
						KCV: staged.KCV, DeviceKind: "soft", DeviceSerial: "forged",
					})
					if err != nil {
						t.Fatal(err)
					}
					staged.Reports, row.Reports = append(staged.Reports, signed), append(row.Reports, signed)
				}
				staged.Status, old.Status, cluster.Proven = fsm.SharingProven, fsm.SharingSuperseded, staged.Ref()
				victim.LookAtShares()
				c.Eventually("the victim has looked", func() bool { return victim.SharesLookedAt() })
				if gone := victim.Config.Memory.Content("shares/1-1") == nil; gone != test.erased {
					t.Errorf("the old share is gone: %v", gone)
				}
			})
		})
	}
}
