package node

import (
	"context"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// DeleteAside deletes an object that was kept aside, at the word of an operator
// or of this machine's administrator. It may be the last copy of a key.
func (n *Node) DeleteAside(ctx context.Context, caller Caller, slot hsm.Slot) error {
	if err := n.mayDecideAside(caller); err != nil {
		return err
	}
	d := n.device
	if err := d.slots.open(ctx); err != nil {
		return err
	}
	if !d.slots.isAside(slot) || !d.slots.seize(slot) {
		return notFound("slot %d holds nothing that was kept aside", slot)
	}
	if err := d.erase(ctx, slot); err != nil {
		d.slots.leave(slot)
		return doing(err, "delete the object in slot %d", slot)
	}
	d.slots.putBack(slot)
	return d.sync(ctx)
}

// AdoptAside makes an object that was kept aside a key of this name, proven and
// committed like a new one. The object itself is deleted when that is done: the
// key has one of its own.
func (n *Node) AdoptAside(ctx context.Context, caller Caller, slot hsm.Slot, name string) (KeyInfo, error) {
	if err := n.mayDecideAside(caller); err != nil {
		return KeyInfo{}, err
	}
	d := n.device
	if err := d.slots.open(ctx); err != nil {
		return KeyInfo{}, err
	}
	objects, err := d.list(ctx)
	if err != nil {
		return KeyInfo{}, err
	}
	for _, object := range objects {
		if object.Slot != slot || !d.slots.isAside(slot) {
			continue
		}
		blob, err := withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Wrap(ctx, slot) })
		if err != nil {
			return KeyInfo{}, doing(err, "adopt the object in slot %d", slot)
		}
		m, err := n.keys.plan(ctx, caller, KeySpec{Name: name, Type: object.Type})
		if err != nil {
			return KeyInfo{}, doing(err, "adopt the object in slot %d", slot)
		}
		m.adopt = blob
		version, err := n.keys.make(ctx, m)
		if err != nil {
			return KeyInfo{}, doing(err, "adopt the object in slot %d", slot)
		}
		if err := n.DeleteAside(ctx, caller, slot); err != nil {
			n.logger.Warn("device: the adopted object is still kept aside", "slot", slot, "reason", err)
		}
		key, _ := n.view().KeyByID(version.Key)
		return keyInfo(n.view(), key), nil
	}
	return KeyInfo{}, notFound("slot %d holds nothing that was kept aside", slot)
}

func (n *Node) mayDecideAside(caller Caller) error {
	if err := n.keys.ready(); err != nil {
		return err
	}
	if caller.Kind == CallerOperator {
		if _, ok := n.view().Operator(caller.Fingerprint); ok {
			return nil
		}
	}
	if caller.Kind == CallerSocket || caller.Kind == CallerSelf {
		return nil
	}
	return &fsm.Error{Code: fsm.NotAllowed, Message: "only an operator or this machine's administrator decides about objects that were kept aside"}
}

func (t *slotTable) isAside(slot hsm.Slot) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.content[slot]
	return c != nil && c.use == slotAside
}
