package node_test

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// offline opens a member that does not run.
func offline(t *testing.T, c *nodetest.Cluster, m *nodetest.Member) *node.Stopped {
	t.Helper()
	c.Network.Resume(m.Host)
	s, err := node.OpenStopped(t.Context(), m.Config)
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	return s
}

// signedBy are operators' signatures over a plan.
func signedBy(t *testing.T, plan *node.RecoveryPlan, operators ...*nodetest.Operator) []fsm.Approval {
	t.Helper()
	var approvals []fsm.Approval
	for _, o := range operators {
		signature, err := fsm.SignMessage(o.Key, fsm.DomainRecover, plan.Statement)
		if err != nil {
			t.Fatal(err)
		}
		approvals = append(approvals, fsm.Approval{Operator: o.Public().Fingerprint(), Signature: signature})
	}
	return approvals
}

// recoverAt goes on at a member without lost ones, with all operators' signatures,
// and starts it.
func recoverAt(t *testing.T, c *nodetest.Cluster, m *nodetest.Member, lost ...string) *node.RecoveryPlan {
	t.Helper()
	s := offline(t, c, m)
	plan, err := s.PlanRecovery(t.Context(), node.RecoverOptions{Lost: lost, Reason: "burnt"})
	if err == nil {
		err = s.Recover(t.Context(), plan, signedBy(t, plan, c.Operators...))
	}
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	m.Start()
	return plan
}

// works has a key sign at a member, and the signature verified there.
func works(t *testing.T, m *nodetest.Member, name string) {
	t.Helper()
	key, err := m.Key(t.Context(), name)
	if err != nil {
		t.Fatalf("%s: %s: %v", m.Name, name, err)
	}
	digest := sha256.Sum256([]byte(name))
	signature, err := key.SignContext(t.Context(), digest[:], crypto.SHA256)
	if err == nil {
		err = key.Verify(t.Context(), digest[:], signature, crypto.SHA256)
	}
	if err != nil {
		t.Fatalf("%s: %s: %v", m.Name, name, err)
	}
}

// runs fails where a member has stopped by itself.
func runs(t *testing.T, members ...*nodetest.Member) {
	t.Helper()
	for _, m := range members {
		if err := m.Err(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}

// heldBy waits until the devices of so many members have the keys.
func heldBy(t *testing.T, c *nodetest.Cluster, at *nodetest.Member, count int, names ...string) {
	t.Helper()
	for _, name := range names {
		c.Eventually(fmt.Sprintf("%d devices have %s", count, name), func() bool {
			key, ok := at.View().Key(name)
			return ok && len(at.View().Coverage(key.ID, 1)) >= count
		})
	}
}

// Two of three are destroyed. The last one goes on: what it has, works, and status
// says that a dead device can never be replaced any more. Nothing happens before
// everything is right.
func TestRecoverAtTheLastNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 2, Approvals: 2})
		makeKeys(t, c.Leader(), "k", 3)
		last, gone := c.Members[2], c.Members[:2]
		heldBy(t, c, last, 3, "k-0", "k-1", "k-2")
		last.Crash()
		refused := func(why string, lost ...string) {
			t.Helper()
			s := offline(t, c, last)
			defer s.Close()
			if _, err := s.PlanRecovery(t.Context(), node.RecoverOptions{Lost: lost}); err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("lost %v: %v", lost, err)
			}
		}
		refused("node-0 answers at 10.0.0.1:7400: it is not lost", "node-0", "node-1")
		gone[1].Crash()
		refused("2 of 3 voters are left, which is a majority", "node-1")
		gone[0].Crash()
		refused("node-1 does not answer at 10.0.0.2:7400: start it", "node-0")
		refused("no member is called", "node-0", "node-7")
		refused("is this node", "node-2")

		s := offline(t, c, last)
		plan, err := s.PlanRecovery(t.Context(), node.RecoverOptions{Lost: []string{"node-0", "node-1"}, Reason: "burnt"})
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "node-0 is lost") || !strings.Contains(notes, "1 of the holders") || !strings.Contains(notes, "2 are needed") {
			t.Errorf("the plan says\n%s", notes)
		}
		stranger := nodetest.NewOperator("stranger")
		good := signedBy(t, plan, c.Operators...)
		forged := *plan
		forged.Statement = append(slices.Clone(plan.Statement[:len(plan.Statement)-1]), plan.Statement[len(plan.Statement)-1]^1)
		for what, try := range map[string]func() error{
			"one signature of two":   func() error { return s.Recover(t.Context(), plan, good[:1]) },
			"the same one twice":     func() error { return s.Recover(t.Context(), plan, []fsm.Approval{good[0], good[0]}) },
			"a stranger's signature": func() error { return s.Recover(t.Context(), plan, append(good[:1:1], signedBy(t, plan, stranger)...)) },
			"another time":           func() error { return s.Recover(t.Context(), &forged, good) },
		} {
			if err := try(); err == nil {
				t.Errorf("%s: recovered", what)
			}
		}
		if err := s.Recover(t.Context(), plan, good); err != nil {
			t.Fatal(err)
		}
		if err := s.Recover(t.Context(), plan, good); err != nil {
			t.Errorf("a second time: %v", err)
		}
		s.Close()
		last.Start()
		for i := range 3 {
			works(t, c.Leader(), fmt.Sprintf("k-%d", i))
		}
		makeKeys(t, last, "after", 1)
		works(t, last, "after-0")
		view := last.View()
		row, _ := view.Cluster()
		if row.Incarnation != 2 || view.Count(fsm.TableMembers) != 1 {
			t.Errorf("incarnation %d, %d members", row.Incarnation, view.Count(fsm.TableMembers))
		}
		status := read[api.Status](t, browse(t, c, c.Operators[0].Key).get(last, "/v1/status"))
		if warnings := strings.Join(status.Warnings, "\n"); !strings.Contains(warnings, "the DKEK cannot be put together any more: 1 holders of epoch 1 are members (node-2), and 2 are needed") ||
			strings.Contains(warnings, "reshare is due") || status.Restore.Possible {
			t.Errorf("status warns\n%s", warnings)
		}
		runs(t, last)
		last.Restart()
		works(t, c.Leader(), "after-0")
	})
}

