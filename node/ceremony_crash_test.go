package node_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// stop is an instant at which a node is held until it is killed.
type stop struct {
	point   string
	reached atomic.Bool
}

// holdAt has a member hold at an instant, the first time that it gets there.
func holdAt(m *nodetest.Member, point string) *stop {
	return holdWhen(m, point, func() bool { return true })
}

// holdWhen is holdAt once a condition holds.
func holdWhen(m *nodetest.Member, point string, when func() bool) *stop {
	s := &stop{point: point}
	m.Reached(func(ctx context.Context, at string) error {
		if s.reached.Load() || at == point && when() {
			s.reached.Store(true) // and nothing else goes on here
			<-ctx.Done()
			return errors.New("killed")
		}
		return nil
	})
	return s
}

// kill waits until the member is at the instant, ends it there and starts it
// again.
func (s *stop) kill(c *nodetest.Cluster, m *nodetest.Member) {
	c.T.Helper()
	c.Eventually(m.Name+" gets to: "+s.point, s.reached.Load)
	m.Restart()
}

// pause holds a member at an instant, once, until something else has happened.
type pause struct {
	point         string
	there, passed chan struct{}
}

func pauseAt(m *nodetest.Member, point string) *pause {
	p := &pause{point, make(chan struct{}), make(chan struct{})}
	var once sync.Once
	m.Reached(func(ctx context.Context, at string) error {
		if at == point {
			once.Do(func() { close(p.there) })
			select {
			case <-p.passed:
			case <-ctx.Done():
			}
		}
		return nil
	})
	return p
}

// pass waits until the member is there, does something, and lets it go on.
func (p *pause) pass(c *nodetest.Cluster, do func()) {
	c.T.Helper()
	select {
	case <-p.there:
	case <-time.After(time.Minute):
		c.T.Fatalf("nobody gets to: %s", p.point)
	}
	do()
	close(p.passed)
}

// ended waits for a ceremony's end and returns its row.
func ended(c *nodetest.Cluster, id fsm.CeremonyID) *fsm.Ceremony {
	c.T.Helper()
	var row *fsm.Ceremony
	defer func() {
		if row != nil {
			return
		}
		for _, m := range c.Members { // where it is stuck
			if info, err := m.Ceremony(context.Background(), id); err == nil {
				c.T.Logf("%s, leading %v: %s: %s %s: %+v", m.Name, m.Leads(), info.Kind, info.Doing, info.Trouble, info.Steps)
			}
		}
	}()
	c.Eventually("the ceremony ends", func() bool {
		for _, m := range c.Members {
			if m.Node != nil {
				if r, ok := m.View().Ceremony(id); ok && r.Outcome != fsm.OutcomeOpen {
					row = r
				}
			}
		}
		return row != nil
	})
	return row
}

func openCreate(t *testing.T, c *nodetest.Cluster, m *nodetest.Member) fsm.CeremonyID {
	t.Helper()
	opened, err := m.OpenCreate(t.Context(), node.CeremonyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return opened.ID
}

// Rows 3 to 12: a node of a create dies at any instant, the leader too. The
// ceremony ends as lost, or well where the node's part was done, and another one
// makes the DKEK.
func TestCrashInCreate(t *testing.T) {
	for _, c := range []struct {
		point string
		want  fsm.Outcome
	}{
		{"dealt", fsm.OutcomeLost},
		{"dealing recorded", fsm.OutcomeLost},
		{"release committed", fsm.OutcomeLost},
		{"release recorded", fsm.OutcomeLost},
		{"some sub-shares", fsm.OutcomeLost},
		{"bundle written", fsm.OutcomeLost},
		{"acknowledged", fsm.OutcomeLost},
		{"gathered", fsm.OutcomeLost},
		{"device initialised", fsm.OutcomeLost},
		{"device ready", fsm.OutcomeLost},
		{"proof committed", fsm.OutcomeSuccess},
	} {
		t.Run("leader/"+c.point, func(t *testing.T) {
			in(t, func(t *testing.T) { crashInCreate(t, c.point, c.want, true) })
		})
		t.Run("follower/"+c.point, func(t *testing.T) {
			in(t, func(t *testing.T) { crashInCreate(t, c.point, c.want, false) })
		})
	}
}

func crashInCreate(t *testing.T, point string, want fsm.Outcome, leads bool) {
	c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
	victim, opener := c.Leader(), c.Follower()
	if !leads {
		victim, opener = opener, victim
	}
	s := holdAt(victim, point)
	id := openCreate(t, c, opener)
	c.Approve(id, 1)
	s.kill(c, victim)
	if row := ended(c, id); row.Outcome != want {
		t.Fatalf("it ended as %s (%s), want %s", row.Outcome, row.Detail, want)
	}
	if want == fsm.OutcomeLost {
		c.CreateDKEK()
	}
	row, _ := c.Leader().View().Proven()
	provenEverywhere(t, c, row.Plan.Epoch)
	onlyShares(c, row)
}

// onlyShares wants every holder to have a share of the sharing in force and no
// other.
func onlyShares(c *nodetest.Cluster, row *fsm.SharingRow) {
	c.T.Helper()
	want := shareFile(row)
	c.Eventually("nobody has another share than "+want, func() bool {
		for _, m := range c.Members {
			if m.Node == nil {
				continue
			}
			files := m.Config.Memory.Files("shares/")
			if held := row.Plan.HolderIndex(m.ID()) >= 0; !held && len(files) > 0 || held && (len(files) != 1 || files[0] != want) {
				return false
			}
		}
		return true
	})
}

func shareFile(row *fsm.SharingRow) string { return node.ShareFile(row.Plan.Epoch, row.Plan.Attempt) }

// Row 1: a recipient dies between its entry and the Open.
func TestCrashAfterPrepare(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		opener := c.Leader()
		victim := c.Follower()
		opener.Reached(func(_ context.Context, point string) error {
			if point == "prepared" {
				victim.Restart()
			}
			return nil
		})
		id := openCreate(t, c, opener)
		if row := ended(c, id); row.Outcome != fsm.OutcomeLost || len(row.Approvals) > 0 {
			t.Errorf("it ended as %s with %d approvals: want lost before anybody approves", row.Outcome, len(row.Approvals))
		}
	})
}

