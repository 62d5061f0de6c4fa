package hsmtest

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
)

func (s Suite) slots(t *testing.T) {
	b := s.ready(t, nil)
	ctx := t.Context()
	keyType := s.small(b)
	info, err := b.Info(ctx)
	b.ok(err, "Info")
	for _, slot := range []hsm.Slot{0, hsm.Slot(info.Slots) + 1, 1<<32 - 1} {
		_, err := b.Generate(ctx, slot, keyType, hsm.Attributes{})
		b.refused(err, hsm.ErrBadSlot, fmt.Sprintf("Generate in slot %d of %d", slot, info.Slots))
		b.refused(b.Delete(ctx, slot), hsm.ErrNoKey, fmt.Sprintf("Delete slot %d", slot))
	}
	if objects := b.list(); len(objects) != 0 {
		t.Errorf("%d keys in an empty device", len(objects))
	}
	b.generate(7, keyType)
	first := b.generate(2, keyType)
	_, err = b.Generate(ctx, 7, keyType, hsm.Attributes{})
	b.refused(err, hsm.ErrSlotUsed, "Generate in a used slot")
	_, err = b.Generate(ctx, 3, "rsa-1", hsm.Attributes{})
	b.refused(err, hsm.ErrUnsupported, "Generate of an unknown type")

	// A device that is full refuses and keeps what it has.
	made := 2
	for slot := 1; slot <= min(info.Slots, 300); slot++ {
		if slot == 2 || slot == 7 {
			continue
		}
		if _, err = b.Generate(ctx, hsm.Slot(slot), keyType, hsm.Attributes{}); err != nil {
			b.refused(err, hsm.ErrFull, "Generate in a full device")
			break
		}
		made++
	}
	objects := b.list()
	if len(objects) != made {
		t.Fatalf("List has %d keys of %d", len(objects), made)
	}
	for i := 1; i < len(objects); i++ {
		if objects[i-1].Slot >= objects[i].Slot {
			t.Fatal("List is not in slot order")
		}
	}
	full, err := b.Info(ctx)
	b.ok(err, "Info")
	if full.FreeSlots > info.Slots-made {
		t.Errorf("%d slots free after %d keys in %d", full.FreeSlots, made, info.Slots)
	}

	b.ok(b.Delete(ctx, 2), "Delete")
	b.refused(b.Delete(ctx, 2), hsm.ErrNoKey, "Delete twice")
	_, err = b.Wrap(ctx, 2)
	b.refused(err, hsm.ErrNoKey, "Wrap of an empty slot")
	_, err = b.Sign(ctx, 2, random(32), hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
	b.refused(err, hsm.ErrNoKey, "Sign with an empty slot")
	if again := b.generate(2, keyType); first.Public != nil && samePublic(again.Public, first.Public) {
		t.Error("a new key in an old slot has the old public key")
	}
}

func (s Suite) attributes(t *testing.T) {
	b := s.ready(t, nil)
	ctx := t.Context()
	keyType := s.small(b)
	tag := bytes.Repeat([]byte{0, 0xff}, hsm.MaxTag/2)
	label := strings.Repeat("é", hsm.MaxLabel/2)
	want := []hsm.Attributes{{}, {Label: label, Tag: tag}, {Label: "a"}, {Tag: []byte{0}}}
	for i, attributes := range want {
		object, err := b.Generate(ctx, hsm.Slot(i+1), keyType, attributes)
		b.ok(err, "Generate")
		if object.Slot != hsm.Slot(i+1) || object.Type != keyType {
			t.Errorf("Generate answers slot %d, type %s", object.Slot, object.Type)
		}
	}
	tag[0] = 1 // the caller's memory is the caller's
	for i, object := range b.list() {
		wanted := want[i].Tag
		if i == 1 {
			wanted = append([]byte{0}, tag[1:]...)
		}
		if object.Label != want[i].Label || !bytes.Equal(object.Tag, wanted) {
			t.Errorf("slot %d has %q %x", object.Slot, object.Label, object.Tag)
		}
	}
	_, err := b.Generate(ctx, 9, keyType, hsm.Attributes{Label: label + "a"})
	b.refused(err, hsm.ErrBadInput, "a label too long")
	_, err = b.Generate(ctx, 9, keyType, hsm.Attributes{Tag: append(tag, 0)})
	b.refused(err, hsm.ErrBadInput, "a tag too long")

	// Unwrap stores what it is given, not what the key had before.
	blob, err := b.Wrap(ctx, 2)
	b.ok(err, "Wrap")
	object, err := b.Unwrap(ctx, 9, blob, hsm.Attributes{Label: "moved", Tag: []byte{9}})
	b.ok(err, "Unwrap")
	if object.Label != "moved" || !bytes.Equal(object.Tag, []byte{9}) || object.Type != keyType {
		t.Errorf("Unwrap answers %q %x %s", object.Label, object.Tag, object.Type)
	}
}

func samePublic(a, b crypto.PublicKey) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	comparable, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && comparable.Equal(b)
}

