package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

// tendEvery is how often a leader compares Raft's configuration with the table
// of members, beside every change of the table.
const tendEvery = time.Second

// ownGroup is what a node's own Raft group has beyond a replicated log: members
// that this node, as its leader, adds and removes. A host's log has none of it;
// there the host says who is a member.
type ownGroup interface {
	replicatedLog
	Bootstrap(ctx context.Context) error
	AddMember(ctx context.Context, peer Peer) error
	Promote(ctx context.Context, id string) error
	RemoveMember(ctx context.Context, id string) error
}

var _ ownGroup = (*raftLog)(nil)

func (n *Node) raft() ownGroup { return n.cluster.Load().log.(ownGroup) }

// startMembers keeps connections, Raft's configuration and this node's own row
// in step with the table of members.
func (n *Node) startMembers() {
	n.server.HandleJoin(n.answerJoin)
	members := n.watch(fsm.TableMembers, fsm.TableRemoved)
	access := n.watch(fsm.TableRemoved, fsm.TableChanges, fsm.TableClients, fsm.TableGoverns)
	n.run(func(ctx context.Context) { n.tendMembers(ctx, members) })
	n.run(func(ctx context.Context) { n.cutRemoved(ctx, access) })
	remembered := n.watch(fsm.TableMembers)
	n.run(func(ctx context.Context) { n.rememberMembers(ctx, remembered) })
	n.run(n.announceAddress)
}

// tendMembers makes Raft's configuration what the table says, while this node
// leads. One step at a time: whatever fails is tried again at the next look.
func (n *Node) tendMembers(ctx context.Context, changed <-chan struct{}) {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
		if group := n.raft(); group.IsLeader() {
			if err := n.tend(ctx, group); err != nil && ctx.Err() == nil {
				n.logger.Info("members: not in step yet", "reason", err)
			}
		}
	}
}

func (n *Node) tend(ctx context.Context, group ownGroup) error {
	view := n.view()
	inRaft := make(map[string]logMember)
	for _, m := range group.Stats().Members {
		inRaft[m.ID] = m
	}
	var errs []error
	for m := range view.Members() {
		present, ok := inRaft[m.ID.String()]
		delete(inRaft, m.ID.String())
		peer := Peer{ID: m.ID.String(), Addr: m.Addr}
		switch {
		case !ok:
			errs = append(errs, group.AddMember(ctx, peer))
		case present.Addr != m.Addr:
			errs = append(errs, group.AddMember(ctx, peer)) // a voter stays one
		case !present.Voter:
			errs = append(errs, group.Promote(ctx, peer.ID)) // waits until it has caught up
		case !m.Voter:
			_, err := n.do(ctx, &fsm.MemberPromote{Node: m.ID})
			errs = append(errs, err)
		}
	}
	for id := range inRaft {
		errs = append(errs, group.RemoveMember(ctx, id))
	}
	return errors.Join(errs...)
}

// farewell is how long a removed member's connections stay: Raft tells it of its
// removal over them, so that it stops and says why, instead of waiting for ever
// for members that turn it away.
const farewell = time.Second

// cutRemoved closes the connections of whoever lost its place, and now and then
// those of members that this node believed in before it had caught up: their
// removal is no change of its state.
func (n *Node) cutRemoved(ctx context.Context, changed <-chan struct{}) {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	known := map[dkek.Fingerprint]bool{}
	var until time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if time.Now().After(until) {
				n.server.CutFormer()
			}
			continue
		case <-changed:
		}
		view := n.view()
		present := fingerprints(view)
		for f, member := range known {
			if _, there := present[f]; !there && member {
				until = time.Now().Add(farewell)
			} else if !there {
				n.server.Cut(transport.Fingerprint(f))
			}
		}
		known = present
		if removed, ok := view.Removed(n.id); ok {
			n.stop(removedAt(strconv.FormatUint(removed.Index, 10)))
			return
		}
	}
}

// removedFile says that this node's time as a member is over: the log index of
// its removal, in decimal. A removed node that is started again is told nothing by
// the others, and would wait for them for ever.
const removedFile = "removed"

func removedAt(index string) error {
	return fmt.Errorf("node: %w (log index %s)", ErrRemoved, index)
}

// noteRemoval writes the removal down, before anybody is told that this node has
// stopped.
func (n *Node) noteRemoval(index uint64) {
	if err := n.files.write(removedFile, strconv.AppendUint(nil, index, 10)); err != nil {
		n.logger.Warn("members: the removal is not written down", "reason", err)
	}
}

// wasRemoved refuses the start of a node that was told of its removal.
func (n *Node) wasRemoved() error {
	index, err := n.files.read(removedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("node: %s: %w", removedFile, err)
	}
	return removedAt(fmt.Sprintf("%.20s", index))
}

// fingerprints are those of everybody who may speak to this node, and whether they
// are members'.
func fingerprints(view *fsm.View) map[dkek.Fingerprint]bool {
	present := map[dkek.Fingerprint]bool{}
	for m := range view.Members() {
		present[m.Fingerprint] = true
	}
	for c := range view.Clients() {
		present[c.Fingerprint] = false
	}
	if cluster, ok := view.Cluster(); ok {
		for _, o := range cluster.Operators.Operators {
			present[o.Fingerprint()] = false
		}
	}
	return present
}

// rememberMembers writes down who is a member whenever that changes.
func (n *Node) rememberMembers(ctx context.Context, changed <-chan struct{}) {
	var last []memberIdentity
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		list := memberListOf(n.view())
		if learned := n.directory.learned.Load(); learned != nil && learned.Index > list.Index || slices.Equal(list.Members, last) {
			continue // behind what is written down, or the same
		}
		if err := n.directory.remember(list); err != nil {
			n.logger.Error("members: not written down", "reason", err)
			continue
		}
		last = list.Members
	}
}

func (n *Node) watch(tables ...fsm.Table) <-chan struct{} {
	return n.cluster.Load().state.watch(tables...)
}
