package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

const (
	// upkeepEvery is how often each part of upkeep looks without being woken.
	upkeepEvery = 30 * time.Second
	// upkeepRetry is how long after a look that failed the next one is: most
	// wait for a leader, who is there in a moment.
	upkeepRetry = 2 * time.Second
	// upkeepPause is the least time between two looks, and upkeepShare how many
	// times longer than the last look it is: looking at every key must stay a
	// small part of the work while keys are made, see upkeepLonger.
	upkeepPause = 20 * time.Millisecond
	upkeepShare = 20
	// upkeepLonger is the longest such pause: a look that had much to do is soon
	// followed by the next.
	upkeepLonger = time.Second
	// loadPause is how long a restore steps back when keys were used meanwhile.
	loadPause = 2 * time.Millisecond
	// failedPause is how long a key that could not be loaded is left alone.
	failedPause = time.Minute
	// shortTime is how long after its creation a key may have others evicted, to
	// be in as many devices as its policy wants; maxServed bounds the memory of
	// those that had.
	shortTime = 10 * time.Minute
	maxServed = 10_000
)

// upkeepRoom makes the device agree with the log: it loads what the device
// should hold, says which keys it holds, deletes what an applied Destroy or
// Abort names, and nothing else.
type upkeepRoom struct {
	node     *Node
	waking   sync.Mutex      // nothing else is locked under it
	wakes    []chan struct{} // of the parts
	holding  *holdings
	progress atomic.Pointer[RestoreProgress]
	booted   atomic.Bool // a linearizable read was answered since the start

	mu     sync.Mutex
	failed map[fsm.VersionRef]time.Time // loads that failed, and when
	served map[fsm.VersionRef]struct{}  // young keys that room was made for, once
}

func newUpkeepRoom(n *Node) *upkeepRoom {
	u := &upkeepRoom{node: n, holding: newHoldings(), failed: make(map[fsm.VersionRef]time.Time), served: make(map[fsm.VersionRef]struct{})}
	u.progress.Store(&RestoreProgress{})
	return u
}

func (u *upkeepRoom) start() {
	u.part("reconcile", u.reconcile, fsm.TableVersions, fsm.TableSharings, fsm.TableCoverage, fsm.TableMembers)
	u.part("sweep", u.sweep, fsm.TableAborts)
	u.part("destroy", u.destroyDue, fsm.TableVersions)
	u.part("tombstones", u.bury, fsm.TableTombstones)
	u.node.run(u.cover)
}

// part runs one look whenever something may have changed. What fails is tried
// again at the next one.
func (u *upkeepRoom) part(name string, look func(context.Context) (time.Duration, error), tables ...fsm.Table) {
	changed := u.node.watch(tables...)
	wake := make(chan struct{}, 1)
	u.waking.Lock()
	u.wakes = append(u.wakes, wake)
	u.waking.Unlock()
	u.node.run(func(ctx context.Context) {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			case <-changed:
			case <-wake:
			}
			began := time.Now()
			again, err := look(ctx)
			if err != nil && ctx.Err() == nil {
				u.node.logger.Info("upkeep: not done yet", "part", name, "reason", err)
			}
			if !sleepFor(ctx, min(max(upkeepPause, upkeepShare*time.Since(began)), upkeepLonger)) {
				return
			}
			if again <= 0 || again > upkeepEvery {
				again = upkeepEvery
			}
			if err != nil {
				again = min(again, upkeepRetry)
			}
			timer.Reset(again)
		}
	})
}

// wakeUp has every part look again. It may be called with any other lock held.
func (u *upkeepRoom) wakeUp() {
	if u == nil {
		return
	}
	u.waking.Lock()
	defer u.waking.Unlock()
	for _, wake := range u.wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

func sleepFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RestoreProgress says how far a node's device is with the keys that it should
// hold.
type RestoreProgress struct {
	Total  int // versions that there are
	Done   int // in the device, proven since the start
	Failed int // that could not be loaded or proven; each is tried again
	Room   bool
	At     time.Time
}

// RestoreProgress returns the figures of the last look.
func (n *Node) RestoreProgress() RestoreProgress {
	if n.upkeep == nil {
		return RestoreProgress{}
	}
	return *n.upkeep.progress.Load()
}

// missing is a version that the device does not hold, proven.
type missing struct {
	version *fsm.Version
	short   bool // its maker waits for more devices to hold it: room is made for it
	found   bool // an object of it is there, not proven yet
}

// reconcile brings into the device what it should hold while there is room: what
// is there already and only wants a proof, then what too few devices hold, then
// the newest.
func (u *upkeepRoom) reconcile(ctx context.Context) (time.Duration, error) {
	d := u.node.device
	if err := d.usable(); err != nil {
		u.forgetCoverage(ctx)
		return 0, nil // the device room says so, and wakes us
	}
	if err := d.slots.open(ctx); err != nil {
		return time.Second, err
	}
	list, progress := u.lacking()
	u.report(progress)
	for i, m := range list {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if !progress.Room && !m.found && !m.short {
			continue
		}
		key, ok := u.node.view().KeyByID(m.version.Key)
		if !ok {
			continue
		}
		uses := d.slots.clock.Load()
		r, err := d.slots.acquire(ctx, key, m.version, m.short)
		switch {
		case err == nil:
			d.slots.release(r)
			progress.Done++
			if m.short {
				u.serve(m.version.Ref())
			}
			uses++ // that was ours
		case errors.Is(err, errNoRoom), errors.Is(err, hsm.ErrFull):
			progress.Room = false
		case ctx.Err() == nil:
			progress.Failed++
			u.loadFailed(m.version.Ref(), err)
		}
		progress.At = u.node.now()
		u.report(progress)
		if d.slots.clock.Load() > uses && i+1 < len(list) && !sleepFor(ctx, loadPause) {
			return 0, ctx.Err()
		}
		if d.usable() != nil {
			return time.Second, nil
		}
	}
	return 0, u.dropSpares(ctx)
}

// report shows a copy to whoever asks.
func (u *upkeepRoom) report(progress RestoreProgress) { u.progress.Store(&progress) }

// serve remembers that room was made for a key; the oldest memory is as good as
// none.
func (u *upkeepRoom) serve(ref fsm.VersionRef) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.served) >= maxServed {
		clear(u.served)
	}
	u.served[ref] = struct{}{}
}

