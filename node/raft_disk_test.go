package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// onDisk starts a single node in dir, on the machine's own time.
func onDisk(t *testing.T, dir string) *testNode {
	t.Helper()
	cluster := newTestCluster(t)
	cluster.virtual = false
	return cluster.start("a", func(config *raftConfig) {
		config.Dir, config.Heartbeat = filepath.Join(dir, "raft"), 100*time.Millisecond
	})
}

// fillDisk leaves a node's folder behind with these values, and a snapshot that
// holds the first of them.
func fillDisk(t *testing.T, dir string, values ...string) {
	t.Helper()
	n := onDisk(t, dir)
	n.cluster.bootstrap(n)
	for i, value := range values {
		if _, err := n.propose(value); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := n.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.close()
}

// reopen tries to start the node again and returns why that was refused.
func reopen(t *testing.T, dir string) error {
	t.Helper()
	_, config := (&testCluster{t: t}).memory("a")
	config.Dir = filepath.Join(dir, "raft")
	log, err := openRaft(config)
	if err == nil {
		log.Close(t.Context())
	}
	return err
}

func TestARestartedNodeHasWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	fillDisk(t, dir, "one", "two", "three")
	n := onDisk(t, dir)
	n.cluster.until(n.IsLeader)
	if _, err := n.ReadBarrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := n.state.values(); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("after a restart: %v", got)
	}
	if err := n.Bootstrap(t.Context()); !errors.Is(err, ErrInitialised) {
		t.Errorf("bootstrapped again: %v", err)
	}
}

// What lies on disk at an instant is what a kill or a power cut leaves behind.
func TestAKilledNodeHasWhatItAcknowledged(t *testing.T) {
	n := onDisk(t, t.TempDir())
	n.cluster.bootstrap(n)
	var copies []string
	for i := range 5 {
		applied, err := n.propose(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.SyncMark(applied.Index); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(filepath.Dir(n.config.Dir))); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, copied)
	}
	for i, copied := range copies {
		again := onDisk(t, copied)
		again.cluster.until(again.IsLeader)
		if got := again.state.values(); len(got) != i+1 {
			t.Errorf("killed after %d acknowledged: %v", i+1, got)
		}
	}
}

func TestGuard13ASecondProcessIsToldWithinTwoSeconds(t *testing.T) {
	n := onDisk(t, t.TempDir())
	start := time.Now()
	err := reopen(t, filepath.Dir(n.config.Dir))
	if !errors.Is(err, ErrInUse) {
		t.Errorf("second process: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("after %v", took)
	}
}

func TestGuard14TheFolderIsClosedToOthers(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "raft")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir, "x")
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
}

