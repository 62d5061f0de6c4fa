package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// backedUp is a backup file of a cluster, as an operator fetches it.
func backedUp(t *testing.T, c *nodetest.Cluster) []byte {
	t.Helper()
	taken := browse(t, c, c.Operators[0].Key).get(c.Leader(), "/v1/cluster/backup")
	if taken.status != 200 {
		t.Fatalf("%d: %.300s", taken.status, taken.body)
	}
	return taken.body
}

func readBackup(t *testing.T, file []byte) *fsm.Backup {
	t.Helper()
	b, err := fsm.ReadBackup(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loseLogs ends all members and takes their logs: what is left are identities,
// pins, shares and devices.
func loseLogs(c *nodetest.Cluster) {
	for _, m := range c.Members {
		if m.Node != nil {
			m.Crash()
		}
	}
	for _, m := range c.Members {
		m.Config.Memory.LoseLog()
	}
}

func planRestore(t *testing.T, c *nodetest.Cluster, at *nodetest.Member, file []byte, options node.RestoreOptions) (*node.RecoveryPlan, error) {
	t.Helper()
	s := offline(t, c, at)
	defer s.Close()
	return s.PlanRestore(t.Context(), readBackup(t, file), options)
}

func carryOut(t *testing.T, c *nodetest.Cluster, at *nodetest.Member, file []byte, plan *node.RecoveryPlan, approvals []fsm.Approval) error {
	t.Helper()
	s := offline(t, c, at)
	return errors.Join(s.Restore(t.Context(), plan, approvals, readBackup(t, file)), s.Close())
}

// knownTo is the highest log entry that any of the members knows of.
func knownTo(t *testing.T, c *nodetest.Cluster, members []*nodetest.Member) (known uint64) {
	t.Helper()
	for _, m := range members {
		s := offline(t, c, m)
		index, err := s.KnownForTest()
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		known = max(known, index)
	}
	return known
}

// restoreAll plans at the first of the members, has all operators sign, carries it
// out at each of them and starts them.
func restoreAll(t *testing.T, c *nodetest.Cluster, members []*nodetest.Member, file []byte, options node.RestoreOptions) *node.RecoveryPlan {
	t.Helper()
	options.Known = knownTo(t, c, members)
	plan, err := planRestore(t, c, members[0], file, options)
	if err != nil {
		t.Fatal(err)
	}
	approvals := signedBy(t, plan, c.Operators...)
	for _, m := range members {
		if err := carryOut(t, c, m, file, plan, approvals); err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
	}
	for _, m := range members {
		m.Start()
	}
	return plan
}

// replaced has a member's device die, and a blank one filled by t shares.
func replaced(t *testing.T, c *nodetest.Cluster, m *nodetest.Member, keys ...string) {
	t.Helper()
	blankDevice(c, m)
	c.Eventually("the blank device is known", func() bool {
		row, ok := c.Leader().View().Member(m.ID())
		return ok && row.Device != nil && row.Device.KCV == [8]byte{}
	})
	id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: m.ID(), Reason: "the card broke"})
	c.Approve(id, len(c.Operators))
	c.Done(id)
	for _, key := range keys {
		works(t, m, key)
	}
}

