package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

const (
	// slotRun is how many slots are reserved at once, at least: one file write for
	// so many new keys. Where a device has many, it is one in slotShare of them.
	slotRun, slotShare = 64, 128
	// evictionSample is how many keys that nobody uses are compared to find one
	// to evict. Up to this number of keys the least recently used one goes.
	evictionSample = 64
	// A device without memory that holds no key to evict is asked again so often
	// and after so long.
	fullRetries = 20
	fullPause   = 20 * time.Millisecond
	// cleanupTime bounds a deletion that must be tried although whoever asked
	// has gone.
	cleanupTime = 30 * time.Second
)

// errNoRoom: the device has no free slot and nothing may be evicted for this.
var errNoRoom = errors.New("node: the device is full")

// slotTable is the one allocator of the device's slots. A slot is free, taken by
// one operation, or holds an object. A key that was proven is a residence, which
// is pinned for the whole of every use; only unpinned ones, of which the blob is
// committed, are evicted to make room.
type slotTable struct {
	device    *deviceRoom
	residents sync.Map     // fsm.VersionRef to *residence: the way that every use goes
	clock     atomic.Int64 // counts uses, for eviction
	waiting   atomic.Int32 // operations that wait for a slot

	opening   chan struct{} // one enumeration at a time
	reserving chan struct{} // one change of the file at a time

	mu        sync.Mutex
	isOpen    bool
	life      uint64 // counts closings
	count     int    // slots of the device
	changes   uint64 // counts changes of content
	content   map[hsm.Slot]*slotContent
	unclaimed map[fsm.RequestID]int         // orphans of each request
	doubts    int                           // slots whose content is in doubt
	held      map[fsm.VersionRef]*residence // the same as residents
	found     map[fsm.VersionRef]hsm.Slot   // of an object that is not proven yet
	loads     map[fsm.VersionRef]*keyLoad
	runs      slotRuns
	damaged   error // what was wrong with the file of the runs
	free      []hsm.Slot
	freed     chan struct{} // closed when a slot may have become free
}

// residence is a proven key in a slot.
type residence struct {
	ref    fsm.VersionRef
	slot   hsm.Slot
	tag    objectTag
	public crypto.PublicKey // nil for AES
	pins   atomic.Int32     // uses under way; below 0: it is gone
	used   atomic.Int64     // clock of the last use
}

// slotUse says what a slot holds.
type slotUse uint8

const (
	slotTaken    slotUse = iota + 1 // an operation is at work there
	slotResident                    // a proven key
	slotFound                       // a key's object by its tag, not proven yet
	slotSpare                       // the second object of a key
	slotOrphan                      // ours, and no key was committed for it
	slotRival                       // ours, and another object became the key of its request
	slotAside                       // not to be touched but by an operator's command
	slotDoubtful                    // an operation failed and nobody knows
)

type slotContent struct {
	use    slotUse
	since  uint64 // of changes
	tag    objectTag
	ref    fsm.VersionRef
	object hsm.Object
	why    string // of slotAside
	early  bool   // of slotAside: because no key of its request was known, which may change
}

func newSlotTable(d *deviceRoom) *slotTable {
	t := &slotTable{device: d, opening: make(chan struct{}, 1), reserving: make(chan struct{}, 1), freed: make(chan struct{})}
	t.reset()
	return t
}

func (t *slotTable) reset() {
	t.content, t.unclaimed, t.doubts = make(map[hsm.Slot]*slotContent), make(map[fsm.RequestID]int), 0
	t.held = make(map[fsm.VersionRef]*residence)
	t.found = make(map[fsm.VersionRef]hsm.Slot)
	t.loads = make(map[fsm.VersionRef]*keyLoad)
	t.free, t.runs = nil, slotRuns{}
}

// close forgets everything: the device was changed, wiped or lost. Uses under
// way end as the device lets them.
func (t *slotTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life++ // also where a listing under way would open it
	if !t.isOpen {
		return
	}
	t.isOpen = false
	for ref, r := range t.held {
		r.pins.Add(-1 << 30)
		t.residents.Delete(ref)
	}
	t.reset()
	t.wake()
}

