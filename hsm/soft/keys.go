package soft

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// reserve checks that a key of this type may go into this slot and keeps the
// slot for it. It returns the device's life and wrapping keys as of then.
func (d *Device) reserve(ctx context.Context, op string, slot hsm.Slot, keyType hsm.KeyType, attributes hsm.Attributes) (uint64, *keyblob.Keys, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(op); err != nil {
		return 0, nil, err
	}
	_, taken := d.reserved[slot]
	switch {
	case slot < 1 || int64(slot) > int64(d.slots):
		return 0, nil, d.fail(op, hsm.ErrBadSlot, "")
	case keyType != "" && typeNumbers[keyType] == 0:
		return 0, nil, d.fail(op, hsm.ErrUnsupported, d.unsupported(keyType))
	case len(attributes.Label) > hsm.MaxLabel || len(attributes.Tag) > hsm.MaxTag:
		return 0, nil, d.fail(op, hsm.ErrBadInput, "label or tag too long")
	case d.state.missing > 0:
		return 0, nil, d.fail(op, hsm.ErrSharesMissing, "")
	case taken || d.entries[slot] != nil:
		return 0, nil, d.fail(op, hsm.ErrSlotUsed, "")
	case d.occupied() >= d.slots:
		return 0, nil, d.fail(op, hsm.ErrFull, "")
	}
	d.reserved[slot] = struct{}{}
	return d.life, d.keys, nil
}

// occupied counts the slots with a key, or with one being made. A key that has
// just been stored is still reserved, and counts once.
func (d *Device) occupied() int {
	n := len(d.entries)
	for slot := range d.reserved {
		if d.entries[slot] == nil {
			n++
		}
	}
	return n
}

func (d *Device) release(slot hsm.Slot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.reserved, slot)
}

func (d *Device) unsupported(keyType hsm.KeyType) string {
	text := "the software device makes no " + string(keyType) + " keys, only"
	for i, t := range supported() {
		if i > 0 {
			text += ","
		}
		text += " " + string(t)
	}
	return text
}

// store puts a key into its reserved slot.
func (d *Device) store(op string, life uint64, slot hsm.Slot, keyType hsm.KeyType, k *key, attributes hsm.Attributes) (hsm.Object, error) {
	public, private, err := k.encode()
	if err != nil {
		return hsm.Object{}, d.fail(op, hsm.ErrUnsupported, err.Error())
	}
	r := keyRecord{slot: slot, keyType: keyType, label: []byte(attributes.Label), tag: attributes.Tag, public: public, private: private}
	record := r.encode()
	defer secret.Wipe(record)
	secret.Wipe(private)
	e := &entry{keyType: keyType, label: attributes.Label, tag: append([]byte(nil), attributes.Tag...)}
	if e.public, err = decodePublic(keyType, public); err != nil {
		return hsm.Object{}, d.fail(op, hsm.ErrUnsupported, err.Error())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(op); err != nil {
		return hsm.Object{}, err
	}
	if d.life != life {
		return hsm.Object{}, d.fail(op, hsm.ErrNotLoggedIn, initialisedMeanwhile)
	}
	if size := len(record) + 8 + secret.BoxOverhead; d.bytes > 0 && d.used+int64(size) > int64(d.bytes) {
		return hsm.Object{}, d.fail(op, hsm.ErrFull, "no key memory left")
	}
	if e.at, err = d.log.append(record); err != nil {
		return hsm.Object{}, d.fail(op, hsm.ErrStorage, err.Error())
	}
	d.used += int64(e.at.length)
	d.entries[slot] = e
	d.cache.add(e, k)
	return e.object(slot), nil
}

// Generate makes a key in an empty slot.
func (d *Device) Generate(ctx context.Context, slot hsm.Slot, keyType hsm.KeyType, attributes hsm.Attributes) (hsm.Object, error) {
	const op = "generate"
	life, _, err := d.reserve(ctx, op, slot, keyType, attributes)
	if err != nil {
		return hsm.Object{}, err
	}
	defer d.release(slot)
	k, err := generate(keyType)
	if err != nil {
		return hsm.Object{}, d.fail(op, hsm.ErrUnsupported, err.Error())
	}
	return d.store(op, life, slot, keyType, k, attributes)
}

// List returns every key, in slot order.
func (d *Device) List(ctx context.Context) ([]hsm.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.ready("list"); err != nil {
		return nil, err
	}
	objects := make([]hsm.Object, 0, len(d.entries))
	for _, slot := range slices.Sorted(maps.Keys(d.entries)) {
		objects = append(objects, d.entries[slot].object(slot))
	}
	return objects, nil
}

// Delete empties a slot. What lay in it leaves the file when that is compacted.
func (d *Device) Delete(ctx context.Context, slot hsm.Slot) error {
	const op = "delete"
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(op); err != nil {
		return err
	}
	if d.entries[slot] == nil {
		return d.fail(op, hsm.ErrNoKey, "")
	}
	if _, err := d.log.append(encodeDelete(slot)); err != nil {
		return d.fail(op, hsm.ErrStorage, err.Error())
	}
	d.forget(slot)
	d.compact()
	return nil
}

// Wrap returns the key as a SmartCard-HSM blob. Each call's blob differs.
func (d *Device) Wrap(ctx context.Context, slot hsm.Slot) ([]byte, error) {
	const op = "wrap"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := d.key(op, slot)
	if err != nil {
		return nil, err
	}
	d.mu.RLock()
	keys := d.keys
	d.mu.RUnlock()
	if keys == nil {
		return nil, d.fail(op, hsm.ErrSharesMissing, "")
	}
	blob, err := keys.Wrap(k.portable())
	switch {
	case errors.Is(err, keyblob.ErrWiped):
		return nil, d.interrupted(op)
	case errors.Is(err, keyblob.ErrUnsupported):
		return nil, d.fail(op, hsm.ErrUnsupported, err.Error())
	case err != nil:
		return nil, d.fail(op, hsm.ErrStorage, "the stored key is not whole: "+err.Error())
	}
	return blob, nil
}

// Unwrap puts a wrapped key into an empty slot.
func (d *Device) Unwrap(ctx context.Context, slot hsm.Slot, blob []byte, attributes hsm.Attributes) (hsm.Object, error) {
	const op = "unwrap"
	life, keys, err := d.reserve(ctx, op, slot, "", attributes)
	if err != nil {
		return hsm.Object{}, err
	}
	defer d.release(slot)
	wrapped, err := keys.Unwrap(blob)
	if errors.Is(err, keyblob.ErrWiped) {
		return hsm.Object{}, d.interrupted(op)
	}
	if err != nil {
		return hsm.Object{}, d.fail(op, blobError(err), err.Error())
	}
	keyType, k, err := fromPortable(wrapped)
	if err != nil {
		wrapped.Wipe()
		return hsm.Object{}, d.fail(op, hsm.ErrUnsupported, err.Error())
	}
	return d.store(op, life, slot, keyType, k, attributes)
}

// blobError says what is wrong with a blob in the words of hsm.
func blobError(err error) error {
	switch {
	case errors.Is(err, keyblob.ErrWrongDKEK):
		return hsm.ErrWrongDKEK
	case errors.Is(err, keyblob.ErrUnsupported):
		return hsm.ErrUnsupported
	}
	return hsm.ErrBadBlob
}

// interrupted is an operation under which the DKEK was taken away.
func (d *Device) interrupted(op string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.ready(op); err != nil {
		return err
	}
	return d.fail(op, hsm.ErrNotLoggedIn, initialisedMeanwhile)
}

const initialisedMeanwhile = "the device was initialised meanwhile"
