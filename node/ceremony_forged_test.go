package node_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// forgery is a cluster with an honest holder and a member that asks for a share
// and writes, as a leader could, into the holder's replicated state whatever it
// likes: what the holder reads there is changed in place.
type forgery struct {
	*nodetest.Cluster
	t       *testing.T
	holder  *nodetest.Member
	thief   *nodetest.Member
	other   *nodetest.Member
	id      fsm.CeremonyID  // a provision of the thief's device, two approvals needed
	row     *fsm.Ceremony   // as the holder's state has it
	cluster *fsm.Cluster    // as the holder's state has it
	fast    [3]atomic.Int64 // nanoseconds that each member's clock is ahead
}

func startForgery(t *testing.T) *forgery {
	f := &forgery{t: t}
	f.Cluster = nodetest.StartWith(t, 3, nodetest.Options{Operators: 3, Approvals: 2, Now: func(member int) time.Time {
		return time.Now().Add(time.Duration(f.fast[member].Load()))
	}})
	f.thief = blankDevice(f.Cluster, f.Follower())
	for _, m := range f.Members {
		if m != f.thief {
			f.holder, f.other = m, f.holder
		}
	}
	f.id = openProvision(t, f.thief, node.CeremonyOptions{Expires: 2 * time.Minute})
	f.sync()
	return f
}

func (f *forgery) sync() {
	f.t.Helper()
	f.Eventually("the others have caught up", func() bool {
		at := f.thief.View().Index()
		return f.holder.View().Index() >= at && f.other.View().Index() >= at
	})
	var ok bool
	if f.row, ok = f.holder.View().Ceremony(f.id); !ok {
		f.t.Fatal("the holder does not know the ceremony")
	}
	f.cluster, _ = f.holder.View().Cluster()
}

// done has the ceremony approved and ended, and everybody know it: what is forged
// before would be written over.
func (f *forgery) done() {
	f.t.Helper()
	f.Approve(f.id, 2)
	f.Done(f.id)
	f.Eventually("everybody knows that it has ended", func() bool {
		return !slices.ContainsFunc(f.Members, func(m *nodetest.Member) bool { return !closed(m, f.id) })
	})
	f.sync()
}

func (f *forgery) approval(o *nodetest.Operator, open []byte) fsm.Approval {
	f.t.Helper()
	signature, err := fsm.SignMessage(o.Key, fsm.DomainApproval, open)
	if err != nil {
		f.t.Fatal(err)
	}
	return fsm.Approval{Operator: o.Public().Fingerprint(), Signature: signature}
}

// forgeOpen changes the Open in the holder's state and signs it anew as opener.
func (f *forgery) forgeOpen(change func(o *fsm.Open)) {
	f.t.Helper()
	o, err := fsm.ParseOpen(f.row.Open)
	if err != nil {
		f.t.Fatal(err)
	}
	change(o)
	forged, err := fsm.SignOpen(f.thief.Signer(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.row.Open, f.row.Signature, f.row.Hash = forged.Open, forged.Signature, fsm.OpenHash(forged.Open)
	f.row.Expires = o.Expires
}

// A leader that fabricates what it needs gets no share from an honest holder.
func TestFabricatedApprovals(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	stranger := nodetest.NewOperator("stranger")
	for name, forge := range map[string]func(f *forgery){
		"no approvals": func(f *forgery) {},
		"one of two":   func(f *forgery) { f.row.Approvals = []fsm.Approval{f.approval(f.Operators[0], f.row.Open)} },
		"the same twice": func(f *forgery) {
			a := f.approval(f.Operators[0], f.row.Open)
			f.row.Approvals = []fsm.Approval{a, a}
		},
		"an invented signature": func(f *forgery) {
			f.row.Approvals = []fsm.Approval{
				f.approval(f.Operators[0], f.row.Open), {Operator: f.Operators[1].Public().Fingerprint(), Signature: make([]byte, 64)},
			}
		},
		"an invented operator": func(f *forgery) {
			f.cluster.Operators.Operators = append(f.cluster.Operators.Operators, stranger.Public())
			f.row.Approvals = []fsm.Approval{f.approval(f.Operators[0], f.row.Open), f.approval(stranger, f.row.Open)}
		},
		"operators of its own": func(f *forgery) {
			f.cluster.Operators.Operators = []fsm.Operator{stranger.Public()}
			f.cluster.Operators.Approvals = 1
			f.forgeOpen(func(o *fsm.Open) { o.Govern = f.cluster.Operators.Ref() })
			f.row.Approvals = []fsm.Approval{f.approval(stranger, f.row.Open)}
		},
		"a policy of one approval": func(f *forgery) {
			f.cluster.Operators.Approvals = 1
			f.forgeOpen(func(o *fsm.Open) { o.Govern = f.cluster.Operators.Ref() })
			f.row.Approvals = []fsm.Approval{f.approval(f.Operators[0], f.row.Open)}
		},
		"a denial for an approval": func(f *forgery) {
			a := f.approval(f.Operators[1], f.row.Open)
			a.Signature, _ = fsm.SignMessage(f.Operators[1].Key, fsm.DomainDeny, f.row.Open)
			f.row.Approvals = []fsm.Approval{f.approval(f.Operators[0], f.row.Open), a}
		},
		"approvals of another Open": func(f *forgery) {
			before := f.row.Open
			f.forgeOpen(func(o *fsm.Open) { o.Reason = "something else" })
			f.row.Approvals = []fsm.Approval{f.approval(f.Operators[0], before), f.approval(f.Operators[1], before)}
		},
		"a cite of an unapproved provision": func(f *forgery) {
			f.forgeOpen(func(o *fsm.Open) {
				proven, _ := f.holder.View().Proven()
				plan := proven.Plan
				plan.Epoch, plan.Dealers, plan.Previous, plan.KCV = 2, plan.Holders[:2], proven.Hash, proven.KCV
				o.Kind, o.Plan, o.Cites = fsm.CeremonyReshare, &plan, &fsm.Cite{Ceremony: f.id, Hash: f.row.Hash}
			})
			f.row.Cited = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				f := startForgery(t)
				forge(f)
				f.row.Approved = f.row.Opened // what the log claims
				f.nothingLeaves(f.thief)
			})
		})
	}
}

