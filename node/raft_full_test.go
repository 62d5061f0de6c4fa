package node

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// fullDisk is a log's store on a disk that can be full.
type fullDisk struct {
	*raft.InmemStore
	full atomic.Bool
	// lost, where it is set, is what writes fail with after the first.
	lost  error
	tried atomic.Bool
}

func (d *fullDisk) room() error {
	if d.full.Load() {
		if d.tried.Swap(true) && d.lost != nil {
			return d.lost
		}
		return syscall.ENOSPC
	}
	return nil
}

func (d *fullDisk) StoreLog(entry *raft.Log) error { return d.StoreLogs([]*raft.Log{entry}) }

func (d *fullDisk) StoreLogs(entries []*raft.Log) error {
	if err := d.room(); err != nil {
		return err
	}
	return d.InmemStore.StoreLogs(entries)
}

func (d *fullDisk) SetUint64(key []byte, value uint64) error {
	if err := d.room(); err != nil {
		return err
	}
	return d.InmemStore.SetUint64(key, value)
}

// withDisk gives node c a disk that can be full.
func withDisk(disk *fullDisk) func(*raftConfig) {
	return func(config *raftConfig) {
		if config.ID == "c" {
			disk.InmemStore = raft.NewInmemStore()
			config.Memory = &memoryStores{log: disk, snapshots: raft.NewInmemSnapshotStore()}
		}
	}
}

// A member whose disk is full says so at once, to whoever asks it for a change or
// a linearizable read, and holds nobody up. The others go on, and once there is
// room it has everything.
func TestAFullDiskIsSaidAtOnceAndHeals(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		var disk fullDisk
		cluster, a, _, c := threeNodes(t, withDisk(&disk))
		if _, err := c.propose("before"); err != nil {
			t.Fatal(err)
		}
		disk.full.Store(true)
		for _, value := range []string{"one", "two"} {
			if _, err := a.propose(value); err != nil {
				t.Fatalf("the others do not go on: %v", err)
			}
		}
		cluster.until(func() bool { return c.diskTrouble() != nil })
		start := time.Now()
		_, err := c.propose("three")
		if !errors.Is(err, ErrNotAppended) || !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a change: %v", err)
		}
		if _, err := c.ReadBarrier(t.Context()); !errors.Is(err, ErrDisk) {
			t.Errorf("a read: %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v to say so", took)
		}
		time.Sleep(time.Minute)
		if age := time.Since(c.upTo()); age < time.Minute || time.Since(c.LastContact()) > time.Second {
			t.Errorf("a state of a minute ago says that it is %v old", age)
		}
		disk.full.Store(false)
		cluster.until(func() bool { return c.diskTrouble() == nil })
		if _, err := c.propose("four"); err != nil {
			t.Errorf("with room again: %v", err)
		}
		if got := c.state.values(); !slices.Equal(got, []string{"before", "one", "two", "four"}) {
			t.Errorf("it has %v", got)
		}
	})
}

// Whoever waits for an entry when the disk fills up is told so at once: a change that
// the others have made is of unknown outcome here.
func TestAFullDiskEndsTheWaitForAnEntry(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		var disk fullDisk
		_, _, _, c := threeNodes(t, withDisk(&disk))
		disk.full.Store(true)
		start := time.Now()
		if _, err := c.propose("one"); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, ErrDisk) {
			t.Errorf("a change: %v", err)
		}
		waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.WaitApplied(waiting, c.AppliedIndex()+1); !errors.Is(err, ErrDisk) {
			t.Errorf("an entry that the others have: %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v to say so", took)
		}
	})
}

// A store that gave up does not heal by itself: the log stops with what made it
// give up, so that whoever looks after the process starts it again.
func TestAStoreThatGaveUpStopsTheLog(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		disk := fullDisk{lost: bbolterrors.ErrInvalidMapping}
		cluster, a, b, c := threeNodes(t, withDisk(&disk))
		disk.full.Store(true)
		for _, value := range []string{"one", "two"} {
			if _, err := cluster.leader(a, b).propose(value); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.stopped(); !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("stopped: %v", err)
		}
	})
}

// A term that cannot be written stops the log with the reason, not the process.
func TestATermThatCannotBeWrittenStopsTheLog(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		var disk fullDisk
		cluster, a, b, c := threeNodes(t, withDisk(&disk))
		disk.full.Store(true)
		if err := a.TransferLeadership(context.Background()); err != nil {
			t.Log(err)
		}
		if err := c.stopped(); !errors.Is(err, ErrDisk) {
			t.Errorf("stopped: %v", err)
		}
		if _, err := cluster.leader(a, b).propose("go on"); err != nil {
			t.Errorf("the others: %v", err)
		}
	})
}

// A start on a disk that takes nothing is refused with the reason, and does not
// end the goroutine that asked for it.
func TestAStartOnAFullDiskIsRefused(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		var disk fullDisk
		cluster, a, b, c := threeNodes(t, withDisk(&disk))
		c.close()
		disk.full.Store(true)
		_, config := cluster.memory("c")
		config.Memory = &memoryStores{log: &disk, snapshots: raft.NewInmemSnapshotStore()}
		ended := make(chan error)
		go func() {
			defer close(ended)
			_, err := openRaft(config)
			ended <- err
		}()
		if err := <-ended; !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("the start: %v", err)
		}
		if _, err := cluster.leader(a, b).propose("go on"); err != nil {
			t.Errorf("the others: %v", err)
		}
	})
}
