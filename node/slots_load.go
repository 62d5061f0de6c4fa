package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// errDoubtful: an operation failed so that nobody knows what its slot holds.
var errDoubtful = errors.New("outcome unknown")

// keyLoad is one key on its way into the device; others wait for it.
type keyLoad struct {
	done chan struct{}
	err  error
}

// acquire returns a key's version, proven and pinned, and brings it into the
// device where it is not there. evict allows to make room for it. Whoever gets
// it calls release.
func (t *slotTable) acquire(ctx context.Context, key *fsm.Key, version *fsm.Version, evict bool) (*residence, error) {
	ref := version.Ref()
	for {
		if r := t.pin(ref); r != nil {
			return r, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t.mu.Lock()
		if !t.isOpen {
			t.mu.Unlock()
			if err := t.open(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if t.held[ref] != nil && t.held[ref].pins.Load() >= 0 {
			t.mu.Unlock()
			continue
		}
		running := t.loads[ref]
		if running == nil {
			running = &keyLoad{done: make(chan struct{})}
			t.loads[ref] = running
			t.mu.Unlock()
			r, err := t.load(ctx, key, version, evict)
			t.mu.Lock()
			if t.loads[ref] == running {
				delete(t.loads, ref)
			}
			t.mu.Unlock()
			running.err = err
			close(running.done)
			return r, err
		}
		t.mu.Unlock()
		select {
		case <-running.done:
			// What ended the other's load need not end this one: its context, or
			// that it may not evict.
			if err := running.err; err != nil && ctx.Err() == nil && !isContextError(err) && !errors.Is(err, errNoRoom) {
				return nil, err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// load puts a key into a slot, or takes over the object that is there already,
// and proves it.
func (t *slotTable) load(ctx context.Context, key *fsm.Key, version *fsm.Version, evict bool) (*residence, error) {
	d, ref := t.device, version.Ref()
	public, err := parsePublic(version.Material.Public)
	if err != nil {
		return nil, err
	}
	slot, tag, here := t.claimFound(ref)
	if !here {
		tag = d.tag(d.node.view(), version.Request)
		if slot, err = t.unwrap(ctx, key, version, tag, evict); err != nil {
			return nil, err
		}
	}
	if err := t.check(ctx, slot, key, version, public); err != nil {
		switch {
		case here && errors.Is(err, errWrongKey):
			t.lostTo(version, slot, tag)
			return t.load(ctx, key, version, evict) // from its blob
		case here:
			t.leave(slot) // the object is as it was; the next enumeration finds it again
		default:
			t.discard(ctx, slot)
		}
		return nil, err
	}
	r, err := t.settle(slot, ref, tag, public)
	if err == nil {
		d.node.upkeep.holds(ref)
		if now, ok := d.node.view().Version(ref.Key, ref.N); ok && !now.State.Live() {
			d.node.upkeep.wakeUp() // destroyed since check: upkeep has not seen the object yet
		}
	}
	return r, err
}

// check looks at the tombstones after the key is in the device, so that a
// Destroy that was applied meanwhile is seen here or sees the object there, and
// proves that the object is the key.
func (t *slotTable) check(ctx context.Context, slot hsm.Slot, key *fsm.Key, version *fsm.Version, public crypto.PublicKey) error {
	now, ok := t.device.node.view().Version(version.Key, version.N)
	if !ok || !now.State.Live() {
		return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("%s@%d is destroyed", key.Name, version.N)}
	}
	return t.device.prove(ctx, slot, key, version, public)
}

// setAside leaves an object alone until an operator decides.
func (t *slotTable) setAside(slot hsm.Slot, tag objectTag, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.content[slot]; c != nil && c.use == slotTaken {
		t.set(slot, slotContent{use: slotAside, tag: tag, object: hsm.Object{Slot: slot}, why: why})
	}
}

// claimFound takes the object that is this key by its tag.
func (t *slotTable) claimFound(ref fsm.VersionRef) (hsm.Slot, objectTag, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot, ok := t.found[ref]
	if !ok {
		return 0, objectTag{}, false
	}
	tag := t.content[slot].tag
	delete(t.found, ref)
	t.set(slot, slotContent{use: slotTaken, tag: tag})
	return slot, tag, true
}

// unwrap brings a key from its blob into an empty slot. A device can be out of
// memory with slots left: then keys are evicted until it fits.
func (t *slotTable) unwrap(ctx context.Context, key *fsm.Key, version *fsm.Version, tag objectTag, evict bool) (hsm.Slot, error) {
	d := t.device
	if capabilities := d.token.Capabilities(); !capabilities.Supports(key.Type) {
		return 0, fmt.Errorf("node: %s cannot hold keys of type %s: %w", d.serial(), key.Type, hsm.ErrUnsupported)
	}
	slot, err := t.take(ctx, evict)
	if err != nil {
		return 0, err
	}
	attributes := hsm.Attributes{Label: label(key.Name, version.N), Tag: tag.bytes()}
	for {
		object, err := withLogin(ctx, d, func(device hsm.Device) (hsm.Object, error) {
			return device.Unwrap(ctx, slot, version.Material.Blob, attributes)
		})
		if err == nil && !samePublic(object, version) {
			t.discard(ctx, slot)
			return 0, fmt.Errorf("%w: %s@%d unwraps to another public key", errWrongKey, key.Name, version.N)
		}
		if err == nil {
			return slot, nil
		}
		if errors.Is(err, hsm.ErrFull) && evict {
			if roomErr := t.makeRoom(ctx); roomErr == nil {
				continue
			}
		}
		t.tidy(ctx, slot, err)
		return 0, doing(err, "load %s@%d", key.Name, version.N)
	}
}

// tidy ends an operation that should have filled a slot and failed: a known
// failure left it empty, after any other what is there is deleted.
func (t *slotTable) tidy(ctx context.Context, slot hsm.Slot, err error) {
	var known *hsm.Error
	switch {
	case errors.As(err, &known) && errors.Is(err, hsm.ErrSlotUsed):
		t.leave(slot) // something is there that nobody knew of
	case errors.As(err, &known):
		t.putBack(slot)
	default:
		t.device.suspect()
		t.discard(ctx, slot)
	}
}

// discard deletes what an operation of ours left in its slot: a copy of a
// committed key, or a key that was certainly not proposed.
func (t *slotTable) discard(ctx context.Context, slot hsm.Slot) {
	if err := t.device.erase(ctx, slot); err != nil {
		t.device.node.logger.Warn("device: an object is left behind and looked at again", "slot", slot, "reason", err)
		t.leave(slot)
		return
	}
	t.putBack(slot)
}

// erase empties a slot. An error that is not errDoubtful means that the object
// is still there.
func (d *deviceRoom) erase(ctx context.Context, slot hsm.Slot) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	var err error
	for range 2 {
		_, err = withLogin(ctx, d, func(device hsm.Device) (struct{}, error) { return struct{}{}, device.Delete(ctx, slot) })
		var known *hsm.Error
		if err == nil || errors.Is(err, hsm.ErrNoKey) {
			return nil
		}
		if errors.As(err, &known) {
			return err
		}
		objects, listErr := d.list(ctx)
		if listErr != nil {
			return fmt.Errorf("%w: %w", errDoubtful, err)
		}
		gone := true
		for _, object := range objects {
			gone = gone && object.Slot != slot
		}
		if gone {
			return nil
		}
	}
	return err
}

// label is what people see in the device.
func label(name string, n uint64) string {
	text := fmt.Sprintf("%s@%d", name, n)
	return text[max(0, len(text)-hsm.MaxLabel):]
}
