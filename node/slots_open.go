package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// open enumerates the device and finds out what everything in it is. It deletes
// nothing. Slots that an operation has taken or changed meanwhile are left as
// that operation says.
func (t *slotTable) open(ctx context.Context) error {
	if t.areClean() {
		return t.device.usable()
	}
	if err := take(ctx, t.opening); err != nil {
		return err
	}
	defer give(t.opening)
	if err := t.device.usable(); err != nil || t.areClean() { // another one listed them
		return err
	}
	health := t.device.health.Load()
	t.mu.Lock()
	began, life := t.changes, t.life
	t.mu.Unlock()
	runs, damage, err := readRuns(t.device.node.files, health.Info.Serial)
	if err != nil {
		return err
	}
	listed, err := t.device.list(ctx)
	if err != nil {
		return fmt.Errorf("node: list the device's keys: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != life {
		return errors.New("node: the device was changed while its keys were listed")
	}
	t.foundDamaged(damage)
	if !t.isOpen {
		t.isOpen, t.runs, t.count = true, runs, health.Info.Slots
	}
	t.enter(listed, began)
	t.wake()
	t.device.node.upkeep.wakeUp()
	return nil
}

// areClean tells whether the table is open and knows what every slot holds.
func (t *slotTable) areClean() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isOpen && t.doubts == 0
}

func (t *slotTable) areOpen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isOpen
}

// enter takes over an enumeration that began when changes had this value. With
// mu held.
func (t *slotTable) enter(listed []hsm.Object, began uint64) {
	view := t.device.node.view()
	present := make(map[hsm.Slot]bool, len(listed))
	for _, object := range listed {
		present[object.Slot] = true
		if c := t.content[object.Slot]; c != nil && (c.since > began || c.use == slotTaken || c.use == slotResident) {
			continue
		}
		t.forgetFound(object.Slot)
		t.set(object.Slot, t.classify(view, object))
	}
	for slot, c := range t.content {
		if !present[slot] && c.since <= began && c.use != slotTaken {
			t.vanished(slot, c)
		}
	}
	t.free = t.free[:0]
	for _, run := range slices.Backward(t.runs.Runs) {
		for slot := min(run[1], hsm.Slot(t.count)); slot >= run[0]; slot-- {
			if t.content[slot] == nil {
				t.free = append(t.free, slot)
			}
		}
	}
}

// vanished drops what the device does not hold any more. With mu held.
func (t *slotTable) vanished(slot hsm.Slot, c *slotContent) {
	if r := t.held[c.ref]; c.use == slotResident && r != nil && r.slot == slot {
		r.pins.Add(-1 << 30)
		delete(t.held, c.ref)
		t.residents.Delete(c.ref)
		t.device.node.upkeep.gone(c.ref)
	}
	t.forgetFound(slot)
	t.changes++
	t.unset(slot)
}

func (t *slotTable) forgetFound(slot hsm.Slot) {
	if c := t.content[slot]; c != nil && c.use == slotFound && t.found[c.ref] == slot {
		delete(t.found, c.ref)
	}
}

// classify says what an object is, by its tag and the local state. With mu held.
func (t *slotTable) classify(view *fsm.View, object hsm.Object) slotContent {
	tag, ours := parseTag(object.Tag)
	c := slotContent{use: slotAside, tag: tag, object: object}
	if !ours {
		c.why = "it was not made by a custodian"
		return c
	}
	version, ok := view.VersionByRequest(tag.request)
	if !ok {
		return t.classifyOrphan(view, c)
	}
	c.ref = version.Ref()
	if key, ok := view.KeyByID(version.Key); !ok || key.Type != object.Type {
		c.why = "the key of its request is another one"
		return c
	}
	if !samePublic(object, version) {
		return t.loser(view, c)
	}
	if _, found := t.found[c.ref]; found || t.held[c.ref] != nil {
		c.use = slotSpare
		return c
	}
	c.use = slotFound
	t.found[c.ref] = object.Slot
	return c
}

// recognise finds the keys of objects that were listed before this state knew them:
// at a start the device is listed while the log is still being replayed.
func (t *slotTable) recognise(view *fsm.View) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for slot, c := range t.content {
		if c.use != slotOrphan && !(c.use == slotAside && c.early) {
			continue
		}
		if _, ok := view.VersionByRequest(c.tag.request); ok {
			t.set(slot, t.classify(view, c.object))
			t.device.node.upkeep.wakeUp()
		}
	}
}

// classifyOrphan: ours, and no key for it in this state, which may be old.
func (t *slotTable) classifyOrphan(view *fsm.View, c slotContent) slotContent {
	cluster, ok := view.Cluster()
	c.early = true
	switch {
	case !t.runs.holds(c.object.Slot):
		c.why = "this node did not reserve its slot"
	case !ok || c.tag.incarnation != cluster.Incarnation:
		c.why = fmt.Sprintf("it was made in incarnation %d of the cluster", c.tag.incarnation)
	default:
		c.use = slotOrphan
	}
	return c
}

// samePublic compares public keys where both are there; a proof compares the
// rest.
func samePublic(object hsm.Object, version *fsm.Version) bool {
	if object.Public == nil || len(version.Material.Public) == 0 {
		return true
	}
	public, err := x509.MarshalPKIXPublicKey(object.Public)
	return err == nil && bytes.Equal(public, version.Material.Public)
}

// DeviceObjects counts what is in a device.
type DeviceObjects struct {
	Slots    int // 0: not listed yet
	Resident int // proven keys
	Found    int // keys that are not proven yet
	Orphans  int // made for a request of which no key or another one came, to be deleted
	Aside    []AsideObject
}

// AsideObject is an object that is left alone until an operator decides.
type AsideObject struct {
	Slot        hsm.Slot
	Type        hsm.KeyType
	Label       string
	Incarnation uint64 // in which it was made; 0: not ours
	Why         string
}

func (t *slotTable) objects() DeviceObjects {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := DeviceObjects{Slots: t.count}
	if !t.isOpen {
		return DeviceObjects{}
	}
	for slot, c := range t.content {
		switch c.use {
		case slotResident:
			o.Resident++
		case slotFound, slotSpare:
			o.Found++
		case slotOrphan, slotRival:
			o.Orphans++
		case slotAside:
			o.Aside = append(o.Aside, AsideObject{slot, c.object.Type, printable(c.object.Label), c.tag.incarnation, c.why})
		}
	}
	slices.SortFunc(o.Aside, func(a, b AsideObject) int { return int(a.Slot) - int(b.Slot) })
	return o
}
