package node

import (
	"context"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

// raiseEvery is how often a leader looks whether all members read a later command
// version, beside every change of the table of members.
const raiseEvery = 10 * time.Second

// raiseVersions has this node raise the command version while it leads, as soon as
// every member reads the next one. There is no way back to a build that does not.
func (n *Node) raiseVersions() {
	changed := n.watch(fsm.TableMembers)
	n.run(func(ctx context.Context) {
		ticker := time.NewTicker(raiseEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-ticker.C:
			}
			if err := n.raiseVersion(ctx); err != nil && ctx.Err() == nil {
				n.logger.Info("the command version could not be raised yet", "reason", err)
			}
		}
	})
}

// raiseVersion proposes the next command version where every member has reported
// that it reads it and says so now. The report alone could be from before somebody
// put an older build back, which has not come up yet.
func (n *Node) raiseVersion(ctx context.Context) error {
	view := n.view()
	cluster, ok := view.Cluster()
	if !ok || !n.Leads() || !allRead(view, cluster.Version+1) {
		return nil
	}
	n.face.askMembers(ctx, view)
	for m := range view.Members() {
		if n.face.readsTo(m) <= cluster.Version {
			return nil
		}
	}
	raise := &fsm.VersionRaise{Version: cluster.Version + 1}
	if _, err := n.do(ctx, raise); err != nil {
		return err
	}
	n.logger.Info("the command version is raised: builds that do not read it cannot come back", "from", cluster.Version, "to", raise.Version)
	return nil
}

// allRead tells whether every member has a row that it reads a version.
func allRead(view *fsm.View, version uint64) bool {
	for m := range view.Members() {
		if m.ReadsTo < version {
			return false
		}
	}
	return true
}

// readsTo is the command version that a member says it reads now, and zero for one
// that does not answer.
func (f *face) readsTo(m *fsm.Member) uint64 {
	if last := f.words.last(m.ID); m.ID != f.node.id && !last.lives {
		return 0
	}
	return f.said(m.ID).ReadsTo
}