// Row 2: nobody needs the opener once the Open is committed.
func TestCrashOfTheOpener(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		target, opener := blankDevice(c, c.Follower()), c.Leader()
		opened := openProvision(t, opener, node.CeremonyOptions{Node: target.ID()})
		opener.Restart()
		c.Approve(opened, 1)
		c.Done(opened)
	})
}

// blankDevice replaces a member's device by a blank one.
func blankDevice(c *nodetest.Cluster, m *nodetest.Member) *nodetest.Member {
	m.Crash()
	m.NewDevice()
	m.Start()
	c.Eventually(m.Name+" is back", func() bool { return m.View().Index() >= c.Leader().View().Index() })
	return m
}

func openProvision(t *testing.T, m *nodetest.Member, options node.CeremonyOptions) fsm.CeremonyID {
	t.Helper()
	opened, err := m.OpenProvision(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return opened.ID
}

// Rows 5, 6, 10, 11 and 12 at a provision. A holder that dies repeats the same
// release; a recipient that dies has lost its key, unless its device has the
// DKEK already.
func TestCrashInProvision(t *testing.T) {
	for point, want := range map[string]fsm.Outcome{
		"release committed":  fsm.OutcomeSuccess,
		"release recorded":   fsm.OutcomeSuccess,
		"gathered":           fsm.OutcomeLost,
		"device initialised": fsm.OutcomeLost,
		"device ready":       fsm.OutcomeSuccess,
		"proof committed":    fsm.OutcomeSuccess,
	} {
		t.Run(point, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				target := blankDevice(c, c.Members[2])
				stops := map[*nodetest.Member]*stop{}
				if point == "release committed" || point == "release recorded" {
					for _, m := range c.Members[:2] {
						stops[m] = holdAt(m, point)
					}
				} else {
					stops[target] = holdAt(target, point)
				}
				id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
				c.Approve(id, 1)
				var victim *nodetest.Member
				c.Eventually("somebody gets to: "+point, func() bool {
					for m, s := range stops {
						if s.reached.Load() {
							victim = m
						}
					}
					return victim != nil
				})
				victim.Restart()
				row := ended(c, id)
				if row.Outcome != want {
					t.Fatalf("it ended as %s (%s), want %s", row.Outcome, row.Detail, want)
				}
				seen := map[dkek.NodeID]bool{}
				for _, release := range row.Releases {
					if seen[release.Holder] {
						t.Errorf("%v released twice", release.Holder)
					}
					seen[release.Holder] = true
				}
				for _, m := range c.Members[:2] {
					notes, err := m.Releases()
					count := 0
					for _, note := range notes {
						if note.Ceremony == id {
							count++
						}
					}
					if err != nil || count > 1 {
						t.Errorf("%s has %d releases on its own record: %v", m.Name, count, err)
					}
				}
				if want == fsm.OutcomeLost {
					id = openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
					c.Approve(id, 1)
					c.Done(id)
				}
				proven, _ := c.Leader().View().Proven()
				if kcv := deviceKCV(t, target); kcv != proven.KCV {
					t.Errorf("KCV %v, want %v", kcv, proven.KCV)
				}
			})
		})
	}
}