// wake lets everybody look again who waits for a slot. With mu held.
func (t *slotTable) wake() {
	close(t.freed)
	t.freed = make(chan struct{})
}

// pin returns a proven key, pinned until release, or nil if it is not here.
func (t *slotTable) pin(ref fsm.VersionRef) *residence {
	value, ok := t.residents.Load(ref)
	if !ok {
		return nil
	}
	r := value.(*residence)
	for {
		pins := r.pins.Load()
		if pins < 0 {
			return nil
		}
		if r.pins.CompareAndSwap(pins, pins+1) {
			r.used.Store(t.clock.Add(1))
			return r
		}
	}
}

// release ends a use.
func (t *slotTable) release(r *residence) {
	if r.pins.Add(-1) == 0 && t.waiting.Load() > 0 {
		t.mu.Lock()
		t.wake()
		t.mu.Unlock()
	}
}

// set says what a slot holds. With mu held.
func (t *slotTable) set(slot hsm.Slot, c slotContent) {
	t.unset(slot)
	t.changes++
	c.since = t.changes
	t.content[slot] = &c
	switch c.use {
	case slotDoubtful:
		t.doubts++
	case slotOrphan:
		t.unclaimed[c.tag.request]++
	}
}

// unset forgets a slot: it is empty. With mu held.
func (t *slotTable) unset(slot hsm.Slot) {
	c := t.content[slot]
	if c == nil {
		return
	}
	switch c.use {
	case slotDoubtful:
		t.doubts--
	case slotOrphan:
		if t.unclaimed[c.tag.request]--; t.unclaimed[c.tag.request] == 0 {
			delete(t.unclaimed, c.tag.request)
		}
	}
	delete(t.content, slot)
}

// take gives one empty slot to an operation. Where all are full it evicts, if
// it may, and waits while every key is in use.
func (t *slotTable) take(ctx context.Context, evict bool) (hsm.Slot, error) {
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	for {
		t.mu.Lock()
		if !t.isOpen {
			t.mu.Unlock()
			return 0, t.notOpen()
		}
		if len(t.free) > 0 {
			slot := t.takeFree()
			t.mu.Unlock()
			return slot, nil
		}
		room := t.runs.room(t.count)
		freed, hopeless := t.freed, len(t.held) == 0 && !t.busy()
		t.mu.Unlock()
		if room {
			if err := t.reserve(ctx); err != nil {
				return 0, err
			}
			continue
		}
		if !evict || hopeless {
			return 0, errNoRoom
		}
		slot, err := t.evict(ctx)
		if err != nil || slot != 0 {
			return slot, err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return 0, fmt.Errorf("node: all slots of the device are in use: %w", context.Cause(ctx))
		}
	}
}

// takeFree gives an empty slot that there is. With mu held.
func (t *slotTable) takeFree() hsm.Slot {
	last := len(t.free) - 1
	slot := t.free[last]
	t.free = t.free[:last]
	t.set(slot, slotContent{use: slotTaken})
	return slot
}

// takeTwo gives two empty slots where they are to be had without waiting, and the
// request has no object yet.
func (t *slotTable) takeTwo(request fsm.RequestID) (one, two hsm.Slot, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.isOpen || len(t.free) < 2 || t.unclaimed[request] > 0 {
		return 0, 0, false
	}
	return t.takeFree(), t.takeFree(), true
}

// busy tells whether some slot is taken and may become free. With mu held.
func (t *slotTable) busy() bool {
	for _, c := range t.content {
		if c.use == slotTaken {
			return true
		}
	}
	return false
}

func (t *slotTable) notOpen() error {
	if err := t.device.usable(); err != nil {
		return err
	}
	t.device.suspect()
	return fmt.Errorf("node: the device's keys are not listed yet: %w", hsm.ErrGone)
}

// putBack ends an operation that left its slot empty.
func (t *slotTable) putBack(slot hsm.Slot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.content[slot]; c == nil || c.use != slotTaken {
		return // closed meanwhile
	}
	t.changes++
	t.unset(slot)
	if t.runs.holds(slot) {
		t.free = append(t.free, slot)
	}
	t.wake()
}

