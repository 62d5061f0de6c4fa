package node_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Each check that a holder makes of a ceremony that operators did approve, alone:
// every other one is content, and the words say which one refused.
func TestHolderChecksWhatWasApproved(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	for name, test := range map[string]struct {
		says  string // "": the share leaves
		forge func(f *forgery) *nodetest.Member
	}{
		"nothing is wrong": {"", func(f *forgery) *nodetest.Member { return f.thief }},
		"closed": {"is closed: success", func(f *forgery) *nodetest.Member {
			f.row.Outcome = fsm.OutcomeSuccess
			return f.thief
		}},
		"denied": {"is closed: denied", func(f *forgery) *nodetest.Member {
			f.row.Outcome = fsm.OutcomeDenied
			return f.thief
		}},
		"expired by the holder's own clock": {"expired", func(f *forgery) *nodetest.Member {
			f.fast[slices.Index(f.Members, f.holder)].Store(int64(time.Hour))
			return f.thief
		}},
		"the opener did not sign": {"signature", func(f *forgery) *nodetest.Member {
			f.row.Signature = slices.Clone(f.row.Signature)
			f.row.Signature[0] ^= 1
			return f.thief
		}},
		"the operators have changed since": {"set 2 is pinned here", func(f *forgery) *nodetest.Member {
			f.govern()
			return f.thief
		}},
		"a recovery since": {"in incarnation 1", func(f *forgery) *nodetest.Member {
			for _, m := range f.Members {
				cluster, _ := m.View().Cluster()
				cluster.Incarnation++
			}
			return f.thief
		}},
		"another key under the recipient's ID": {"is not the one that was approved", func(f *forgery) *nodetest.Member {
			row, _ := f.holder.View().MemberByFingerprint(f.other.Fingerprint())
			row.ID = f.thief.ID()
			return f.other
		}},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				f := startForgery(t)
				held := holdAt(f.thief, "gathered")
				f.Approve(f.id, 2)
				f.Eventually("the shares are in", held.reached.Load)
				f.sync()
				asks := test.forge(f)
				f.everywhere()
				sealed, err := asks.Ask(f.t.Context(), f.holder.ID(), "share.release", f.id)
				switch {
				case test.says == "" && err != nil:
					t.Errorf("refused: %v", err)
				case test.says != "" && (err == nil || len(sealed) > 0 || !strings.Contains(err.Error(), test.says)):
					t.Errorf("%d bytes left the holder, and it said %v, want %q", len(sealed), err, test.says)
				}
			})
		})
	}
}

// govern puts another operator set in force, and the ceremony's row back to what
// it was before.
func (f *forgery) govern() {
	f.t.Helper()
	before := *f.row
	proposal := fsm.Proposal{Operators: []fsm.Operator{f.Operators[0].Public(), f.Operators[1].Public()}, Approvals: 2}
	opened, err := f.Leader().OpenGovern(f.t.Context(), proposal, node.CeremonyOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Approve(opened.ID, 2)
	f.Done(opened.ID)
	for _, m := range []*nodetest.Member{f.holder, f.other} {
		f.Eventually(m.Name+" pins the new operators", func() bool { return m.Pinned().Number == 2 })
	}
	f.sync()
	*f.row = before
}

func living(c *nodetest.Cluster) (ids []dkek.NodeID) {
	for _, m := range c.Members {
		if m.Node != nil {
			ids = append(ids, m.ID())
		}
	}
	return ids
}

// A reshare that cites a provision stands on that one's approvals once, and only
// where it is what the provision named.
func TestHolderChecksASuccessor(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		lost := c.Follower()
		lostID := lost.ID()
		lost.Crash()
		target := c.Add()
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID(), Replaces: lostID})
		c.Approve(id, 1)
		c.Done(id)
		c.Eventually("the successor is in force", func() bool {
			proven, _ := c.Leader().View().Proven()
			return proven.Plan.Epoch == 2
		})
		provision, _ := c.Leader().View().Ceremony(id)
		info, err := c.Leader().Ceremony(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		successor, _ := c.Leader().View().Ceremony(info.Successor)
		again := openReshare(t, c.Leader(), node.CeremonyOptions{Holders: living(c)}) // a row for the forged one to lie in
		holder := c.Leader()
		c.Eventually("everybody has it", func() bool {
			for _, m := range c.Members {
				if m.Node != nil {
					if _, ok := m.View().Ceremony(again); !ok {
						return false
					}
				}
			}
			return true
		})
		for says, forge := range map[string]func(o *fsm.Open){
			"it has had its successor":              func(*fsm.Open) {},
			"it names another successor, or none":   func(o *fsm.Open) { o.Plan.Threshold++ },
			"it names another successor, or none ":  func(o *fsm.Open) { o.Plan.Holders, o.Recipients = o.Plan.Holders[:2], o.Recipients[:2] },
			"it names another successor, or none  ": func(o *fsm.Open) { o.Source.Hash[0] ^= 1 },
			"until its own expiry only":             func(o *fsm.Open) { o.Expires += 1 + provision.Expires - o.Expires },
			"by other operators":                    func(o *fsm.Open) { o.Govern.Number++ },
			"it is another one":                     func(o *fsm.Open) { o.Cites.Hash[0] ^= 1 },
		} {
			o, err := fsm.ParseOpen(successor.Open)
			if err != nil {
				t.Fatal(err)
			}
			o.Ceremony, o.Opener = again, dkek.Holder{Node: target.ID(), Fingerprint: target.Fingerprint()}
			forge(o)
			forged, err := fsm.SignOpen(target.Signer(), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Members {
				if m.Node != nil {
					row, _ := m.View().Ceremony(again)
					row.Open, row.Signature, row.Hash, row.Expires = forged.Open, forged.Signature, fsm.OpenHash(forged.Open), o.Expires
					row.Cited, row.Approved = true, row.Opened
				}
			}
			sealed, err := target.Ask(t.Context(), holder.ID(), "share.deal", again)
			if err == nil || len(sealed) > 0 || !strings.Contains(err.Error(), strings.TrimSpace(says)) {
				t.Errorf("%d bytes left the holder, and it said %v, want %q", len(sealed), err, says)
			}
		}
	})
}
