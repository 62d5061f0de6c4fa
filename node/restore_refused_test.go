package node_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// restoreRefused wants a plan refused for a reason.
func restoreRefused(t *testing.T, c *nodetest.Cluster, at *nodetest.Member, file []byte, why string, options node.RestoreOptions) {
	t.Helper()
	options.AcceptLoss = true
	if _, err := planRestore(t, c, at, file, options); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("at %s: %v, want %q", at.Name, err, why)
	}
}

// settled gives the members time to write down what they know, and ends all.
func settled(c *nodetest.Cluster) {
	time.Sleep(5 * time.Second)
	loseLogs(c)
}

// A backup of another cluster, or from before what a node knows about operators,
// members and keys, is refused.
func TestRestoreRefusesABackupThatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		foreign := nodetest.Start(t, 1)
		stranger := backedUp(t, foreign)
		without := backedUp(t, c)
		late := c.Add()
		rotated := c.Members[1]
		if _, err := rotated.RotateNodeKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Eventually("all know the new key", func() bool {
			for _, m := range c.Members {
				if row, ok := m.View().Member(rotated.ID()); !ok || row.Fingerprint != rotated.Fingerprint() {
					return false
				}
			}
			return true
		})
		id := rotated.ID().String()
		settled(c)
		restoreRefused(t, c, c.Members[0], stranger, "the backup is of cluster", node.RestoreOptions{})
		restoreRefused(t, c, late, without, "no member in the backup", node.RestoreOptions{})
		restoreRefused(t, c, rotated, without, "this node's key was rotated", node.RestoreOptions{})
		restoreRefused(t, c, c.Members[0], without, "its former key would count again", node.RestoreOptions{})
		restoreRefused(t, c, c.Members[0], without, "no member is called", node.RestoreOptions{Lost: []string{"node-9"}})
		restoreRefused(t, c, c.Members[0], without, "named twice", node.RestoreOptions{Lost: []string{id, id}})
		restoreRefused(t, c, c.Members[0], without, "this node is not lost", node.RestoreOptions{Lost: []string{"node-0"}})
		plan, err := planRestore(t, c, c.Members[0], without, node.RestoreOptions{AcceptLoss: true, Lost: []string{id}})
		if err != nil {
			t.Fatalf("with the rotated one lost: %v", err)
		}
		if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "at 10.0.0.4:7400 joined after the backup was made") {
			t.Errorf("the plan says\n%s", notes)
		}
	})
}

// Operators who were removed after the backup must not approve again.
func TestRestoreRefusesFormerOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 2})
		before := backedUp(t, c)
		proposal := fsm.Proposal{Operators: []fsm.Operator{c.Operators[0].Public()}, Approvals: 1}
		opened, err := c.Leader().OpenGovern(t.Context(), proposal, node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		c.Done(opened.ID)
		for _, m := range c.Members {
			c.Eventually("the new set is pinned", func() bool { return m.Pinned().Number == 2 })
		}
		after := backedUp(t, c)
		settled(c)
		restoreRefused(t, c, c.Members[0], before, "the backup ends at operator set 1, and set 2 is in force here", node.RestoreOptions{})
		plan, err := planRestore(t, c, c.Members[0], after, node.RestoreOptions{AcceptLoss: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := carryOut(t, c, c.Members[0], after, plan, signedBy(t, plan, c.Operators[1])); err == nil {
			t.Error("a former operator's signature was enough")
		}
		c.Operators = c.Operators[:1]
		restoreAll(t, c, c.Members, after, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, c, 2, 3)
	})
}

// A node that had not heard of a change of the operators follows the backup's chain.
func TestRestoreBringsOperatorsToANodeThatLagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 2})
		lags := c.Follower()
		lags.Crash()
		opened, err := c.Leader().OpenGovern(t.Context(), fsm.Proposal{Operators: []fsm.Operator{c.Operators[0].Public()}, Approvals: 1}, node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		c.Done(opened.ID)
		file := backedUp(t, c)
		settled(c)
		c.Operators = c.Operators[:1]
		restoreAll(t, c, c.Members, file, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, c, 2, 3)
		c.Eventually("the set of the backup is pinned", func() bool { return lags.Pinned().Number == 2 })
		replaced(t, c, lags)
	})
}

// A member that was removed after the backup does not come back by itself, and
// does so at operators' word: whoever led by lies may have removed it.
func TestRestoreBringsARemovedMemberBackWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		makeKeys(t, c.Leader(), "k", 1)
		heldBy(t, c, c.Leader(), 3, "k-0")
		file := backedUp(t, c)
		first, gone := c.Members[0], c.Members[2]
		id := gone.ID()
		if err := first.ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), &fsm.MemberRemove{Node: id}); err != nil {
			t.Fatal(err)
		}
		<-gone.Done()
		settled(c)
		restoreRefused(t, c, first, file, "node-2 is a member in the backup and was removed since", node.RestoreOptions{})
		restoreRefused(t, c, gone, file, "--back "+id.String(), node.RestoreOptions{})
		without, err := planRestore(t, c, first, file, node.RestoreOptions{AcceptLoss: true, Lost: []string{"node-2"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := carryOut(t, c, gone, file, without, signedBy(t, without, c.Operators...)); err == nil || !strings.Contains(err.Error(), "must not come back") {
			t.Errorf("at the one that is lost: %v", err)
		}
		restoreAll(t, c, c.Members, file, node.RestoreOptions{AcceptLoss: true, Back: []string{"node-2"}})
		restoredEverywhere(t, c, 2, 3)
		works(t, gone, "k-0")
		gone.Restart()
		works(t, gone, "k-0")
	})
}