func (u *upkeepRoom) loadFailed(ref fsm.VersionRef, err error) {
	var refused *fsm.Error
	if errors.As(err, &refused) {
		return // destroyed meanwhile
	}
	u.node.logger.Warn("upkeep: a key was not restored", "key", ref.Key, "version", ref.N, "reason", err)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed[ref] = time.Now()
}

// lacking compares the state with the device.
func (u *upkeepRoom) lacking() ([]missing, RestoreProgress) {
	d, view := u.node.device, u.node.view()
	d.slots.recognise(view)
	types := d.token.Capabilities()
	progress := RestoreProgress{Room: true, At: u.node.now()}
	var list []missing
	u.mu.Lock()
	defer u.mu.Unlock()
	for v := range view.AllVersions(fsm.VersionRef{}) {
		if !v.State.Live() {
			continue
		}
		ref := v.Ref()
		held, found := d.slots.holds(ref)
		u.holding.compare(view, u.node.id, ref, held)
		if !held && u.node.keys.isArriving(v.Request) {
			continue
		}
		progress.Total++
		if held {
			progress.Done++
			delete(u.failed, ref)
			continue
		}
		if at, ok := u.failed[ref]; ok && time.Since(at) < failedPause {
			progress.Failed++
			continue
		}
		key, ok := view.KeyByID(v.Key)
		if !ok || !types.Supports(key.Type) || v.Material.BlobKind != types.BlobKind && d.hardware.Load() {
			continue
		}
		list = append(list, missing{version: v, found: found, short: u.short(view, key, v)})
	}
	slices.SortStableFunc(list, func(a, b missing) int {
		switch {
		case a.found != b.found:
			return boolOrder(a.found)
		case a.short != b.short:
			return boolOrder(a.short)
		}
		return int(min(max(b.version.Created-a.version.Created, -1), 1))
	})
	return list, progress
}

// short tells whether a new key is not acknowledged yet because too few devices
// hold it. Only then does a full device evict another for it, and only once: the
// device is a cache, and which keys it holds follows from use.
func (u *upkeepRoom) short(view *fsm.View, key *fsm.Key, v *fsm.Version) bool {
	copies := copiesOf(view, key)
	if copies < 2 || view.Time()-v.Created > shortTime.Milliseconds() || len(view.Coverage(v.Key, v.N)) >= copies {
		return false
	}
	_, served := u.served[v.Ref()]
	return !served
}

func boolOrder(first bool) int {
	if first {
		return -1
	}
	return 1
}

// holds tells whether a version is in the device: proven, or found by its tag.
func (t *slotTable) holds(ref fsm.VersionRef) (held, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, found = t.found[ref]
	return t.held[ref] != nil, found
}

// dropSpares deletes second objects of keys: a proof that was cut off left them.
// Each is proven first: what is not the key is not ours to delete.
func (u *upkeepRoom) dropSpares(ctx context.Context) error {
	var errs []error
	for _, c := range u.node.device.slots.claimSpares() { // all are taken: each must be let go
		errs = append(errs, u.dropSpare(ctx, c))
	}
	return errors.Join(errs...)
}

// dropSpare deletes one, of which the caller has taken the slot.
func (u *upkeepRoom) dropSpare(ctx context.Context, c slotContent) error {
	d := u.node.device
	view := u.node.view()
	version, ok := view.Version(c.ref.Key, c.ref.N)
	var key *fsm.Key
	if ok {
		key, ok = view.KeyByID(c.ref.Key)
	}
	if !ok || !version.State.Live() {
		d.slots.leave(c.object.Slot)
		return nil
	}
	public, err := publicOf(version)
	if err == nil {
		err = d.prove(ctx, c.object.Slot, key, version, public)
	}
	switch {
	case err == nil:
		d.slots.discard(ctx, c.object.Slot)
		return nil
	case errors.Is(err, errWrongKey):
		d.slots.lostTo(version, c.object.Slot, c.tag)
		return nil
	}
	d.slots.leave(c.object.Slot)
	return err
}

// claimSpares takes the second objects of keys of which the first is proven.
func (t *slotTable) claimSpares() []slotContent {
	t.mu.Lock()
	defer t.mu.Unlock()
	var spares []slotContent
	for slot, c := range t.content {
		if c.use == slotSpare && t.held[c.ref] != nil {
			spares = append(spares, *c)
			t.set(slot, slotContent{use: slotTaken, tag: c.tag})
		}
	}
	return spares
}