// leave ends an operation that could not clear up: the next enumeration tells.
func (t *slotTable) leave(slot hsm.Slot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.content[slot]; c == nil || c.use != slotTaken {
		return
	}
	t.set(slot, slotContent{use: slotDoubtful})
	t.device.suspect()
}

// settle makes what an operation left in its slot a residence, pinned once. Where
// the key has one already, because its creation and a load met, that one is pinned
// and this object becomes a spare.
func (t *slotTable) settle(slot hsm.Slot, ref fsm.VersionRef, tag objectTag, public crypto.PublicKey) (*residence, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.content[slot]; !t.isOpen || c == nil || c.use != slotTaken {
		return nil, fmt.Errorf("node: the device was changed meanwhile: %w", hsm.ErrGone)
	}
	if old := t.held[ref]; old != nil && old.slot != slot {
		old.pins.Add(1) // it cannot be withdrawn meanwhile: that takes mu
		old.used.Store(t.clock.Add(1))
		t.set(slot, slotContent{use: slotSpare, tag: tag, ref: ref, object: hsm.Object{Slot: slot}})
		t.device.node.upkeep.wakeUp()
		return old, nil
	}
	r := &residence{ref: ref, slot: slot, tag: tag, public: public}
	r.pins.Store(1)
	r.used.Store(t.clock.Add(1))
	t.set(slot, slotContent{use: slotResident, tag: tag, ref: ref})
	if other, ok := t.found[ref]; ok { // listed while this one was on its way in
		spare := *t.content[other]
		spare.use = slotSpare
		delete(t.found, ref)
		t.set(other, spare)
		t.device.node.upkeep.wakeUp()
	}
	t.held[ref] = r
	t.residents.Store(ref, r)
	return r, nil
}

// withdrawLocked takes a key out of use if nobody uses it, and gives its slot to
// the caller.
func (t *slotTable) withdrawLocked(r *residence) bool {
	if t.held[r.ref] != r || !r.pins.CompareAndSwap(0, -1) {
		return false
	}
	delete(t.held, r.ref)
	t.residents.Delete(r.ref)
	t.set(r.slot, slotContent{use: slotTaken})
	return true
}

// restore undoes withdraw.
func (t *slotTable) restore(r *residence) {
	fresh, err := t.settle(r.slot, r.ref, r.tag, r.public)
	if err != nil {
		return
	}
	fresh.used.Store(r.used.Load())
	t.release(fresh)
}

// evict empties the slot of the key that was not used for longest, and gives it
// to the caller; 0 where every key is in use.
func (t *slotTable) evict(ctx context.Context) (hsm.Slot, error) {
	t.mu.Lock()
	var victim *residence
	for sampled := 0; ; sampled++ {
		victim = t.oldest()
		if victim == nil || t.withdrawLocked(victim) {
			break
		}
	}
	t.mu.Unlock()
	if victim == nil {
		return 0, nil
	}
	if err := t.device.erase(ctx, victim.slot); err != nil {
		if errors.Is(err, errDoubtful) {
			t.leave(victim.slot)
		} else {
			t.restore(victim)
		}
		return 0, fmt.Errorf("node: evict a key: %w", err)
	}
	t.device.node.upkeep.gone(victim.ref)
	return victim.slot, nil
}

// oldest samples the keys that nobody uses. With mu held.
func (t *slotTable) oldest() *residence {
	var oldest *residence
	sampled := 0
	for _, r := range t.held {
		if r.pins.Load() != 0 {
			continue
		}
		if oldest == nil || r.used.Load() < oldest.used.Load() {
			oldest = r
		}
		if sampled++; sampled == evictionSample {
			break
		}
	}
	return oldest
}

// makeRoom evicts one key and leaves its slot free: the device has slots left
// but no memory. It waits while every key is in use.
func (t *slotTable) makeRoom(ctx context.Context) error {
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	for idle := 0; idle < fullRetries; {
		t.mu.Lock()
		freed := t.freed
		if len(t.held) == 0 {
			idle++ // what is on its way in may soon be there to be evicted
		}
		t.mu.Unlock()
		slot, err := t.evict(ctx)
		if err != nil {
			return err
		}
		if slot != 0 {
			t.putBack(slot)
			return nil
		}
		timer := time.NewTimer(fullPause)
		select {
		case <-freed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errNoRoom
}
