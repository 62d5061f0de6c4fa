package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// raftStores is what Raft keeps: the log, its vote and term, and snapshots.
type raftStores struct {
	log       *watchedLog
	summed    *checkedLog // nil in memory
	stable    *voteStore
	snapshots *snapshotStore
	path      string // of the log's file; "" in memory
	close     func() error
}

// openStores opens the stores in dir, which it creates with mode 0700:
//
//	dir/log.db                 log, term and vote (bbolt)
//	dir/snapshots/T-I-M/       meta.json and state.bin of the snapshot at term T, index I
func openStores(dir string, memory *memoryStores, logger hclog.Logger) (*raftStores, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("node: open log: %w", err)
		}
		// Snapshots are written for others to read, 0755 and 0644: the folder above
		// keeps them out, whatever it was created with.
		if err := os.Chmod(dir, 0o700); err != nil {
			return nil, fmt.Errorf("node: open log: %w", err)
		}
	}
	return openStoresFor(dir, memory, logger, false)
}

// readStores opens the stores that are in dir for a look: no file in there changes,
// since what is looked for may be a reason to refuse. A log that is missing is empty.
func readStores(dir string, memory *memoryStores, logger hclog.Logger) (*raftStores, error) {
	stores, err := openStoresFor(dir, memory, logger, true)
	if err == nil {
		stores.log.LogStore = keptLog{stores.log.LogStore}
	}
	return stores, err
}

// keptLog is a log that is read only. settleLog says what counts by what it returns:
// the entries that it drops need not be gone.
type keptLog struct{ raft.LogStore }

func (keptLog) DeleteRange(uint64, uint64) error { return nil }

func openStoresFor(dir string, memory *memoryStores, logger hclog.Logger, readOnly bool) (*raftStores, error) {
	if dir == "" {
		if memory == nil {
			memory = new(memoryStores)
		}
		memory.open()
		return &raftStores{log: &watchedLog{LogStore: memory.log}, stable: &voteStore{StableStore: memory.log},
			snapshots: &snapshotStore{SnapshotStore: memory.snapshots},
			close:     func() error { return nil }}, nil
	}
	path := filepath.Join(dir, "log.db")
	if info, err := os.Stat(path); readOnly && (errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0) {
		snapshots, err := openSnapshots(dir, logger, readOnly)
		if err != nil {
			return nil, err
		}
		empty := new(memoryStores).open()
		return &raftStores{log: &watchedLog{LogStore: empty.log}, stable: &voteStore{StableStore: empty.log},
			snapshots: snapshots, path: path, close: func() error { return nil }}, nil
	}
	bolt, err := openBolt(path, readOnly)
	if err != nil {
		return nil, err
	}
	snapshots, err := openSnapshots(dir, logger, readOnly)
	if err != nil {
		bolt.Close()
		return nil, err
	}
	// Followers mostly want what was just appended.
	summed := &checkedLog{LogStore: bolt, path: path}
	cache, err := raft.NewLogCache(512, summed)
	if err != nil {
		bolt.Close()
		return nil, fmt.Errorf("node: open log: %w", err)
	}
	return &raftStores{log: &watchedLog{LogStore: cache}, summed: summed, stable: &voteStore{StableStore: bolt}, snapshots: snapshots, path: path, close: bolt.Close}, nil
}

// openBolt opens the log's file. Without these options an append to an aged file
// writes the whole list of free pages, and a second process waits for ever.
func openBolt(path string, readOnly bool) (store *raftboltdb.BoltStore, err error) {
	defer func() {
		// bbolt panics over some kinds of damage instead of returning an error.
		if cause := recover(); cause != nil {
			if store != nil {
				store.Close()
			}
			store, err = nil, &DamagedLogError{Path: path, Cause: fmt.Errorf("%v", cause)}
		}
	}()
	info, missing := os.Stat(path)
	if missing == nil && info.Size() > 0 {
		if err := walkBolt(path); err != nil {
			return nil, boltError(path, err)
		}
	}
	options := *bbolt.DefaultOptions
	options.Timeout = storeLockTimeout
	options.NoFreelistSync = true
	options.FreelistType = bbolt.FreelistMapType
	options.ReadOnly = readOnly
	store, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &options})
	if err != nil {
		return nil, boltError(path, err)
	}
	if readOnly {
		if _, err := store.FirstIndex(); err != nil { // panics where nothing was ever written
			store.Close()
			return nil, boltError(path, err)
		}
		return store, nil
	}
	if missing != nil { // a new file is there after a power cut only if its folder says so
		if err := secret.SyncFolder(filepath.Dir(path)); err != nil {
			store.Close()
			return nil, err
		}
	}
	return store, nil
}

// walkBolt reads every page that the log's file should have. bbolt does so itself
// when it opens a file to write, on a goroutine whose panic nobody can catch.
func walkBolt(path string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a page beyond the end
	defer func() {
		if cause := recover(); cause != nil {
			err = &DamagedLogError{Path: path, Cause: fmt.Errorf("%v", cause)}
		}
	}()
	file, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: storeLockTimeout})
	if err != nil {
		return err
	}
	defer file.Close()
	return file.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

func boltError(path string, err error) error {
	var damaged *DamagedLogError
	switch {
	case errors.As(err, &damaged):
		return err
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("node: open log %s: %w", path, ErrInUse)
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum), errors.Is(err, bbolterrors.ErrVersionMismatch):
		return &DamagedLogError{Path: path, Cause: err}
	}
	return fmt.Errorf("node: open log: %w", err)
}

// DamagedLogError refuses a start, or ends the log: part of the log or of a
// snapshot cannot be read, or is not what was written.
type DamagedLogError struct {
	Path  string
	Cause error
}

func (e *DamagedLogError) Error() string {
	return fmt.Sprintf("node: %s is damaged: %v; remove this node from the cluster and join with an empty data folder; where no member has a log that is whole, go on from a backup (nodectl cluster restore)", e.Path, e.Cause)
}

func (e *DamagedLogError) Unwrap() error { return e.Cause }