// All logs are lost. Members that have t shares go on from the backup: the keys in
// it come back, also on a blank device; those of later are lost, and kept aside.
// What is wrong is refused, and changes nothing.
func TestRestoreIntoAnEmptyCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 2, Approvals: 2})
		makeKeys(t, c.Leader(), "k", 3)
		heldBy(t, c, c.Leader(), 3, "k-0", "k-1", "k-2")
		token := c.Token()
		file := backedUp(t, c)
		makeKeys(t, c.Leader(), "after", 2)
		heldBy(t, c, c.Leader(), 3, "after-0", "after-1")
		time.Sleep(5 * time.Second) // what the others have is written down
		all := c.Members
		all[0].Crash()
		if _, err := planRestore(t, c, all[0], file, node.RestoreOptions{AcceptLoss: true}); err == nil || !strings.Contains(err.Error(), "the cluster lives and needs no restore") {
			t.Errorf("while it lives: %v", err)
		}
		loseLogs(c)
		cut, cancel := context.WithCancel(t.Context())
		cancel()
		s := offline(t, c, all[0])
		if _, err := s.PlanRestore(cut, readBackup(t, file), node.RestoreOptions{AcceptLoss: true}); !errors.Is(err, context.Canceled) {
			t.Errorf("with nobody asked: %v", err)
		}
		s.Close()
		if _, err := planRestore(t, c, all[0], file, node.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "the backup is older than what this node knows of") {
			t.Errorf("stale: %v", err)
		}
		plan, err := planRestore(t, c, all[0], file, node.RestoreOptions{AcceptLoss: true, Known: knownTo(t, c, all), Reason: "all disks"})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"entries of the log are given up", "node-1 goes on at 10.0.0.2:7400", "2 of 3 voters have to run", "3 holders of epoch 1 are left"} {
			if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, want) {
				t.Errorf("the plan does not say %q:\n%s", want, notes)
			}
		}
		good := signedBy(t, plan, c.Operators...)
		other := readBackup(t, file)
		other.Hash[0] ^= 1
		for what, try := range map[string]func(s *node.Stopped) error{
			"one signature of two": func(s *node.Stopped) error { return s.Restore(t.Context(), plan, good[:1], readBackup(t, file)) },
			"a stranger's signature": func(s *node.Stopped) error {
				return s.Restore(t.Context(), plan, append(good[:1:1], signedBy(t, plan, nodetest.NewOperator("stranger"))...), readBackup(t, file))
			},
			"another backup": func(s *node.Stopped) error { return s.Restore(t.Context(), plan, good, other) },
			"as a recovery":  func(s *node.Stopped) error { return s.Recover(t.Context(), plan, good) },
			"without its statement": func(s *node.Stopped) error {
				return s.Restore(t.Context(), &node.RecoveryPlan{}, good, readBackup(t, file))
			},
		} {
			s := offline(t, c, all[0])
			if err := try(s); err == nil {
				t.Errorf("%s: restored", what)
			}
			s.Close()
		}
		restored := func() {
			t.Helper()
			for _, m := range all {
				if err := carryOut(t, c, m, file, plan, good); err != nil {
					t.Fatalf("%s: %v", m.Name, err)
				}
			}
		}
		restored()
		restored() // a second time is no error
		for _, m := range all {
			m.Start()
		}
		works(t, c.Leader(), "k-1")
		restoredEverywhere(t, c, 2, 3)
		for _, m := range all {
			c.Eventually("the later keys are kept aside", func() bool { return len(m.ObjectsForTest().Aside) >= 2 })
			for i := range 3 {
				works(t, m, fmt.Sprintf("k-%d", i))
			}
			if _, err := m.Key(t.Context(), "after-0"); !errors.Is(err, fsm.NotFound) {
				t.Errorf("a key that was made after the backup: %v", err)
			}
		}
		late := c.NewMember()
		late.Start()
		if err := late.Join(t.Context(), token); !errors.Is(err, fsm.NotFound) {
			t.Errorf("a token of before: %v", err)
		}
		late.Close()
		c.Members = all
		makeKeys(t, c.Leader(), "again", 1)
		replaced(t, c, c.Follower(), "k-0", "k-1", "k-2", "again-0")
		status := read[api.Status](t, browse(t, c, c.Operators[0].Key).get(c.Leader(), "/v1/status"))
		if !status.Restore.Possible || status.CanLose.Nodes != 1 {
			t.Errorf("status says %+v, %+v\n%s", status.Restore, status.CanLose, strings.Join(status.Warnings, "\n"))
		}
		runs(t, all...)
		for _, m := range all {
			m.Restart()
		}
		works(t, c.Leader(), "again-0")

		// And once more, from a backup of the new incarnation.
		file = backedUp(t, c)
		loseLogs(c)
		restoreAll(t, c, all, file, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, c, 3, 3)
		works(t, c.Leader(), "again-0")
		runs(t, all...)
	})
}

// restoredEverywhere waits until every member is in an incarnation, with so many
// members.
func restoredEverywhere(t *testing.T, c *nodetest.Cluster, incarnation uint64, members int) {
	t.Helper()
	c.Eventually("all are in it", func() bool {
		for _, m := range c.Members {
			if m.Node == nil {
				continue
			}
			row, ok := m.View().Cluster()
			if !ok || row.Incarnation != incarnation || m.View().Count(fsm.TableMembers) != members {
				return false
			}
		}
		return true
	})
}

// A member that knows of more than a plan gives up refuses it, and says of what. The
// next plan is made where the first one was begun already.
func TestRestorePlannedAgainAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		makeKeys(t, c.Leader(), "k", 1)
		heldBy(t, c, c.Leader(), 3, "k-0")
		file := backedUp(t, c)
		lags := c.Follower()
		lags.Crash()
		makeKeys(t, c.Leader(), "after", 2)
		time.Sleep(5 * time.Second)
		loseLogs(c)
		plan, err := planRestore(t, c, lags, file, node.RestoreOptions{AcceptLoss: true})
		if err != nil {
			t.Fatal(err)
		}
		approvals := signedBy(t, plan, c.Operators...)
		if err := carryOut(t, c, lags, file, plan, approvals); err != nil {
			t.Fatal(err)
		}
		others := slices.DeleteFunc(slices.Clone(c.Members), func(m *nodetest.Member) bool { return m == lags })
		for _, m := range others {
			if err := carryOut(t, c, m, file, plan, approvals); err == nil || !strings.Contains(err.Error(), "make the plan anew with --known") {
				t.Errorf("%s: %v", m.Name, err)
			}
		}
		restoreAll(t, c, append([]*nodetest.Member{lags}, others...), file, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, c, 3, 3)
		works(t, lags, "k-0")
		runs(t, c.Members...)
	})
}
