package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// orphan is an object of ours of which no key came, as far as this node knows.
type orphan struct {
	slot hsm.Slot
	tag  objectTag
}

// whyYounger is why an object is kept aside that a state cannot speak about.
const whyYounger = "the state is older than this object: the cluster or this node was restored from an old copy"

// sweep finds out what became of objects without a key, and deletes those that
// an applied Abort names. Whichever is committed first, the key or its abort,
// wins.
func (u *upkeepRoom) sweep(ctx context.Context) (time.Duration, error) {
	d := u.node.device
	if d.usable() != nil {
		return 0, nil
	}
	var errs []error
	if orphans := d.slots.orphans(); len(orphans) > 0 {
		// Without a quorum an orphan may be a key of which this node has not
		// heard yet.
		if err := u.boot(ctx); err != nil {
			return 0, err
		}
		view, err := u.node.consistent(ctx)
		if err != nil {
			return 0, err
		}
		for _, o := range orphans {
			errs = append(errs, u.abort(ctx, view, o))
		}
	}
	errs = append(errs, u.buryRivals(ctx), u.buryAborted(ctx))
	return 0, errors.Join(errs...)
}

// boot makes one linearizable read in this boot, before which nothing is
// deleted.
func (u *upkeepRoom) boot(ctx context.Context) error {
	if u.booted.Load() {
		return nil
	}
	if _, err := u.node.consistent(ctx); err != nil {
		return err
	}
	u.booted.Store(true)
	return nil
}

// isYounger tells whether an object is younger than the log that this node was
// started with. No state that a node makes an object at is ahead of its log: that
// log is an old copy, and what it lacks may have been a key. The state cannot tell,
// since it grows past the object's index with new commands.
func (u *upkeepRoom) isYounger(tag objectTag) bool {
	return tag.index > u.node.cluster.Load().log.OpenedAt() && !u.node.keys.isOwn(tag.request)
}

// abort gives the request of one orphan up, unless a key came of it after all.
func (u *upkeepRoom) abort(ctx context.Context, view *fsm.View, o orphan) error {
	slots := u.node.device.slots
	if u.node.keys.inFlight(o.tag.request) {
		return nil
	}
	if _, ok := view.VersionByRequest(o.tag.request); ok {
		slots.recognise(view)
		return nil
	}
	if _, ok := view.Aborted(o.tag.request); ok {
		return nil
	}
	if u.isYounger(o.tag) {
		slots.asideOrphan(o, whyYounger)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	_, err := u.node.do(ctx, &fsm.Abort{Request: o.tag.request, Incarnation: o.tag.incarnation, Index: o.tag.index, Node: u.node.id})
	var refused *fsm.Error
	switch {
	case errors.Is(err, fsm.Exists):
		return nil // recognised when this node's state knows the key
	case errors.Is(err, fsm.WrongState):
		return nil // aborted for another node's object of the same request: ours comes after that
	case errors.As(err, &refused) && refused.Code == fsm.Conflict:
		slots.asideOrphan(o, refused.Message)
		return nil
	}
	return err
}

// buryAborted deletes the objects of this node's aborted requests, and confirms
// each after an enumeration that does not show it.
func (u *upkeepRoom) buryAborted(ctx context.Context) error {
	var own []*fsm.Aborted
	for a := range u.node.view().Aborts() {
		if a.Node == u.node.id && !u.node.keys.inFlight(a.Request) {
			own = append(own, a)
		}
	}
	if len(own) == 0 {
		return nil
	}
	if err := u.boot(ctx); err != nil {
		return err
	}
	named := make(map[fsm.RequestID]bool, len(own))
	for _, a := range own {
		if err := u.node.cluster.Load().log.SyncMark(a.Index); err != nil {
			return err
		}
		named[a.Request] = true
	}
	left, err := u.node.device.deleteNamed(ctx, named)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range own {
		if left[a.Request] {
			continue
		}
		confirming, cancel := context.WithTimeout(ctx, proposeTime)
		_, err := u.node.do(confirming, &fsm.AbortConfirm{Request: a.Request, Node: u.node.id})
		cancel()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// deleteNamed deletes the objects of these requests, which an applied Abort or
// Destroy names, and enumerates again: left are the requests of which something
// is still in the device. What the device holds is what it lists, not what this
// process believes.
func (d *deviceRoom) deleteNamed(ctx context.Context, named map[fsm.RequestID]bool) (left map[fsm.RequestID]bool, err error) {
	listed, err := d.enumerate(ctx)
	if err != nil {
		return nil, err
	}
	view := d.node.view()
	var errs []error
	for _, object := range listed {
		if !d.isNamed(view, object, named) || !d.slots.seize(object.Slot) {
			continue
		}
		if err := d.erase(ctx, object.Slot); err != nil {
			d.slots.leave(object.Slot)
			errs = append(errs, fmt.Errorf("node: delete the object in slot %d: %w", object.Slot, err))
			continue
		}
		d.slots.putBack(object.Slot)
	}
	if err := d.sync(ctx); err != nil && len(listed) > 0 {
		return nil, errors.Join(append(errs, err)...)
	}
	if listed, err = d.enumerate(ctx); err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	left = make(map[fsm.RequestID]bool)
	for _, object := range listed {
		if d.isNamed(view, object, named) {
			tag, _ := parseTag(object.Tag)
			left[tag.request] = true
		}
	}
	return left, errors.Join(errs...)
}

// isNamed tells whether an object is one of the requests'. One with the request
// of a key and another public half is not that key.
func (d *deviceRoom) isNamed(view *fsm.View, object hsm.Object, named map[fsm.RequestID]bool) bool {
	tag, ours := parseTag(object.Tag)
	if !ours || !named[tag.request] {
		return false
	}
	version, ok := view.VersionByRequest(tag.request)
	return !ok || samePublic(object, version)
}

// enumerate lists what is in the device; nothing is in a blank one.
func (d *deviceRoom) enumerate(ctx context.Context) ([]hsm.Object, error) {
	info, err := d.token.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.State == hsm.Blank {
		return nil, nil
	}
	return d.list(ctx)
}

// orphans are the objects of ours without a key.
func (t *slotTable) orphans() []orphan {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []orphan
	for slot, c := range t.content {
		if c.use == slotOrphan {
			list = append(list, orphan{slot, c.tag})
		}
	}
	return list
}

func (t *slotTable) asideOrphan(o orphan, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.content[o.slot]; c != nil && c.use == slotOrphan && c.tag == o.tag {
		t.set(o.slot, slotContent{use: slotAside, tag: o.tag, object: c.object, why: why, early: true})
		t.device.suspect()
	}
}

// seize takes a slot of which the object is to be deleted, if no operation is at
// work there.
func (t *slotTable) seize(slot hsm.Slot) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.content[slot]
	switch {
	case !t.isOpen || c != nil && c.use == slotTaken:
		return false
	case c != nil && c.use == slotResident:
		r := t.held[c.ref]
		return r != nil && t.withdrawLocked(r)
	}
	t.forgetFound(slot)
	t.set(slot, slotContent{use: slotTaken})
	return true
}
