package node

import (
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/fsm"
)

// LogEnd is where a node's log ends. A later one contains what a majority agreed
// on as far as an earlier one does.
type LogEnd struct {
	Term  uint64 `cbor:"1,keyasint"`
	Index uint64 `cbor:"2,keyasint"`
}

func (e LogEnd) before(o LogEnd) bool {
	return e.Term < o.Term || e.Term == o.Term && e.Index < o.Index
}

// replayed is what a stopped node's snapshot and log give, to their very end: what
// was acknowledged is among it, and perhaps what never was.
type replayed struct {
	*state
	end    LogEnd
	term   uint64          // that the node has seen
	voters map[string]bool // node IDs in hex, as Raft's own configuration has them
}

// errNoLog: there is nothing to recover from.
var errNoLog = errors.New("this node's log is gone: recover at another node, or restore a backup: nodectl cluster restore")

// replay opens the stores as a start does, with the same refusals, and applies all
// that they hold.
func (s *Stopped) replay() (_ *replayed, err error) {
	n := s.node
	if err := n.wasRemoved(); err != nil {
		return nil, err
	}
	memory := (*memoryStores)(nil)
	if n.config.Memory != nil {
		memory = &n.config.Memory.log
	} else if _, err := os.Stat(n.logFolder()); err != nil {
		return nil, fmt.Errorf("node: replay: %w", errNoLog) // and none is made
	}
	stores, err := readStores(n.logFolder(), memory, raftLogger(n.logger))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	has, err := stores.hasState()
	if err != nil {
		return nil, err
	}
	if !has {
		return nil, fmt.Errorf("node: replay: %w", errNoLog)
	}
	r := &replayed{state: &state{Machine: fsm.New(), cluster: n.identityNow().cluster}, voters: map[string]bool{}}
	owner := &raftConfig{ID: n.id.String(), Cluster: r.cluster.String(), Dir: n.logFolder(), Machine: r.state}
	if err := owner.settleOwner(stores, has); err != nil {
		return nil, err
	}
	last, _, err := settleLog(stores.path, stores.log, stores.snapshots)
	if err != nil {
		return nil, err
	}
	if _, err := openMarkFor(s.markFile(), has, last); err != nil {
		return nil, err
	}
	if r.term, err = stores.stable.GetUint64([]byte(keyCurrentTerm)); err != nil {
		return nil, fmt.Errorf("node: replay: the term: %w", err)
	}
	if err := r.restore(stores.snapshots); err != nil {
		return nil, err
	}
	return r, r.applyTo(stores.log, last)
}

// restore begins with the newest snapshot, where there is one.
func (r *replayed) restore(snapshots raft.SnapshotStore) error {
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		return err
	}
	meta, content, err := snapshots.Open(list[0].ID)
	if err != nil {
		return fmt.Errorf("node: replay: %w", err)
	}
	defer content.Close()
	if err := r.Restore(content); err != nil {
		return err
	}
	r.end = LogEnd{meta.Term, meta.Index}
	r.configure(meta.Configuration)
	return nil
}

func (r *replayed) applyTo(log raft.LogStore, last uint64) error {
	for index := r.end.Index + 1; index <= last; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return fmt.Errorf("node: replay: entry %d: %w", index, err)
		}
		switch entry.Type {
		case raft.LogCommand:
			if _, err := r.Apply(index, entry.Data); err != nil {
				return fmt.Errorf("node: replay: entry %d: %w", index, err)
			}
		case raft.LogConfiguration:
			r.configure(raft.DecodeConfiguration(entry.Data))
		}
		r.end = LogEnd{entry.Term, index}
	}
	if _, ok := r.State().Cluster(); !ok {
		return errors.New("node: replay: this node has no state of the cluster yet: recover at another one")
	}
	return nil
}

func (r *replayed) configure(configuration raft.Configuration) {
	clear(r.voters)
	for _, server := range configuration.Servers {
		if server.Suffrage == raft.Voter {
			r.voters[string(server.ID)] = true
		}
	}
}

// isVoter: Raft's word or the state's. They differ for a moment when a member is
// promoted.
func (r *replayed) isVoter(m *fsm.Member) bool { return m.Voter || r.voters[m.ID.String()] }