// Members that are lost are removed; the others go on without them, and with a
// share too few say so.
func TestRestoreWithoutLostMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		makeKeys(t, c.Leader(), "k", 1)
		heldBy(t, c, c.Leader(), 3, "k-0")
		file := backedUp(t, c)
		all := c.Members
		settled(c)
		c.Members = all[:2]
		restoreAll(t, c, all[:2], file, node.RestoreOptions{AcceptLoss: true, Lost: []string{"node-2"}})
		restoredEverywhere(t, c, 2, 2)
		works(t, all[1], "k-0")
		replaced(t, c, all[1], "k-0") // t is 2, and two holders are left
		runs(t, all[:2]...)
	})
}

// Shares that were dealt anew after the backup go on: the backup's own are erased.
func TestRestoreGoesOnWithTheSharesThatThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		makeKeys(t, c.Leader(), "k", 2)
		file := backedUp(t, c)
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		provenEverywhere(t, c, 2)
		c.Eventually("the old shares are erased", func() bool {
			for _, m := range c.Members {
				if len(m.Shares()) != 1 {
					return false
				}
			}
			return true
		})
		settled(c)
		plan := restoreAll(t, c, c.Members, file, node.RestoreOptions{AcceptLoss: true})
		if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "epoch 2, which this node has seen proven, is in force") || !strings.Contains(notes, "3 holders of epoch 2 are left") {
			t.Errorf("the plan says\n%s", notes)
		}
		restoredEverywhere(t, c, 2, 3)
		provenEverywhere(t, c, 2)
		replaced(t, c, c.Follower(), "k-0", "k-1")
		id = openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		provenEverywhere(t, c, 4) // the backup may have lacked an epoch 3
		makeKeys(t, c.Leader(), "after", 1)
		for _, m := range c.Members {
			works(t, m, "after-0")
		}
		runs(t, c.Members...)
	})
}

// A plan that goes on with shares that were erased since is refused where they
// were, and so is a backup from before there was a DKEK.
func TestRestoreRefusesSharesThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		blank := backedUp(t, c)
		c.CreateDKEK()
		file := backedUp(t, c)
		away := c.Members[2]
		makeKeys(t, c.Leader(), "k", 1)
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		provenEverywhere(t, c, 2)
		c.Eventually("proven at all", func() bool {
			for _, m := range c.Members {
				if shares := m.Shares(); len(shares) != 1 || !shares[0].Proven {
					return false
				}
			}
			return true
		})
		settled(c)
		restoreRefused(t, c, c.Members[0], blank, "the backup is from before the DKEK was made", node.RestoreOptions{})
		away.Config.Memory.Forget("proofs/2-1")
		away.Config.Memory.Forget("proofs/1-1")
		restoreRefused(t, c, away, file, "no good proof of it: make the plan at another holder", node.RestoreOptions{})
		plan, err := planRestore(t, c, c.Members[0], file, node.RestoreOptions{AcceptLoss: true, Known: knownTo(t, c, c.Members)})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Members { // one holder's proof is enough
			if err := carryOut(t, c, m, file, plan, signedBy(t, plan, c.Operators...)); err != nil {
				t.Errorf("%s: %v", m.Name, err)
			}
		}
	})
}

// A plan made where less is known of the shares is refused where more is.
func TestRestoreRefusesAPlanThatKnowsLessOfTheShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		makeKeys(t, c.Leader(), "k", 1)
		file := backedUp(t, c)
		provenEverywhere(t, c, 1)
		late, knows := c.Members[2], c.Members[0]
		former := late.Config.Memory.Get(t, "shares/1-1")
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		provenEverywhere(t, c, 2)
		c.Eventually("the old shares are erased", func() bool { return len(late.Shares()) == 1 && len(knows.Shares()) == 1 })
		settled(c)
		options := node.RestoreOptions{AcceptLoss: true, Known: knownTo(t, c, c.Members)}
		for _, s := range []struct{ forget, why string }{
			{"proofs/2-1", "came into force here after the backup was made"}, // dealt, not seen proven
			{"shares/2-1", "has seen epoch 2, and the plan knows of epoch 1"},
		} {
			late.Config.Memory.Forget(s.forget)
			late.Config.Memory.Put("shares/1-1", former)
			plan, err := planRestore(t, c, late, file, options)
			if err != nil {
				t.Fatal(err)
			}
			if err := carryOut(t, c, knows, file, plan, signedBy(t, plan, c.Operators...)); err == nil || !strings.Contains(err.Error(), s.why) {
				t.Errorf("without %s: %v", s.forget, err)
			}
		}
	})
}

