package node

import (
	"context"
	"errors"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// A rival is an object that lost against another of the same request. A caller
// whose node died while it made a key asks the next node, under the same request
// ID; the key that is committed is of one of the two. A request makes one key for
// life, so that of the other none can ever come: the row that names the winner is
// as good as an Abort, and an Abort is not legal beside it.

// loser says what becomes of an object that is not the key of its request. What
// an orphan must be to be aborted, a rival must be too. With mu held.
func (t *slotTable) loser(view *fsm.View, c slotContent) slotContent {
	if c = t.classifyOrphan(view, c); c.use == slotOrphan {
		c.use = slotRival
	}
	return c
}

// lostTo leaves the caller's slot to an object that did not answer as this version,
// the one of its request.
func (t *slotTable) lostTo(version *fsm.Version, slot hsm.Slot, tag objectTag) {
	view := t.device.node.view()
	t.mu.Lock()
	if c := t.content[slot]; c != nil && c.use == slotTaken {
		t.set(slot, t.loser(view, slotContent{use: slotAside, tag: tag, ref: version.Ref(), object: hsm.Object{Slot: slot}}))
	}
	t.mu.Unlock()
	t.device.node.upkeep.wakeUp()
}

// rivals lists them.
func (t *slotTable) rivals() []orphan {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []orphan
	for slot, c := range t.content {
		if c.use == slotRival {
			list = append(list, orphan{slot, c.tag})
		}
	}
	return list
}

// claimRival takes a rival, if it still is one.
func (t *slotTable) claimRival(o orphan) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.content[o.slot]
	if c == nil || c.use != slotRival || c.tag != o.tag {
		return false
	}
	t.set(o.slot, slotContent{use: slotTaken, tag: o.tag})
	return true
}

// buryRivals deletes rivals, each once the newest state has named another winner
// and the object itself has answered that it is not that key.
func (u *upkeepRoom) buryRivals(ctx context.Context) error {
	slots := u.node.device.slots
	rivals := slots.rivals()
	if len(rivals) == 0 {
		return nil
	}
	if err := u.boot(ctx); err != nil {
		return err
	}
	view, err := u.node.consistent(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range rivals {
		if !u.node.keys.inFlight(o.tag.request) && slots.claimRival(o) {
			errs = append(errs, u.buryRival(ctx, view, o))
		}
	}
	return errors.Join(errs...)
}

// buryRival deletes one rival, of which the caller has taken the slot.
func (u *upkeepRoom) buryRival(ctx context.Context, view *fsm.View, o orphan) error {
	d := u.node.device
	version, ok := view.VersionByRequest(o.tag.request)
	var key *fsm.Key
	if ok {
		key, ok = view.KeyByID(version.Key)
	}
	if !ok || !version.State.Live() {
		d.slots.leave(o.slot) // a tombstone names it, or the next enumeration says what it is
		return nil
	}
	if u.isYounger(o.tag) {
		d.slots.setAside(o.slot, o.tag, whyYounger)
		return nil
	}
	public, err := publicOf(version)
	if err == nil {
		err = d.prove(ctx, o.slot, key, version, public)
	}
	switch {
	case errors.Is(err, errWrongKey):
		d.slots.discard(ctx, o.slot)
		u.node.logger.Info("upkeep: an object was deleted that lost against another of its request", "slot", o.slot, "request", o.tag.request)
		return nil
	case err != nil:
		d.slots.leave(o.slot)
		return err
	}
	d.slots.leave(o.slot)
	return nil
}
