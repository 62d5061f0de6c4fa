package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// madeKey is an object in the device of which the backup is proven, and that
// only a commit is missing to be a key.
type madeKey struct {
	slot     hsm.Slot
	tag      objectTag
	object   hsm.Object
	material fsm.Material
}

// generate makes a key in one slot and proves its backup in another. After an
// error nothing is left in the device that was not known to be there.
func (r *keyRoom) generate(ctx context.Context, m *making) (*madeKey, error) {
	d := r.node.device
	if err := r.deviceFor(ctx, m); err != nil {
		return nil, err
	}
	slot, spare, resumed, err := r.twoSlots(ctx, m)
	if err != nil {
		return nil, err
	}
	made := &madeKey{slot: slot}
	if resumed != nil {
		made.tag, made.object = resumed.tag, resumed.object
	} else {
		made.tag = d.tag(r.node.view(), m.request)
		attributes := hsm.Attributes{Label: label(m.key.Name, m.n), Tag: made.tag.bytes()}
		made.object, err = fill(ctx, d, slot, func(device hsm.Device) (hsm.Object, error) {
			if m.adopt != nil {
				return device.Unwrap(ctx, slot, m.adopt, attributes)
			}
			return device.Generate(ctx, slot, m.key.Type, attributes)
		})
		if err != nil {
			d.slots.putBack(spare)
			return nil, fmt.Errorf("generate: %w", err)
		}
	}
	if err := r.backUp(ctx, m, made, spare); err != nil {
		if resumed != nil {
			d.slots.orphan(slot, made.tag, made.object)
		} else {
			d.slots.discard(ctx, slot)
		}
		return nil, err
	}
	return made, nil
}

// deviceFor makes sure that the device can make this key, and that the cluster
// knows the device.
func (r *keyRoom) deviceFor(ctx context.Context, m *making) error {
	d, view := r.node.device, r.node.view()
	if err := d.usableIn(view); err != nil {
		if _, lookErr := d.look(ctx); lookErr != nil || d.usable() != nil {
			return err
		}
	}
	if err := d.capable(m.key.Type); err != nil {
		return err
	}
	if !d.reported() {
		if err := d.report(ctx); err != nil {
			return fmt.Errorf("report the device: %w", err)
		}
		if !d.reported() {
			return errNotReported
		}
	}
	return d.slots.open(ctx)
}

func (d *deviceRoom) reported() bool {
	member, ok := d.node.view().Member(d.node.id)
	return ok && member.Device != nil && member.Device.Serial == d.serial()
}

// twoSlots takes a slot for the key and one for its proof. Where they are not free,
// one creation at a time waits for both: many that held one each could wait for
// ever. A retry goes on with the object that its first try left.
func (r *keyRoom) twoSlots(ctx context.Context, m *making) (slot, spare hsm.Slot, resumed *slotContent, err error) {
	slots := r.node.device.slots
	if slot, spare, ok := slots.takeTwo(m.request); ok {
		return slot, spare, nil, nil
	}
	if err := take(ctx, r.pairs); err != nil {
		return 0, 0, nil, err
	}
	defer give(r.pairs)
	if m.retry {
		slot, resumed = slots.claimOrphan(m.request)
	}
	if resumed == nil {
		if slot, err = slots.take(ctx, true); err != nil {
			return 0, 0, nil, fullError(r.node.device, err)
		}
	}
	if spare, err = slots.take(ctx, true); err != nil {
		if resumed != nil {
			slots.orphan(slot, resumed.tag, resumed.object)
		} else {
			slots.putBack(slot)
		}
		return 0, 0, nil, fullError(r.node.device, err)
	}
	return slot, spare, resumed, nil
}

func fullError(d *deviceRoom, err error) error {
	if !errors.Is(err, errNoRoom) {
		return err
	}
	return fmt.Errorf("device %s has no two slots for a new key and its proof: %w", d.serial(), hsm.ErrFull)
}

// fill does an operation that fills a taken slot. Where the device is out of
// memory, keys are evicted until it fits. After an error the slot is given back.
func fill(ctx context.Context, d *deviceRoom, slot hsm.Slot, op func(hsm.Device) (hsm.Object, error)) (hsm.Object, error) {
	for {
		object, err := withLogin(ctx, d, op)
		if err == nil {
			return object, nil
		}
		if errors.Is(err, hsm.ErrFull) && d.slots.makeRoom(ctx) == nil {
			continue
		}
		d.slots.tidy(ctx, slot, err)
		return hsm.Object{}, err
	}
}

// backUp wraps the key, unwraps it into the spare slot and has the copy prove
// itself. The copy is deleted.
func (r *keyRoom) backUp(ctx context.Context, m *making, made *madeKey, spare hsm.Slot) error {
	d := r.node.device
	blob, err := withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Wrap(ctx, made.slot) })
	if err == nil && len(blob) > fsm.MaxBlob {
		err = fmt.Errorf("the wrapped key has %d bytes: %d at most", len(blob), fsm.MaxBlob)
	}
	if err == nil {
		err = r.describe(ctx, m, made, blob)
	}
	if err != nil {
		d.slots.putBack(spare)
		return fmt.Errorf("wrap: %w", err)
	}
	attributes := hsm.Attributes{Label: label(m.key.Name, m.n), Tag: made.tag.bytes()}
	_, err = fill(ctx, d, spare, func(device hsm.Device) (hsm.Object, error) { return device.Unwrap(ctx, spare, blob, attributes) })
	if err != nil {
		return fmt.Errorf("unwrap again: %w", err)
	}
	defer d.slots.discard(ctx, spare)
	public, err := parsePublic(made.material.Public)
	if err != nil {
		return err
	}
	version := &fsm.Version{N: m.n, Request: m.request, Material: made.material}
	return d.prove(ctx, spare, &m.key, version, public)
}

// describe fills in what the cluster keeps of the key.
func (r *keyRoom) describe(ctx context.Context, m *making, made *madeKey, blob []byte) (err error) {
	d := r.node.device
	health := d.health.Load()
	made.material = fsm.Material{
		Blob: blob, BlobKind: d.token.Capabilities().BlobKind, KCV: dkek.KCV(health.DKEK.KCV),
		Maker: r.node.id, Serial: health.Info.Serial, Incarnation: made.tag.incarnation,
	}
	if m.key.Type.Symmetric() {
		made.material.Check, err = d.cmac(ctx, made.slot, fsm.CheckMessage(m.request))
		return err
	}
	if made.object.Public == nil {
		return errors.New("the device gave no public key")
	}
	made.material.Public, err = x509.MarshalPKIXPublicKey(made.object.Public)
	return err
}

// orphan leaves an object of which nobody knows whether a key came of it: a
// retry goes on with it, or the sweep finds out.
func (t *slotTable) orphan(slot hsm.Slot, tag objectTag, object hsm.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.content[slot]; c == nil || c.use != slotTaken {
		return
	}
	t.set(slot, slotContent{use: slotOrphan, tag: tag, object: object})
}

// claimOrphan takes the object that an earlier try of a request left.
func (t *slotTable) claimOrphan(request fsm.RequestID) (hsm.Slot, *slotContent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unclaimed[request] == 0 {
		return 0, nil
	}
	for slot, c := range t.content {
		if c.use == slotOrphan && c.tag.request == request {
			t.set(slot, slotContent{use: slotTaken, tag: c.tag})
			return slot, c
		}
	}
	return 0, nil
}
