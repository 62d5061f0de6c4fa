package node

import (
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// keyOwner is where the stable store says whose it is: node ID, space, cluster ID,
// in hex.
const keyOwner = "Owner"

// ForeignLogError refuses a log or a snapshot that is not this node's: it was put
// into this data folder from another one.
type ForeignLogError struct {
	Path  string // of the folder
	Owner string // whose it is
	Self  string // who this is
}

func (e *ForeignLogError) Error() string {
	return fmt.Sprintf("node: start refused: %s is of %s, and this is %s: it came from another data folder; "+
		"put this node's own back, or remove this node from the cluster and join with an empty data folder", e.Path, e.Owner, e.Self)
}

// settleOwner writes down whose stores these are when they are new, and refuses
// another's afterwards: its votes were not this node's, and its entries would be
// taken for what this cluster agreed on.
func (c *raftConfig) settleOwner(stores *raftStores, hasState bool) error {
	self := c.ID + " " + c.Cluster
	owner, err := stores.stable.Get([]byte(keyOwner))
	missing := err != nil && err.Error() == "not found" // as the stores say it
	switch {
	case err != nil && !missing:
		return fmt.Errorf("node: open log: %w", err)
	case missing && !hasState:
		if err := stores.stable.Set([]byte(keyOwner), []byte(self)); err != nil {
			return fmt.Errorf("node: open log: %w: %w", ErrDisk, err)
		}
		return nil
	case missing:
		return &ForeignLogError{Path: c.Dir, Owner: "nobody who is named in it", Self: ownerWords(self)}
	case string(owner) != self:
		return &ForeignLogError{Path: c.Dir, Owner: ownerWords(string(owner)), Self: ownerWords(self)}
	}
	return c.checkSnapshot(stores.snapshots)
}

// checkSnapshot looks whose the newest snapshot is before the log is made to agree
// with it.
func (c *raftConfig) checkSnapshot(snapshots *snapshotStore) error {
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		return err
	}
	_, content, err := snapshots.Open(list[0].ID)
	if err != nil {
		return &DamagedLogError{Path: filepath.Join(c.Dir, "snapshots", list[0].ID), Cause: err}
	}
	defer content.Close()
	return c.Machine.Check(content)
}

func ownerWords(owner string) string {
	var node, cluster string
	if n, _ := fmt.Sscan(owner, &node, &cluster); n == 0 {
		return fmt.Sprintf("%.80q", owner)
	}
	return fmt.Sprintf("node %.32s of cluster %.32s", node, cluster)
}

func (s *raftStores) hasState() (bool, error) {
	has, err := raft.HasExistingState(s.log, s.stable, s.snapshots)
	if err != nil {
		return false, fmt.Errorf("node: open log: %w", err)
	}
	return has, nil
}