func (s Suite) reopen(t *testing.T) {
	b, fixture := s.open(t)
	if fixture.Reopen == nil {
		t.Skip("the device does not outlive its handle")
	}
	b.prepare(nil)
	ctx := t.Context()
	var before []hsm.Object
	for i, keyType := range s.Types {
		if b.Capabilities().Supports(keyType) && keyType.Family() != hsm.FamilyRSA {
			_, err := b.Generate(ctx, hsm.Slot(i+1), keyType, hsm.Attributes{Label: string(keyType), Tag: random(8)})
			b.ok(err, "Generate")
		}
	}
	b.generate(200, s.small(b))
	b.ok(b.Delete(ctx, 200), "Delete")
	before = b.list()
	b.ok(b.Sync(ctx), "Sync")
	b.wrong(b.Login(ctx, text("000000")), false, 2)
	info, err := b.Info(ctx)
	b.ok(err, "Info")

	b.Device = fixture.Reopen(t)
	after, err := b.Info(ctx)
	b.ok(err, "Info")
	info.LoggedIn = false
	if fmt.Sprint(info) != fmt.Sprint(after) {
		t.Errorf("reopened: %+v, was %+v", after, info)
	}
	b.tries(2)
	_, err = b.List(ctx)
	b.refused(err, hsm.ErrNotLoggedIn, "List of a reopened device")
	b.login()
	status, err := b.DKEK(ctx)
	b.ok(err, "DKEK")
	if status.KCV != kcv(b.dkek) {
		t.Error("the DKEK did not survive")
	}
	objects := b.list()
	if len(objects) != len(before) {
		t.Fatalf("%d keys of %d survived", len(objects), len(before))
	}
	for i, object := range objects {
		was := before[i]
		if object.Slot != was.Slot || object.Type != was.Type || object.Label != was.Label ||
			!bytes.Equal(object.Tag, was.Tag) || !samePublic(object.Public, was.Public) {
			t.Errorf("slot %d: %+v, was %+v", was.Slot, object, was)
		}
		b.use(object)
	}
}

func (s Suite) concurrency(t *testing.T) {
	b := s.ready(t, nil)
	ctx := t.Context()
	keyType := s.small(b)
	const workers, rounds = 8, 5
	var group sync.WaitGroup
	failures := make(chan error, workers)
	for w := range workers {
		group.Go(func() {
			slot := hsm.Slot(w + 1)
			failures <- func() error {
				for range rounds {
					object, err := b.Generate(ctx, slot, keyType, hsm.Attributes{Tag: []byte{byte(w)}})
					if err != nil {
						return err
					}
					blob, err := b.Wrap(ctx, slot)
					if err != nil {
						return err
					}
					if err := b.Delete(ctx, slot); err != nil {
						return err
					}
					back, err := b.Unwrap(ctx, slot, blob, object.Attributes)
					if err != nil {
						return err
					}
					if !samePublic(back.Public, object.Public) {
						return errors.New("another public key came back")
					}
					if _, err := b.List(ctx); err != nil {
						return err
					}
					if err := b.Sync(ctx); err != nil {
						return err
					}
					if err := b.Delete(ctx, slot); err != nil {
						return err
					}
				}
				return nil
			}()
		})
	}
	group.Wait()
	for range workers {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	if objects := b.list(); len(objects) != 0 {
		t.Errorf("%d keys left", len(objects))
	}

	// Of many who want one slot, one gets it.
	results := make(chan error, workers)
	for range workers {
		group.Go(func() {
			_, err := b.Generate(ctx, 1, keyType, hsm.Attributes{})
			results <- err
		})
	}
	group.Wait()
	won := 0
	for range workers {
		if err := <-results; err == nil {
			won++
		} else {
			b.refused(err, hsm.ErrSlotUsed, "Generate in a slot that another takes")
		}
	}
	if won != 1 {
		t.Errorf("%d made a key in one slot", won)
	}
}
