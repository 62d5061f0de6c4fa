package node_test

import (
	"errors"
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

// onDisk is a cluster on disk with a backup that lacks its last key, all stopped.
type onDisk struct {
	*nodetest.Cluster
	file []byte
	m    *nodetest.Member
	dir  string // of m
}

func startOnDisk(t *testing.T) *onDisk {
	t.Helper()
	c := nodetest.StartWith(t, 3, nodetest.Options{Dir: t.TempDir()})
	makeKeys(t, c.Leader(), "k", 1)
	heldBy(t, c, c.Members[0], 3, "k-0")
	d := &onDisk{Cluster: c, m: c.Members[0], dir: c.Members[0].Config.Dir}
	d.file = backedUp(t, c)
	b := readBackup(t, d.file)
	makeKeys(t, c.Leader(), "after", 1)
	c.Eventually("the marks are written", func() bool { return node.MarkOnDisk(t, d.dir) > b.Index })
	for _, m := range c.Members {
		m.Crash()
	}
	return d
}

func (d *onDisk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *onDisk) plan(t *testing.T) (*node.RecoveryPlan, []fsm.Approval) {
	t.Helper()
	plan, err := planRestore(t, d.Cluster, d.m, d.file, node.RestoreOptions{AcceptLoss: true, Known: knownTo(t, d.Cluster, d.Members)})
	if err != nil {
		t.Fatal(err)
	}
	return plan, signedBy(t, plan, d.Operators...)
}

// A crash at any step leaves the former log or the new one, and the same command
// again ends it; what was begun is not begun a second time, nor by another plan.
func TestRestoreIsFinishedAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startOnDisk(t)
		for _, m := range d.Members {
			if err := os.RemoveAll(filepath.Join(m.Config.Dir, "raft")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := planRestore(t, d.Cluster, d.m, d.file, node.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "this node's mark reaches entry") {
			t.Errorf("by the mark alone: %v", err)
		}
		plan, approvals := d.plan(t)
		time.Sleep(time.Second)
		other, otherApprovals := d.plan(t)
		if _, err := os.Stat(d.path("raft")); err == nil {
			t.Error("a plan has made a log")
		}
		again := func() {
			t.Helper()
			if err := carryOut(t, d.Cluster, d.m, d.file, plan, approvals); err != nil {
				t.Fatal(err)
			}
			for _, left := range []string{"raft.new", "raft.next"} {
				if _, err := os.Stat(d.path(left)); err == nil {
					t.Errorf("%s is left", left)
				}
			}
		}
		// While it was built: the records of the audit that nobody knows are away already.
		foreign := d.path("audit/000000000000")
		if err := errors.Join(os.MkdirAll(d.path("raft.new/snapshots"), 0o700), os.MkdirAll(d.path("audit"), 0o700), os.WriteFile(foreign, []byte("{}\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		former, err := os.ReadFile(d.path("mark"))
		if err != nil {
			t.Fatal(err)
		}
		again()
		if _, err := os.Stat(foreign); err == nil {
			t.Error("records of before would be shown")
		}
		if _, err := os.Stat(d.path("audit-before-2/000000000000")); err != nil {
			t.Error(err)
		}
		// When it had its place, and before the mark was written.
		if err := os.WriteFile(d.path("mark"), former, 0o600); err != nil {
			t.Fatal(err)
		}
		again()
		if now, err := os.ReadFile(d.path("mark")); err != nil || string(now) == string(former) {
			t.Errorf("the mark is the former one: %v", err)
		}
		// When it had its name, but not its place.
		if err := os.Rename(d.path("raft"), d.path("raft.next")); err != nil {
			t.Fatal(err)
		}
		again()
		if err := carryOut(t, d.Cluster, d.m, d.file, other, otherApprovals); err == nil || !strings.Contains(err.Error(), "incarnation 2 already") {
			t.Errorf("another plan: %v", err)
		}
		// Its log is lost again: it has voted perhaps.
		lost := d.path("lost")
		if err := os.Rename(d.path("raft"), lost); err != nil {
			t.Fatal(err)
		}
		if err := carryOut(t, d.Cluster, d.m, d.file, plan, approvals); err == nil || !strings.Contains(err.Error(), "its log is lost again") {
			t.Errorf("after its log was lost again: %v", err)
		}
		if err := os.Rename(lost, d.path("raft")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.path("mark"), former, 0o600); err != nil { // a start writes it too
			t.Fatal(err)
		}
		began := node.MarkOnDisk(t, d.dir)
		d.m.Start()
		d.Eventually("the mark is written", func() bool { return node.MarkOnDisk(t, d.dir) > began })
		// Another member may restore when the first one runs.
		if err := carryOut(t, d.Cluster, d.Members[1], d.file, plan, approvals); err != nil {
			t.Fatal(err)
		}
		d.Members[1].Start()
		works(t, d.Leader(), "k-0")
		if err := carryOut(t, d.Cluster, d.Members[2], d.file, plan, approvals); err != nil {
			t.Fatal(err)
		}
		d.Members[2].Start()
		d.Eventually("all have votes", func() bool {
			row, ok := d.Members[2].View().Cluster()
			return ok && row.Incarnation == 2
		})
		works(t, d.Members[2], "k-0")
		runs(t, d.Members...)
	})
}

// A node that knows of more than operators signed away refuses, and so does one
// that cannot tell.
func TestRestoreLosesNoMoreThanWasSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startOnDisk(t)
		known := knownTo(t, d.Cluster, d.Members)
		plan, err := planRestore(t, d.Cluster, d.m, d.file, node.RestoreOptions{AcceptLoss: true, Known: known})
		if err != nil {
			t.Fatal(err)
		}
		approvals := signedBy(t, plan, d.Operators...)
		// It goes on for a moment after the plan was made.
		d.Members[0].Start()
		d.Members[1].Start()
		makeKeys(t, d.Leader(), "later", 1)
		d.Eventually("the mark is written", func() bool { return node.MarkOnDisk(t, d.dir) > known })
		d.Members[0].Crash()
		d.Members[1].Crash()
		if err := carryOut(t, d.Cluster, d.m, d.file, plan, approvals); err == nil || !strings.Contains(err.Error(), "make the plan anew with --known") {
			t.Errorf("with an old plan: %v", err)
		}
		if err := os.Remove(d.path("mark")); err != nil {
			t.Fatal(err)
		}
		if _, err := planRestore(t, d.Cluster, d.m, d.file, node.RestoreOptions{AcceptLoss: true}); err == nil || !strings.Contains(err.Error(), "the file \"mark\" is missing") {
			t.Errorf("without a mark: %v", err)
		}
		for _, m := range d.Members[:2] { // nothing was changed
			if _, err := os.Stat(filepath.Join(m.Config.Dir, "raft-before-2")); err == nil {
				t.Error("a log was put away")
			}
		}
	})
}

