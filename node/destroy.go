package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// destroyDue is the leader's part: it commits the end of versions whose wait is
// over.
func (u *upkeepRoom) destroyDue(ctx context.Context) (time.Duration, error) {
	if !u.node.cluster.Load().log.IsLeader() {
		return 0, nil
	}
	now := u.node.now().UnixMilli()
	var due []fsm.VersionRef
	next := time.Duration(0)
	for v := range u.node.view().AllVersions(fsm.VersionRef{}) {
		if v.State != fsm.Pending {
			continue
		}
		if v.DeleteAfter <= now {
			due = append(due, v.Ref())
		} else if wait := time.Duration(v.DeleteAfter-now) * time.Millisecond; next == 0 || wait < next {
			next = wait
		}
	}
	for batch := range slices.Chunk(due, fsm.MaxItems/2) {
		proposing, cancel := context.WithTimeout(ctx, proposeTime)
		_, err := u.node.do(proposing, &fsm.Destroy{Items: batch})
		cancel()
		if err != nil {
			return time.Second, err // taken back meanwhile, or no quorum
		}
	}
	return next, nil
}

// bury deletes the destroyed versions that this device still has to confirm, and
// confirms what an enumeration made afterwards does not show. It also deletes those
// that are in the device although it has confirmed: a node that starts goes through
// states again in which they live, and may load them.
func (u *upkeepRoom) bury(ctx context.Context) (time.Duration, error) {
	d, view := u.node.device, u.node.view()
	named := make(map[fsm.RequestID]bool)
	refs := make(map[fsm.RequestID]fsm.VersionRef)
	mark := uint64(0)
	for stone := range view.Tombstones() {
		if !slices.Contains(stone.Awaiting, u.node.id) {
			continue
		}
		if version, ok := view.Version(stone.Key, stone.N); ok {
			named[version.Request], refs[version.Request] = true, version.Ref()
			mark = max(mark, stone.Index)
		}
	}
	for _, version := range d.slots.dead(view) {
		named[version.Request] = true
		mark = view.Index() // which is past its Destroy
	}
	if len(named) == 0 {
		return 0, nil
	}
	if h := d.health.Load(); d.usable() != nil && (h == nil || h.Info.State != hsm.Blank) {
		return 0, nil // it can be asked neither to delete nor what it holds
	}
	if err := u.boot(ctx); err != nil {
		return 0, err
	}
	if err := u.node.cluster.Load().log.SyncMark(mark); err != nil {
		return 0, err
	}
	if d.usable() == nil {
		if err := d.slots.open(ctx); err != nil {
			return time.Second, err
		}
	}
	left, err := d.deleteNamed(ctx, named)
	if left == nil {
		return time.Second, err
	}
	var confirmed []fsm.VersionRef
	for request, ref := range refs {
		if !left[request] {
			confirmed = append(confirmed, ref)
		}
	}
	errs := []error{err, u.confirm(ctx, confirmed)}
	if len(left) > 0 {
		return 100 * time.Millisecond, errors.Join(errs...) // still in use
	}
	return 0, errors.Join(errs...)
}

// dead are the destroyed versions of which the device holds an object.
func (t *slotTable) dead(view *fsm.View) (versions []*fsm.Version) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.content {
		if c.use != slotResident && c.use != slotFound && c.use != slotSpare {
			continue
		}
		if version, ok := view.Version(c.ref.Key, c.ref.N); ok && !version.State.Live() {
			versions = append(versions, version)
		}
	}
	return versions
}

func (u *upkeepRoom) confirm(ctx context.Context, refs []fsm.VersionRef) error {
	for batch := range slices.Chunk(refs, fsm.MaxItems) {
		proposing, cancel := context.WithTimeout(ctx, proposeTime)
		_, err := u.node.do(proposing, &fsm.DestroyConfirm{Node: u.node.id, Serial: u.node.device.serial(), Items: batch})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}