// Three of five are lost. A survivor that is behind is refused, the furthest one
// goes on with the other, and the two are a cluster again.
func TestRecoverAtTheFurthestSurvivor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 5)
		leader := c.Leader()
		behind := c.Follower()
		others := slices.DeleteFunc(slices.Clone(c.Members), func(m *nodetest.Member) bool { return m == behind })
		for _, m := range others {
			c.Network.Partition(behind.Host, m.Host)
		}
		makeKeys(t, leader, "k", 3)
		furthest := others[0]
		if furthest == leader {
			furthest = others[1]
		}
		c.Eventually("the other survivor has everything", func() bool { return furthest.LastLogIndex() == leader.LastLogIndex() })
		heldBy(t, c, leader, 4, "k-0", "k-1", "k-2")
		var lost []string
		for _, m := range others {
			m.Crash()
			if m != furthest {
				lost = append(lost, m.Name)
			}
		}
		c.Network.HealAll()
		furthest.Start()
		behind.Crash()
		s := offline(t, c, behind)
		_, err := s.PlanRecovery(t.Context(), node.RecoverOptions{Lost: lost})
		if err == nil || !strings.Contains(err.Error(), furthest.Name+" has come further") {
			t.Errorf("at the one behind: %v", err)
		}
		s.Close()
		behind.Start()
		furthest.Crash()
		recoverAt(t, c, furthest, lost...)
		both := []*nodetest.Member{furthest, behind}
		c.Eventually("both are in it", func() bool {
			for _, m := range both {
				row, ok := m.View().Cluster()
				if !ok || row.Incarnation != 2 || m.View().Count(fsm.TableMembers) != 2 {
					return false
				}
			}
			return true
		})
		for _, m := range both {
			for i := range 3 {
				works(t, m, fmt.Sprintf("k-%d", i))
			}
		}
		makeKeys(t, c.Leader(), "after", 2)
		heldBy(t, c, furthest, 2, "after-0", "after-1")
		time.Sleep(time.Minute)
		runs(t, both...)
		for _, m := range both {
			m.Restart()
		}
		works(t, c.Leader(), "after-1")
	})
}

// Members that come back after a recovery without them are told, and do not go on
// as the cluster that was.
func TestLostMembersThatComeBackAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		makeKeys(t, c.Leader(), "k", 1)
		heldBy(t, c, c.Members[0], 3, "k-0")
		for _, m := range c.Members {
			m.Crash()
		}
		recoverAt(t, c, c.Members[0], "node-1", "node-2")
		works(t, c.Leader(), "k-0")
		for _, m := range c.Members[1:] {
			c.Network.Resume(m.Host)
			opened, err := node.Open(t.Context(), m.Config)
			if !errors.Is(err, node.ErrRemoved) || !strings.Contains(err.Error(), "10.0.0.1:7400 says so") {
				if err == nil {
					opened.Close(t.Context())
				}
				t.Errorf("%s: %v", m.Name, err)
			}
		}
		runs(t, c.Members[0])
	})
}

