package node_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A holder that sends anything but its share is refused and named, and the
// device is provisioned from the others.
func TestLyingHolder(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"a changed bit": func(sealed []byte) []byte {
			sealed[len(sealed)-1] ^= 1
			return sealed
		},
		"another epoch": func(sealed []byte) []byte {
			s, err := dkek.ParseSealed(sealed)
			if err != nil {
				return nil
			}
			s.Epoch++
			sealed, _ = s.Encode()
			return sealed
		},
		"nothing": func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.StartWith(t, 3, nodetest.Options{})
				target := blankDevice(c, c.Members[2])
				// Its own share is lost too, so that it needs both others, and one lies.
				proven, _ := c.Leader().View().Proven()
				order := slices.DeleteFunc(nodesOf(proven.Plan.Holders), func(id dkek.NodeID) bool { return id == target.ID() })
				liar := c.Members[slices.IndexFunc(c.Members, func(m *nodetest.Member) bool { return m.ID() == order[0] })]
				liar.Lie(change)
				id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
				c.Approve(id, 1)
				c.Done(id)
				if kcv := deviceKCV(t, target); kcv != proven.KCV {
					t.Errorf("KCV %v, want %v", kcv, proven.KCV)
				}
				row := ended(c, id)
				if len(row.Releases) != 2 {
					t.Errorf("%d releases: the liar's was not asked for", len(row.Releases))
				}
				if name != "nothing" && !strings.Contains(row.Detail, liar.Name) {
					t.Errorf("the liar %s is not named: %q", liar.Name, row.Detail)
				}
			})
		})
	}
}

func nodesOf(holders []dkek.Holder) (ids []dkek.NodeID) {
	for _, h := range holders {
		ids = append(ids, h.Node)
	}
	return ids
}

// A dealer of a reshare that deals another secret than its share shows as a wrong
// check value. The old sharing stays, other dealers are taken the next time, and
// where none are left the operators are told whom to suspect.
func TestWrongDealer(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		liar := c.Members[0]
		liar.Reached(func(_ context.Context, point string) error {
			if point == "dealt" {
				return liar.DealWrongly()
			}
			return nil
		})
		before, _ := c.Leader().View().Proven()
		var outcomes []fsm.Outcome
		for range 3 {
			id := openReshare(t, c.Leader(), node.CeremonyOptions{})
			o, _ := c.Leader().Ceremony(t.Context(), id)
			lies := o.Terms.Plan.DealerIndex(liar.ID()) >= 0
			c.Approve(id, 1)
			row := ended(c, id)
			outcomes = append(outcomes, row.Outcome)
			if !lies {
				if row.Outcome != fsm.OutcomeSuccess {
					t.Fatalf("honest dealers: %s: %s", row.Outcome, row.Detail)
				}
				break
			}
			if row.Outcome != fsm.OutcomeFailed || !strings.Contains(row.Detail, liar.Name) {
				t.Fatalf("wrong dealer: %s: %s", row.Outcome, row.Detail)
			}
			if now, _ := c.Leader().View().Proven(); now.Ref() != before.Ref() {
				t.Fatal("the old sharing is not in force any more")
			}
			onlyShares(c, before)
		}
		row, _ := c.Leader().View().Proven()
		if row.Ref() == before.Ref() || row.KCV != before.KCV {
			t.Errorf("no quorum healed it: %v", outcomes)
		}
		onlyShares(c, row)
	})
}

func TestWrongDealerWithoutSpare(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 2)
		liar := c.Members[0]
		liar.Reached(func(_ context.Context, point string) error {
			if point == "dealt" {
				return liar.DealWrongly()
			}
			return nil
		})
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		if row := ended(c, id); row.Outcome != fsm.OutcomeFailed {
			t.Fatalf("%s: %s", row.Outcome, row.Detail)
		}
		_, err := c.Leader().OpenReshare(t.Context(), node.CeremonyOptions{})
		if err == nil || !strings.Contains(err.Error(), "one of these dealt wrongly") {
			t.Errorf("the same dealers again: %v", err)
		}
	})
}

// An old share outlives whatever the log claims: only a proof that this node has
// checked lets it go.
func TestForgedProofErasesNothing(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
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
		// A leader that made up this state: the new sharing in force, with reports
		// that a key of its own signed for everybody.
		forger := nodetest.NewOperator("forger")
		for i, quorum := range dkek.ProofQuorums(&staged.Plan) {
			signed, err := fsm.SignStatement(forger.Key, fsm.DomainReport, &fsm.ReportStatement{
				Cluster: cluster.ID, Ceremony: id, Sharing: staged.Hash, Node: staged.Plan.Holders[i].Node, Quorum: quorum,
				KCV: staged.KCV, DeviceKind: "soft", DeviceSerial: "forged",
			})
			if err != nil {
				t.Fatal(err)
			}
			staged.Reports = append(staged.Reports, signed)
		}
		staged.Status, old.Status, cluster.Proven = fsm.SharingProven, fsm.SharingSuperseded, staged.Ref()
		victim.LookAtShares()
		c.Eventually("the victim has looked", func() bool { return victim.SharesLookedAt() })
		if files := victim.Config.Memory.Files("shares/"); len(files) != 2 {
			t.Errorf("the old share was erased on a forged proof: %v", files)
		}
		if victim.Config.Memory.Content("proofs/2-1") != nil {
			t.Error("a forged proof was written down")
		}
		// Nor does calling the old sharing dropped help.
		old.Status = fsm.SharingDropped
		victim.LookAtShares()
		c.Eventually("the victim has looked", func() bool { return victim.SharesLookedAt() })
		if victim.Config.Memory.Content("shares/1-1") == nil {
			t.Error("a share that was in force was erased as dropped")
		}
	})
}

// A joiner believes the operators in its token and nobody else.
func TestJoinWithForeignOperators(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 1)
		m := c.NewMember()
		m.Start()
		token := c.Token()
		token.Operators[0] ^= 1
		if err := m.Join(t.Context(), token); err == nil {
			t.Error("it joined under operators that its token does not name")
		}
		if m.Pinned().Number != 0 {
			t.Error("it pinned them")
		}
	})
}