func TestDamagedFilesRefuseTheStartAndSayWhichOne(t *testing.T) {
	for name, test := range map[string]struct {
		path   string // a pattern in the folder
		damage func([]byte) []byte
		says   string
	}{
		"truncated snapshot":   {"raft/snapshots/*/state.bin", half, "snapshots"},
		"flipped snapshot bit": {"raft/snapshots/*/state.bin", flip, "CRC"},
		"truncated meta":       {"raft/snapshots/*/meta.json", half, "meta.json"},
		"truncated log":        {"raft/log.db", func(b []byte) []byte { return b[:100] }, "log.db"},
		"log of zeros":         {"raft/log.db", func(b []byte) []byte { return make([]byte, len(b)) }, "log.db"},
		"truncated mark":       {"mark", half, "mark"},
		"flipped mark bit":     {"mark", flip, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fillDisk(t, dir, "one", "two")
			paths, _ := filepath.Glob(filepath.Join(dir, test.path))
			if len(paths) != 1 {
				t.Fatalf("files %v", paths)
			}
			content, err := os.ReadFile(paths[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(paths[0], test.damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := reopen(t, dir); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("started, or an error without %q: %v", test.says, err)
			}
		})
	}
}

// Any page of the log's file may be lost, and any number at its end: such a log is
// refused by name, and never a panic that ends the process.
func TestALostPageOfTheLogIsNoPanic(t *testing.T) {
	dir := t.TempDir()
	fillDisk(t, dir, "one", "two", "three")
	path := filepath.Join(dir, "raft/log.db")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size, refused := os.Getpagesize(), 0
	try := func(damaged []byte) {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		store, err := openBolt(path, false)
		if err == nil { // it was a free page
			store.Close()
			return
		}
		if damage := (*DamagedLogError)(nil); !errors.As(err, &damage) || damage.Path != path {
			t.Errorf("%v", err)
		}
		refused++
	}
	for at := 2 * size; at < len(content); at += size {
		lost := slices.Clone(content)
		clear(lost[at : at+size])
		try(lost)
		try(content[:at])
	}
	if refused == 0 {
		t.Error("no damaged log was refused")
	}
}

func half(b []byte) []byte { return b[:len(b)/2] }

func flip(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

func TestALogThatWasPutBackIsRefused(t *testing.T) {
	dir, old := t.TempDir(), filepath.Join(t.TempDir(), "old")
	fillDisk(t, dir, "one")
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	n := onDisk(t, dir)
	n.cluster.until(n.IsLeader)
	applied, err := n.propose("released")
	if err != nil {
		t.Fatal(err)
	}
	n.close()
	if err := os.Rename(filepath.Join(old, "raft/log.db"), filepath.Join(dir, "raft/log.db")); err != nil {
		t.Fatal(err)
	}
	behind := (*BehindMarkError)(nil)
	if err := reopen(t, dir); !errors.As(err, &behind) || behind.Mark != applied.Index || behind.Last >= applied.Index {
		t.Errorf("an old log was taken: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "mark")); err != nil {
		t.Fatal(err)
	}
	if err := reopen(t, dir); !errors.Is(err, fs.ErrNotExist) && (err == nil || !strings.Contains(err.Error(), "missing")) {
		t.Errorf("a log without its mark was taken: %v", err)
	}
}

func TestAMarkIsOnDiskBeforeSyncReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mark")
	m, err := createMark(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []position{{0, 5}, {0, 9}, {1, 3}} {
		m.note(p)
		m.note(position{0, 1}) // never backwards
		if err := m.sync(); err != nil {
			t.Fatal(err)
		}
		again, err := openMark(path)
		if err != nil || again.written != p {
			t.Errorf("on disk %+v (%v), not %+v", again.written, err, p)
		}
	}
	if err := m.check(3); err != nil {
		t.Error(err)
	}
	if m.check(2) == nil {
		t.Error("a log behind the mark was taken")
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add(encodeMark(position{1, 2}))
	f.Add([]byte(markMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := parseMark(content)
		if err == nil && !slices.Equal(encodeMark(p), content) {
			t.Errorf("%x reads as %+v, which is written otherwise", content, p)
		}
	})
}

// A disk that flips a bit of the log is found out at the next start: the node
// that took such an entry would have another state than the others, and as
// leader send it to them.
func TestAFlippedBitOfTheLogIsRefusedOrMeansNothing(t *testing.T) {
	dir := t.TempDir()
	fillDisk(t, dir, "one", "two", "three")
	path := filepath.Join(dir, "raft/log.db")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// entries opens the stores as a start does, and reads what Raft would. What
	// is missing before the snapshot is not needed, and a later gap is refused.
	entries := func() (all map[uint64]raft.Log, err error) {
		stores, err := openStores(filepath.Join(dir, "raft"), nil, raftLogger(discard()))
		if err != nil {
			return nil, err
		}
		defer stores.close()
		last, _, err := settleLog(stores.path, stores.log, stores.snapshots)
		if err != nil {
			return nil, err
		}
		all = make(map[uint64]raft.Log)
		for index := uint64(1); index <= last; index++ {
			var entry raft.Log
			err := stores.log.GetLog(index, &entry)
			if errors.Is(err, raft.ErrLogNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all[index] = raft.Log{Index: entry.Index, Term: entry.Term, Type: entry.Type, Data: entry.Data, Extensions: entry.Extensions}
		}
		return all, nil
	}
	want, err := entries()
	if err != nil || len(want) < 3 {
		t.Fatalf("%d entries: %v", len(want), err)
	}
	refused := 0
	for at := 2 * os.Getpagesize(); at < len(content); at++ {
		if content[at] == 0 || at%11 != 0 {
			continue
		}
		damaged := slices.Clone(content)
		damaged[at] ^= 0x10
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := entries()
		var damage *DamagedLogError
		switch {
		case errors.As(err, &damage) && damage.Path == path:
			refused++
		case err != nil:
			t.Errorf("byte %d: %v", at, err)
		}
		for index, entry := range got {
			if !reflect.DeepEqual(entry, want[index]) {
				t.Errorf("byte %d: another entry %d was taken: %+v", at, index, entry)
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