// A crash between the last steps leaves the former log or the new one, and the
// same command again ends it.
func TestRecoverIsFinishedAfterACrash(t *testing.T) {
	dir := t.TempDir()
	c := nodetest.StartWith(t, 3, nodetest.Options{Dir: dir})
	makeKeys(t, c.Leader(), "k", 1)
	heldBy(t, c, c.Members[0], 3, "k-0")
	for _, m := range c.Members {
		m.Crash()
	}
	m := c.Members[0]
	folder := m.Config.Dir + "/raft"
	s := offline(t, c, m)
	plan, err := s.PlanRecovery(t.Context(), node.RecoverOptions{Lost: []string{"node-1", "node-2"}})
	if err != nil {
		t.Fatal(err)
	}
	approvals := signedBy(t, plan, c.Operators...)
	s.Close()
	again := func() {
		t.Helper()
		s := offline(t, c, m)
		if err := errors.Join(s.Recover(t.Context(), plan, approvals), s.Close()); err != nil {
			t.Fatal(err)
		}
		for _, left := range []string{folder + ".new", folder + ".next"} {
			if _, err := os.Stat(left); err == nil {
				t.Errorf("%s is left", left)
			}
		}
	}
	// While it was built, and when it had its name but not its place.
	if err := errors.Join(os.MkdirAll(folder+".new/snapshots", 0o700), os.MkdirAll(folder+".next/snapshots", 0o700)); err != nil {
		t.Fatal(err)
	}
	again()
	// Between the two renames that give it its place.
	if err := os.Rename(folder, folder+".next"); err != nil {
		t.Fatal(err)
	}
	m.Start()
	works(t, c.Leader(), "k-0")
	m.Close()
	if err := os.Rename(folder, folder+".next"); err != nil {
		t.Fatal(err)
	}
	again()
	m.Start()
	works(t, c.Leader(), "k-0")
}

// Where t holders are among the survivors, devices can be filled again: here three
// of five voters are holders, and two of those are left.
func TestRecoverWithEnoughHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		c.Add()
		c.Add()
		makeKeys(t, c.Leader(), "k", 2)
		heldBy(t, c, c.Leader(), 3, "k-0", "k-1")
		time.Sleep(5 * time.Second)
		for _, m := range c.Members {
			m.Crash()
		}
		c.Members[1].Start()
		plan := recoverAt(t, c, c.Members[0], "node-2", "node-3", "node-4")
		if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "2 holders of epoch 1 are left") {
			t.Errorf("the plan says\n%s", notes)
		}
		c.Leader()
		replaced := c.Members[1]
		c.Eventually("it has followed", func() bool { return replaced.View().Count(fsm.TableMembers) == 2 })
		replaced.Crash()
		replaced.NewDevice()
		replaced.Start()
		c.Eventually("the blank device is known", func() bool {
			m, ok := c.Leader().View().Member(replaced.ID())
			return ok && m.Device != nil && m.Device.KCV == [8]byte{}
		})
		opened, err := c.Leader().OpenProvision(t.Context(), node.CeremonyOptions{Node: replaced.ID()})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		c.Done(opened.ID)
		for i := range 2 {
			works(t, replaced, fmt.Sprintf("k-%d", i))
		}
	})
}

// A cluster that still has open ceremonies goes on without them.
func TestRecoverVoidsWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		if _, err := c.Leader().CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err != nil {
			t.Fatal(err)
		}
		heldBy(t, c, c.Members[0], 3, "k")
		opened, err := c.Leader().OpenReshare(t.Context(), node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Eventually("all know of it", func() bool {
			_, ok := c.Members[0].View().Ceremony(opened.ID)
			return ok
		})
		for _, m := range c.Members {
			m.Crash()
		}
		recoverAt(t, c, c.Members[0], "node-1", "node-2")
		c.Leader()
		if row, ok := c.Members[0].View().Ceremony(opened.ID); !ok || row.Outcome != fsm.OutcomeVoid {
			t.Errorf("the ceremony is %+v", row)
		}
		works(t, c.Members[0], "k")
	})
}

// Where the log's file is missing or empty a node says that its log is gone, and what
// to do, and none is made.
func TestRecoverSaysThatTheLogIsGone(t *testing.T) {
	c := nodetest.StartWith(t, 1, nodetest.Options{Dir: t.TempDir(), Blank: true})
	m := c.Members[0]
	m.Close()
	log := filepath.Join(m.Config.Dir, "raft", "log.db")
	for what, spoil := range map[string]func() error{
		"empty":   func() error { return os.Truncate(log, 0) },
		"missing": func() error { return os.RemoveAll(log) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		s := offline(t, c, m)
		_, err := s.PlanRecovery(t.Context(), node.RecoverOptions{})
		if err == nil || !strings.Contains(err.Error(), "this node's log is gone") {
			t.Errorf("%s: %v", what, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(log); err == nil && info.Size() > 0 {
			t.Errorf("%s: it has %d bytes again", what, info.Size())
		}
	}
}
