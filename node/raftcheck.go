package node

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// settleLog makes log and newest snapshot agree before Raft looks at them, and
// returns the last index that the two hold.
//
// The snapshot is committed; a log with another term at its index differs from
// the cluster's there and in all that follows. Raft would never notice, and its
// leader would send a snapshot again and again: such a log goes. Term and vote
// stay, they are promises.
//
// Entries from before the snapshot that end short of it are leftovers of a
// follower that was sent one. They go too; what follows the snapshot was
// acknowledged and stays. A gap in that is damage, and is refused.
func settleLog(path string, log raft.LogStore, snapshots raft.SnapshotStore) (last uint64, dropped string, err error) {
	var snapshot raft.SnapshotMeta
	list, err := snapshots.List()
	if err != nil {
		return 0, "", fmt.Errorf("node: list snapshots: %w", err)
	}
	if len(list) > 0 {
		snapshot = *list[0]
	}
	first, err := log.FirstIndex()
	if err != nil {
		return 0, "", fmt.Errorf("node: read log: %w", err)
	}
	last, err = log.LastIndex()
	if err != nil {
		return 0, "", fmt.Errorf("node: read log: %w", err)
	}
	if last == 0 {
		return snapshot.Index, "", nil
	}

	at, found, err := entryAt(log, snapshot.Index)
	if err != nil {
		return 0, "", err
	}
	switch {
	case found && at.Term != snapshot.Term:
		if err := log.DeleteRange(first, last); err != nil {
			return 0, "", fmt.Errorf("node: drop a log that differs from its snapshot: %w", err)
		}
		return snapshot.Index, fmt.Sprintf("entries %d to %d: entry %d is of term %d, but of term %d in the snapshot",
			first, last, at.Index, at.Term, snapshot.Term), nil
	case !found && first <= snapshot.Index:
		if err := log.DeleteRange(first, snapshot.Index); err != nil {
			return 0, "", fmt.Errorf("node: drop entries that a snapshot replaced: %w", err)
		}
		dropped = fmt.Sprintf("entries from %d that the snapshot at %d replaced", first, snapshot.Index)
	}
	if last <= snapshot.Index {
		return snapshot.Index, dropped, nil
	}
	for index := snapshot.Index + 1; index <= last; index++ {
		if _, found, err := entryAt(log, index); err != nil {
			return 0, "", err
		} else if !found {
			return 0, "", &DamagedLogError{Path: path, Cause: fmt.Errorf(
				"entry %d is missing (the newest snapshot ends at %d, the log at %d)", index, snapshot.Index, last)}
		}
	}
	return last, dropped, nil
}

// entryAt reads one entry; index 0 is never found.
func entryAt(log raft.LogStore, index uint64) (entry raft.Log, found bool, err error) {
	if index == 0 {
		return entry, false, nil
	}
	err = log.GetLog(index, &entry)
	if errors.Is(err, raft.ErrLogNotFound) {
		return entry, false, nil
	}
	var damaged *DamagedLogError
	if errors.As(err, &damaged) {
		return entry, false, err
	}
	if err != nil {
		return entry, false, fmt.Errorf("node: read entry %d: %w", index, err)
	}
	return entry, true, nil
}
