package node_test

import (
	"context"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A change of operators that carries recipients and a source, with the operators'
// approvals: a leader that passes it on as what was asked for gets no share for it.
func TestGovernMovesNoShares(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		f := startForgery(t)
		f.forgeOpen(func(o *fsm.Open) {
			o.Kind = fsm.CeremonyGovern
			set := f.cluster.Operators
			o.Proposal = &fsm.Proposal{Operators: set.Operators, Approvals: set.Approvals, Policy: f.cluster.Policy}
		})
		f.row.Kind = fsm.CeremonyGovern
		f.row.Approvals = []fsm.Approval{f.approval(f.Operators[0], f.row.Open), f.approval(f.Operators[1], f.row.Open)}
		f.row.Approved = f.row.Opened
		f.nothingLeaves(f.thief)
	})
}

// The reshare that follows a provision stands on approvals of its holders: to a
// recipient beside them, whom no operator has seen, nothing is released.
func TestSuccessorWithAnotherRecipient(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 3, Approvals: 2})
		devicesReady(c)
		thief := c.Follower()
		var rest []*nodetest.Member
		for _, m := range c.Members {
			if m != thief {
				rest = append(rest, m)
			}
		}
		target := blankDevice(c, rest[0])
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID(), Replaces: thief.ID()})
		c.Approve(id, 2)
		c.Done(id)
		c.Eventually("successor in force", func() bool {
			p, _ := c.Leader().View().Proven()
			return p.Plan.Epoch == 2
		})
		row := provenEverywhere(t, c, 2)
		if row.Plan.HolderIndex(thief.ID()) >= 0 {
			t.Fatal("thief holds")
		}
		var cited *fsm.Ceremony
		for r := range thief.View().Ceremonies() {
			if r.Cited {
				cited = r
			}
		}
		o, err := fsm.ParseOpen(cited.Open)
		if err != nil {
			t.Fatal(err)
		}
		// as a lying leader would have opened it: itself opener and one more recipient
		self, _ := thief.View().Member(thief.ID())
		o.Opener = self.Holder()
		key, _ := dkek.NewRecipientKey(dkek.Hybrid())
		entry, err := fsm.SignStatement(thief.Signer(), fsm.DomainRecipient, &fsm.RecipientStatement{
			Cluster: o.Cluster, Incarnation: o.Incarnation, Ceremony: o.Ceremony, Epoch: o.Plan.Epoch, Attempt: o.Plan.Attempt,
			Node: self.Holder(), Public: self.Public, DeviceKind: "soft", DeviceSerial: "scratch", Key: key.Public(),
		})
		if err != nil {
			t.Fatal(err)
		}
		o.Recipients = append(slices.Clone(o.Recipients), entry)
		ids := func(s fsm.Signed) string { var r fsm.RecipientStatement; s.Peek(&r); return string(r.Node.Node[:]) }
		slices.SortFunc(o.Recipients, func(a, b fsm.Signed) int {
			if ids(a) < ids(b) {
				return -1
			}
			return 1
		})
		forged, err := fsm.SignOpen(thief.Signer(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Members {
			r, _ := m.View().Ceremony(cited.ID)
			r.Open, r.Signature, r.Hash, r.Opener = forged.Open, forged.Signature, fsm.OpenHash(forged.Open), thief.ID()
			r.Outcome = fsm.OutcomeOpen
		}
		got := 0
		for _, m := range rest {
			sealed, err := thief.Ask(t.Context(), m.ID(), "share.release", cited.ID)
			t.Logf("%s: %d bytes, %v", m.Name, len(sealed), err)
			if err == nil && len(sealed) > 0 {
				got++
			}
		}
		if got > 0 {
			t.Errorf("%d honest holders released (threshold is %d) to a node that no operator approved", got, row.Plan.Threshold)
		}
	})
}

// One new holder invents the dealings and reports for all: who leaves keeps its share
// until every new holder has acknowledged and reported.
func TestOneReporterErasesNothing(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		c.Add()
		c.Add()
		for _, m := range c.Members {
			m.Reached(func(_ context.Context, point string) error {
				if point == "dealt" {
					return context.Canceled // nothing is dealt at all
				}
				return nil
			})
		}
		liar, victims := c.Members[2], c.Members[:2]
		var stay []dkek.NodeID
		for _, m := range c.Members[2:] {
			stay = append(stay, m.ID())
		}
		id := openReshare(t, c.Leader(), node.CeremonyOptions{Holders: stay})
		c.Approve(id, 1)
		c.Eventually("approved everywhere", func() bool {
			return !slices.ContainsFunc(c.Members, func(m *nodetest.Member) bool {
				r, ok := m.View().Ceremony(id)
				return !ok || r.Approved == 0
			})
		})
		for _, v := range victims {
			row, _ := v.View().Sharing(2, 1)
			old, _ := v.View().Sharing(1, 1)
			cluster, _ := v.View().Cluster()
			var dealings []dkek.Dealing
			for _, d := range row.Plan.Dealers {
				made, err := dkek.Deal(&row.Plan, d.Node, secret.Random(dkek.Size))
				if err != nil {
					t.Fatal(err)
				}
				dealings = append(dealings, made.Public())
			}
			row.Dealings = dealings
			whole := row.Sharing()
			row.Hash, row.KCV = whole.Hash(), row.Plan.KCV
			for _, quorum := range dkek.ProofQuorums(&row.Plan) {
				signed, err := fsm.SignStatement(liar.Signer(), fsm.DomainReport, &fsm.ReportStatement{
					Cluster: cluster.ID, Ceremony: id, Sharing: row.Hash, Node: liar.ID(), Quorum: quorum,
					KCV: row.KCV, DeviceKind: "soft", DeviceSerial: "forged",
				})
				if err != nil {
					t.Fatal(err)
				}
				row.Reports = append(row.Reports, signed)
			}
			row.Status, old.Status, cluster.Proven = fsm.SharingProven, fsm.SharingSuperseded, row.Ref()
			v.SharesLookedAt()
			if v.Config.Memory.Content("shares/1-1") == nil {
				t.Errorf("%s erased its share on the word of one member; nobody has dealt or holds a share of the new sharing", v.Name)
			}
		}
	})
}

// A holder has reported, and on its report others erased what they had before. A
// leader that tells it alone that the reshare failed does not have it erase the new.
func TestAReportedShareStays(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		victim := c.Follower()
		victim.Reached(func(_ context.Context, point string) error {
			if point == "looking for proofs" {
				return context.Canceled // it has not come to look yet
			}
			return nil
		})
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		for _, m := range others(c, victim) {
			c.Eventually("the others erased the old share", func() bool { return m.Config.Memory.Content("shares/1-1") == nil })
		}
		c.Eventually("the victim has both", func() bool {
			r, ok := victim.View().Sharing(2, 1)
			return ok && r.Status == fsm.SharingProven
		})
		// what a lying leader tells the victim alone: the reshare failed
		row, _ := victim.View().Sharing(2, 1)
		old, _ := victim.View().Sharing(1, 1)
		cluster, _ := victim.View().Cluster()
		row.Status, old.Status, cluster.Proven = fsm.SharingDropped, fsm.SharingProven, old.Ref()
		victim.Reached(func(context.Context, string) error { return nil })
		victim.SharesLookedAt()
		if victim.Config.Memory.Content("shares/2-1") == nil {
			t.Error("the victim erased its share of the sharing that it had acknowledged and reported")
		}
	})
}