// A log that does not read is no obstacle: an entry that no node can apply, a page
// that is damaged.
func TestRestoreOverALogThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startOnDisk(t)
		for i, m := range d.Members {
			path := filepath.Join(m.Config.Dir, "raft", "log.db")
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			switch i {
			case 0:
				content = content[:len(content)/3]
			case 1:
				clear(content[:8192])
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		restoreAll(t, d.Cluster, d.Members, d.file, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, d.Cluster, 2, 3)
		works(t, d.Leader(), "k-0")
		if _, err := os.Stat(d.path("raft-before-2/log.db")); err != nil {
			t.Errorf("the former log: %v", err)
		}
		runs(t, d.Members...)
	})
}

// Whole machines are lost, devices too. Copies of the small files of their data
// folders, and the seal secrets, are enough: every device is filled again.
func TestRestoreOnNewMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startOnDisk(t)
		for _, m := range d.Members {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(m.Config.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.RemoveAll(filepath.Join(copied, "raft")), os.RemoveAll(m.Config.Dir), os.CopyFS(m.Config.Dir, os.DirFS(copied))); err != nil {
				t.Fatal(err)
			}
			m.NewDevice()
		}
		restoreAll(t, d.Cluster, d.Members, d.file, node.RestoreOptions{AcceptLoss: true})
		restoredEverywhere(t, d.Cluster, 2, 3)
		for _, m := range d.Members {
			d.Eventually("the blank device is known", func() bool {
				row, ok := d.Leader().View().Member(m.ID())
				return ok && row.Device != nil && row.Device.KCV == [8]byte{}
			})
		}
		for _, m := range d.Members {
			id := openProvision(t, d.Leader(), node.CeremonyOptions{Node: m.ID(), Reason: "a new machine"})
			d.Approve(id, 1)
			d.Done(id)
			d.Eventually("k-0 is here", func() bool {
				key, ok := m.View().Key("k-0")
				return ok && slices.Contains(m.View().Coverage(key.ID, 1), m.ID())
			})
			works(t, m, "k-0")
		}
		runs(t, d.Members...)
	})
}