// A member that was not restored and still has its log, whatever it begins with,
// does not bring the former state back: it follows.
func TestRestoreWinsOverALogThatIsLeft(t *testing.T) {
	for _, further := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 3)
			makeKeys(t, c.Leader(), "k", 1)
			heldBy(t, c, c.Leader(), 3, "k-0")
			left := c.Leader()
			others := slices.DeleteFunc(slices.Clone(c.Members), func(m *nodetest.Member) bool { return m == left })
			file := backedUp(t, c)
			if further { // than the others know of
				time.Sleep(5 * time.Second)
				others[0].Crash()
			}
			makeKeys(t, c.Leader(), "after", 5)
			time.Sleep(5 * time.Second)
			left.Crash()
			for _, m := range others {
				if m.Node != nil {
					m.Crash()
				}
				m.Config.Memory.LoseLog()
			}
			if further { // what it remembers of the others would be known
				others[1].Config.Memory.Forget("peers")
				others[1].Config.Memory.Forget("members")
			}
			left.Start()
			if _, err := planRestore(t, c, others[0], file, node.RestoreOptions{AcceptLoss: true}); err == nil {
				t.Error("planned while a member answers")
			}
			left.Crash()
			plan, err := planRestore(t, c, others[0], file, node.RestoreOptions{AcceptLoss: true, Known: knownTo(t, c, others)})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range others {
				if err := carryOut(t, c, m, file, plan, signedBy(t, plan, c.Operators...)); err != nil {
					t.Fatal(err)
				}
			}
			left.Start()
			time.Sleep(5 * time.Second)
			for _, m := range others {
				m.Start()
			}
			restoredEverywhere(t, c, 2, 3)
			makeKeys(t, others[0], "again", 1)
			works(t, others[1], "k-0")
			for _, m := range others {
				if _, err := m.Key(t.Context(), "after-0"); !errors.Is(err, fsm.NotFound) {
					t.Errorf("the former state is back: %v", err)
				}
			}
			time.Sleep(time.Minute)
			runs(t, c.Members...)
			works(t, left, "again-0")
		})
	}
}

// Whoever led by lies may have had numbers written that no log goes on from. They
// stop every node, and no restore.
func TestRestoreOverForgedNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startOnDisk(t)
		plan := func() *fsm.RecoverStatement {
			t.Helper()
			plan, err := planRestore(t, d.Cluster, d.m, d.file, node.RestoreOptions{AcceptLoss: true})
			if err != nil {
				t.Fatal(err)
			}
			content, err := plan.Encode()
			if err != nil {
				t.Fatal(err)
			}
			_, statement, err := node.ParseRecoveryPlan(content)
			if err != nil {
				t.Fatal(err)
			}
			return statement
		}
		honest := plan()
		for _, m := range d.Members {
			node.ForgeNumbers(t, m.Config.Dir)
		}
		if forged := plan(); forged.Incarnation != honest.Incarnation || forged.Index > honest.Index || forged.Term > honest.Term+1<<32 {
			t.Errorf("it goes on from %+v", forged)
		}
		restoreAll(t, d.Cluster, d.Members, d.file, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, d.Cluster, 2, 3)
		works(t, d.Leader(), "k-0")
		for _, m := range d.Members {
			m.Restart()
		}
		works(t, d.Leader(), "k-0")
		runs(t, d.Members...)
	})
}

// A restore that the backup's own state refuses, at the very end, has changed no file.
func TestARestoreThatTheStateRefusesChangesNothing(t *testing.T) {
	c := nodetest.StartWith(t, 3, nodetest.Options{Dir: t.TempDir()})
	file := backedUp(t, c)
	m := c.Members[0]
	c.Eventually("it has noted how far others are", func() bool {
		_, err := os.Stat(filepath.Join(m.Config.Dir, "peers"))
		return err == nil
	})
	for _, other := range c.Members {
		other.Close()
	}
	restoreRefused(t, c, m, file, "reason holds control characters", node.RestoreOptions{Reason: "two\nlines"})
	plan, err := planRestore(t, c, m, file, node.RestoreOptions{AcceptLoss: true, Reason: "two lines"})
	if err != nil {
		t.Fatal(err)
	}
	plan.Statement = bytes.Replace(plan.Statement, []byte("two lines"), []byte("two\nlines"), 1)
	before := folderContent(t, m.Config.Dir)
	if err := carryOut(t, c, m, file, plan, signedBy(t, plan, c.Operators[0])); err == nil || !strings.Contains(err.Error(), "control characters") {
		t.Errorf("%v", err)
	}
	if after := folderContent(t, m.Config.Dir); !maps.Equal(before, after) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
}

// folderContent is what lies in a folder: hashes by path.
func folderContent(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	content := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		content[path] = sha256.Sum256(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return content
}
