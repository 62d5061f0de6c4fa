package soft

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

func otherSeal() *hsm.Secret { return hsm.NewSecret(bytes.Repeat([]byte{8}, secret.KeySize)) }

func loadUnder(t *testing.T, seal *hsm.Secret, content []byte) (*Device, error) {
	t.Helper()
	box, err := secret.NewBox(seal, purpose)
	ok(t, err)
	return open(Options{}, box, &testDisk{memory: memory{data: bytes.Clone(content)}}, true)
}

// After a reseal the file opens under the new secret only, with everything in
// it, and the device goes on meanwhile.
func TestReseal(t *testing.T) {
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1, 2)
	before, err := d.DKEK(t.Context())
	ok(t, err)
	ok(t, d.Reseal(t.Context(), Resealing{Seal: otherSeal()}))
	generate256(t, d, 3) // still logged in
	ok(t, d.Sync(t.Context()))

	if is, err := d.SealedUnder(otherSeal()); !is || err != nil {
		t.Errorf("it does not say that it is sealed under the new secret: %v", err)
	}
	if _, err := load(disk.lastSync()); !errors.Is(err, errSeal) {
		t.Errorf("under the old secret: %v", err)
	}
	back, err := loadUnder(t, otherSeal(), disk.lastSync())
	ok(t, err)
	if slots := slotsOf(t, back); len(slots) != 3 {
		t.Errorf("keys %v came back, want 1, 2 and 3", slots)
	}
	if after, err := back.DKEK(t.Context()); err != nil || after != before || back.serial != d.serial {
		t.Errorf("%+v of %s, %v: another device", after, back.serial, err)
	}
}

// PINs that follow from the seal secret change in the same step, and only if
// they are the device's; no try is spent.
func TestResealChangesDerivedPINs(t *testing.T) {
	next, nextSO := hsm.NewSecret([]byte("111111")), hsm.NewSecret([]byte("0011223344556677"))
	disk := &testDisk{}
	d := onDisk(t, disk)
	ok(t, d.Reseal(t.Context(), Resealing{
		Seal: otherSeal(), PIN: PINChange{Old: pin(), New: next}, SOPIN: PINChange{Old: soPIN(), New: nextSO},
	}))
	back, err := loadUnder(t, otherSeal(), disk.lastSync())
	ok(t, err)
	ok(t, back.Login(t.Context(), next))
	ok(t, back.UnblockPIN(t.Context(), nextSO, pin())) // a person's own PIN
	ok(t, back.Reseal(t.Context(), Resealing{Seal: otherSeal(), PIN: PINChange{Old: next, New: hsm.NewSecret([]byte("222222"))}}))
	ok(t, back.Login(t.Context(), pin()))
	if tries, err := back.Tries(t.Context()); err != nil || tries.User != tries.UserMax || tries.SO != tries.SOMax {
		t.Errorf("tries were spent: %+v, %v", tries, err)
	}
	var known *hsm.Error
	err = back.Reseal(t.Context(), Resealing{Seal: otherSeal(), PIN: PINChange{Old: pin(), New: hsm.NewSecret([]byte("1"))}})
	if !errors.As(err, &known) || !errors.Is(err, hsm.ErrBadPINFormat) {
		t.Errorf("a PIN that no device takes: %v", err)
	}
}

// Whatever a disk does, the file is whole under one of the two secrets.
func TestResealOnABadDisk(t *testing.T) {
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1)
	ok(t, d.Sync(t.Context()))

	disk.set(func() { disk.full = true })
	isNotDone(t, d.Reseal(t.Context(), Resealing{Seal: otherSeal()}))
	if _, err := load(disk.lastSync()); err != nil {
		t.Errorf("after a reseal that was not done: %v", err)
	}
	disk.set(func() { disk.full, disk.noSync = false, 2 })
	err := d.Reseal(t.Context(), Resealing{Seal: otherSeal()})
	var known *hsm.Error
	if !errors.Is(err, hsm.ErrStorage) || errors.As(err, &known) {
		t.Errorf("a reseal that may not be durable says %v", err)
	}
	if is, err := d.SealedUnder(otherSeal()); !is || err != nil {
		t.Errorf("it does not say which secret it took: %v", err)
	}
	if _, err := load(disk.lastSync()); err != nil {
		t.Errorf("after a power cut: %v", err)
	}
	ok(t, d.Reseal(t.Context(), Resealing{Seal: otherSeal()}))
	if _, err := loadUnder(t, otherSeal(), disk.lastSync()); err != nil {
		t.Errorf("after the repetition: %v", err)
	}
}

func TestResealRefuses(t *testing.T) {
	d := onDisk(t, &testDisk{})
	if err := d.Reseal(t.Context(), Resealing{Seal: hsm.NewSecret([]byte("short"))}); !errors.Is(err, hsm.ErrBadInput) {
		t.Errorf("a short secret: %v", err)
	}
	ok(t, d.Close())
	if err := d.Reseal(t.Context(), Resealing{Seal: otherSeal()}); !errors.Is(err, hsm.ErrGone) {
		t.Errorf("a closed device: %v", err)
	}
	if _, err := d.SealedUnder(otherSeal()); !errors.Is(err, hsm.ErrGone) {
		t.Errorf("a closed device: %v", err)
	}
}