// everywhere writes the forged rows into every member's state, so that no other
// one refuses in the holder's place.
func (f *forgery) everywhere() {
	for _, m := range f.Members {
		row, _ := m.View().Ceremony(f.id)
		*row = *f.row
		cluster, _ := m.View().Cluster()
		cluster.Operators = f.cluster.Operators
	}
}

// nothingLeaves wants a request refused, and nothing on the holder's own record.
func (f *forgery) nothingLeaves(asks *nodetest.Member) {
	f.t.Helper()
	f.everywhere()
	before, _ := f.holder.Releases()
	for _, method := range []string{"share.deal", "share.release"} {
		sealed, err := asks.Ask(f.t.Context(), f.holder.ID(), method, f.id)
		if err == nil || len(sealed) > 0 {
			f.t.Errorf("%s: %d bytes left an honest holder", method, len(sealed))
		}
		f.t.Log(err)
	}
	if after, _ := f.holder.Releases(); len(after) != len(before) {
		f.t.Errorf("the holder has %d releases on record, and had %d", len(after), len(before))
	}
}

// What operators did approve goes to the approved recipient and key, until it
// expires or is closed, and nowhere else.
func TestApprovedForAnother(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	for name, forge := range map[string]func(f *forgery) *nodetest.Member{
		"another member asks": func(f *forgery) *nodetest.Member { return f.other },
		"another recipient": func(f *forgery) *nodetest.Member {
			f.forgeOpen(func(o *fsm.Open) {
				entry, err := f.other.RecipientEntry(o)
				if err != nil {
					f.t.Fatal(err)
				}
				o.Recipients = []fsm.Signed{entry}
			})
			return f.other
		},
		"another key of the same recipient": func(f *forgery) *nodetest.Member {
			f.forgeOpen(func(o *fsm.Open) {
				entry, err := f.thief.RecipientEntry(o)
				if err != nil {
					f.t.Fatal(err)
				}
				o.Recipients = []fsm.Signed{entry}
			})
			return f.thief
		},
		"a later expiry": func(f *forgery) *nodetest.Member {
			f.forgeOpen(func(o *fsm.Open) { o.Expires += 1000 })
			return f.thief
		},
		"not signed by its opener": func(f *forgery) *nodetest.Member {
			f.row.Signature = slices.Clone(f.row.Signature)
			f.row.Signature[0] ^= 1
			return f.thief
		},
		"another sharing": func(f *forgery) *nodetest.Member {
			f.forgeOpen(func(o *fsm.Open) { o.Source.Hash[0] ^= 1 })
			return f.thief
		},
		"after its expiry": func(f *forgery) *nodetest.Member {
			time.Sleep(3 * time.Minute)
			f.row.Expires += time.Hour.Milliseconds()
			return f.thief
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				f := startForgery(t)
				f.done()
				f.row.Outcome = fsm.OutcomeOpen // the log forgets that it was closed
				f.nothingLeaves(forge(f))
			})
		})
	}
}

// The same request again is the same release, recorded once.
func TestReplayedRequest(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		target := blankDevice(c, c.Members[2])
		s := holdAt(target, "gathered")
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
		c.Approve(id, 1)
		c.Eventually("the shares are in", s.reached.Load)
		var row *fsm.Ceremony
		c.Eventually("the release has arrived", func() bool {
			row, _ = target.View().Ceremony(id)
			return len(row.Releases) > 0
		})
		holder := row.Releases[0].Holder
		for range 3 {
			if _, err := target.Ask(t.Context(), holder, "share.release", id); err != nil {
				t.Errorf("asked again: %v", err)
			}
		}
		if row, _ := target.View().Ceremony(id); len(row.Releases) != 1 {
			t.Errorf("%d releases are recorded, want 1", len(row.Releases))
		}
		for _, m := range c.Members {
			notes, err := m.Releases()
			if own := m.ID() == holder; err != nil || own && notes[len(notes)-1].Ceremony != id {
				t.Errorf("%s: the release is not on record: %v", m.Name, err)
			}
		}
		target.Restart()
	})
}

// A holder whose clock is ahead takes no part after the expiry by its own clock,
// whatever the log's time is.
func TestClocksAnHourApart(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true, Now: func(member int) time.Time {
			if member == 2 {
				return time.Now().Add(time.Hour)
			}
			return time.Now()
		}})
		if !c.Members[0].Leads() {
			t.Fatal("the first member does not lead, so the log's time is not what this test wants")
		}
		opened, err := c.Members[1].OpenCreate(t.Context(), node.CeremonyOptions{Expires: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		time.Sleep(70 * time.Second)
		if row := ended(c, opened.ID); row.Outcome != fsm.OutcomeExpired {
			t.Errorf("it ended as %s", row.Outcome)
		}
		if notes, _ := c.Members[2].Releases(); len(notes) != 0 {
			t.Errorf("a node gave away %d shares after the expiry by its own clock", len(notes))
		}
		opened, err = c.Members[1].OpenCreate(t.Context(), node.CeremonyOptions{Expires: 2 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		c.Done(opened.ID)
	})
}
