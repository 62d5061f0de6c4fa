package soft

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
)

// isNotDone wants an *hsm.Error: the caller may rely on nothing having changed.
func isNotDone(t *testing.T, err error) {
	t.Helper()
	var known *hsm.Error
	if !errors.As(err, &known) || !errors.Is(err, hsm.ErrStorage) {
		t.Fatalf("got %v, want hsm.ErrStorage in an *hsm.Error", err)
	}
}

// A serial that was shown once stays, so a new device is durable before Open
// answers.
func TestNewDeviceIsDurable(t *testing.T) {
	disk := &testDisk{}
	d, err := open(Options{}, testBox, disk, false)
	ok(t, err)
	back, err := load(disk.lastSync())
	if err != nil || back.serial != d.serial {
		t.Errorf("after a power cut: %v", err)
	}
}

func TestFullDiskChangesNothing(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1)
	blob, err := d.Wrap(ctx, 1)
	ok(t, err)

	disk.set(func() { disk.full = true })
	_, err = d.Generate(ctx, 2, hsm.ECDSAP256, hsm.Attributes{})
	isNotDone(t, err)
	_, err = d.Unwrap(ctx, 2, blob, hsm.Attributes{})
	isNotDone(t, err)
	isNotDone(t, d.Delete(ctx, 1))
	isNotDone(t, d.ChangePIN(ctx, pin(), hsm.NewSecret([]byte("111111"))))
	isNotDone(t, d.UnblockPIN(ctx, soPIN(), hsm.NewSecret([]byte("111111"))))
	isNotDone(t, d.Initialise(ctx, hsm.InitOptions{PIN: pin(), SOPIN: soPIN(), Shares: 1}))
	isNotDone(t, d.Login(ctx, pin()))
	tries, err := d.Tries(ctx)
	if err != nil || tries.User != 3 || tries.SO != 15 {
		t.Errorf("a full disk cost tries: %+v, %v", tries, err)
	}
	if objects, err := d.List(ctx); err != nil || len(objects) != 1 {
		t.Errorf("%d keys, %v", len(objects), err)
	}

	disk.set(func() { disk.full = false })
	generate256(t, d, 2)
	ok(t, d.Sync(ctx))
	back, err := load(disk.lastSync())
	ok(t, err)
	if slots := slotsOf(t, back); len(slots) != 2 {
		t.Errorf("after the disk had room again: slots %v", slots)
	}
}

// A failed sync may have lost pages that the system now calls clean. So the
// next one writes everything anew, and only then says that it is durable.
func TestFailedSyncIsMadeGood(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1)
	before := disk.replaced
	disk.set(func() { disk.noSync = 1 })
	ok(t, d.Sync(ctx))
	if disk.replaced != before+1 {
		t.Error("a sync after a failed one did not write the file anew")
	}
	back, err := load(disk.lastSync())
	ok(t, err)
	if !slotsOf(t, back)[1] {
		t.Error("a key is missing after a failed sync")
	}

	generate256(t, d, 2)
	disk.set(func() { disk.noSync, disk.full = 1, true })
	var known *hsm.Error
	if err := d.Sync(ctx); !errors.Is(err, hsm.ErrStorage) || errors.As(err, &known) {
		t.Fatalf("a sync that failed for good: %v; it must be hsm.ErrStorage and no *hsm.Error", err)
	}
	disk.set(func() { disk.full = false })
	ok(t, d.Sync(ctx))
	back, err = load(disk.lastSync())
	ok(t, err)
	if slots := slotsOf(t, back); len(slots) != 2 {
		t.Errorf("slots %v after the disk was mended", slots)
	}
}

// The try is on disk before the PIN is compared; if it cannot be, the PIN is
// not compared.
func TestTriesAreStoredFirst(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d := onDisk(t, disk)
	if err := d.Login(ctx, hsm.NewSecret([]byte("000000"))); err == nil {
		t.Fatal("a wrong PIN logs in")
	}
	back, err := load(disk.lastSync())
	ok(t, err)
	if tries, err := back.Tries(ctx); err != nil || tries.User != 2 {
		t.Errorf("after a power cut: %+v, want 2 tries, %v", tries, err)
	}

	disk.set(func() { disk.noSync, disk.full = 1000, false })
	for _, text := range []string{"000000", "648219"} {
		err := d.Login(ctx, hsm.NewSecret([]byte(text)))
		var rejected *hsm.PINError
		if err == nil || errors.As(err, &rejected) {
			t.Errorf("the PIN was compared though the try could not be stored: %v", err)
		}
	}
	disk.set(func() { disk.noSync = 0 })
}

// There are 15 wrong SO-PINs in the life of a device, whatever happens between.
func TestSOTriesAreForLife(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d := onDisk(t, disk)
	wrong := func() *hsm.Secret { return hsm.NewSecret([]byte("0000000000000000")) }
	for left := 14; left >= 0; left-- {
		var err error
		if left%2 == 0 {
			err = d.Initialise(ctx, hsm.InitOptions{PIN: pin(), SOPIN: wrong(), Shares: 1})
		} else {
			err = d.UnblockPIN(ctx, wrong(), pin())
		}
		var rejected *hsm.PINError
		if !errors.As(err, &rejected) || !rejected.SO || rejected.Left != left {
			t.Fatalf("got %v, want %d tries left", err, left)
		}
		back, err := load(disk.lastSync())
		ok(t, err)
		if tries, err := back.Tries(ctx); err != nil || tries.SO != left {
			t.Fatalf("after a power cut: %+v, want %d SO tries, %v", tries, left, err)
		}
		if left > 0 {
			prepare(t, d) // the right one gives none back
		}
	}
	generate256(t, d, 1)
	for what, err := range map[string]error{
		"Initialise": d.Initialise(ctx, hsm.InitOptions{PIN: pin(), SOPIN: soPIN(), Shares: 1}),
		"UnblockPIN": d.UnblockPIN(ctx, soPIN(), pin()),
	} {
		if !errors.Is(err, hsm.ErrPINBlocked) {
			t.Errorf("%s with the right SO-PIN after 15 wrong ones: %v", what, err)
		}
	}
	if objects, err := d.List(ctx); err != nil || len(objects) != 1 {
		t.Errorf("a blocked SO-PIN took the keys: %d, %v", len(objects), err)
	}
}

func TestSyncsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &testDisk{syncTime: 10 * time.Millisecond}
		d := onDisk(t, disk)
		before, start := disk.syncs, time.Now()
		const writers = 64
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() {
				if _, err := d.Generate(t.Context(), hsm.Slot(i+1), hsm.AES256, hsm.Attributes{}); err != nil {
					t.Error(err)
				}
				if err := d.Sync(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if syncs := disk.syncs - before; syncs > 3 {
			t.Errorf("%d writers took %d syncs and %v", writers, syncs, time.Since(start))
		}
		if err := d.Sync(t.Context()); err != nil || disk.syncs-before > 3 {
			t.Errorf("a sync with nothing to do went to the disk (%v)", err)
		}
		back, err := load(disk.lastSync())
		ok(t, err)
		if slots := slotsOf(t, back); len(slots) != writers {
			t.Errorf("%d keys durable of %d", len(slots), writers)
		}
		ok(t, back.Close())
	})
}

// A sync that loses its file to a rewrite goes on with the new one.
func TestSyncDuringRewrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &testDisk{}
		d := onDisk(t, disk)
		generate256(t, d, 1)
		disk.syncTime = time.Second
		done := make(chan error)
		go func() { done <- d.Sync(context.Background()) }()
		synctest.Wait()
		disk.set(func() { disk.noSync = 1 }) // the sync under way: its file is closed
		before := disk.replaced
		d.mu.Lock()
		err := d.rewrite(d.state, d.entries)
		d.mu.Unlock()
		ok(t, err)
		ok(t, <-done)
		if disk.replaced != before+1 {
			t.Errorf("%d rewrites, want the one", disk.replaced-before)
		}
		back, err := load(disk.lastSync())
		ok(t, err)
		if !slotsOf(t, back)[1] {
			t.Error("the key is not durable")
		}
		ok(t, back.Close())
	})
}

func TestSyncWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &testDisk{syncTime: time.Hour}
		d, err := open(Options{}, testBox, disk, false)
		ok(t, err)
		disk.syncTime = 0
		prepare(t, d)
		disk.syncTime = time.Hour
		generate256(t, d, 1)
		done := make(chan error)
		go func() { done <- d.Sync(context.Background()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// Signing goes on while the disk is slow.
		start := time.Now()
		if _, err := d.Wrap(t.Context(), 1); err != nil || time.Since(start) > 0 {
			t.Errorf("a key waited %v for the disk (%v)", time.Since(start), err)
		}
		ok(t, <-done)
		disk.syncTime = 0
		ok(t, d.Close())
	})
}

func TestCompaction(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1, 2)
	before := disk.replaced
	largest := int64(0)
	for i := 0; disk.replaced < before+2; i++ {
		if i > 20000 {
			t.Fatal("never compacted")
		}
		if i == 3000 { // one failure costs nothing but room
			disk.set(func() { disk.full = true })
			isNotDone(t, d.Delete(ctx, 2))
			disk.set(func() { disk.full = false })
		}
		_, err := d.Generate(ctx, 3, hsm.AES256, hsm.Attributes{Tag: fmt.Append(nil, i)})
		ok(t, err)
		ok(t, d.Delete(ctx, 3))
		largest = max(largest, d.log.size())
	}
	if size := d.log.size(); size > 10<<10 || largest > 2*compactFrom {
		t.Errorf("%d bytes after compaction, %d at most before", size, largest)
	}
	generate256(t, d, 4)
	ok(t, d.Sync(ctx))
	back, err := load(disk.lastSync())
	ok(t, err)
	if slots := slotsOf(t, back); len(slots) != 3 || !slots[1] || !slots[2] || !slots[4] {
		t.Errorf("slots %v after compaction, want 1, 2 and 4", slots)
	}
}

// More keys than the cache holds: each still signs as itself.
func TestCacheIsOnlyACache(t *testing.T) {
	ctx := t.Context()
	d := NewMemory(Options{})
	defer d.Close()
	prepare(t, d)
	const keys = cachedKeys + 100
	macs := map[string]hsm.Slot{}
	for slot := hsm.Slot(1); slot <= keys; slot++ {
		_, err := d.Generate(ctx, slot, hsm.AES128, hsm.Attributes{})
		ok(t, err)
		mac, err := d.CMAC(ctx, slot, nil)
		ok(t, err)
		macs[string(mac)] = slot
	}
	cached := 0
	for slot := hsm.Slot(1); slot <= keys; slot++ {
		if d.entries[slot].key.Load() != nil {
			cached++
		}
		mac, err := d.CMAC(ctx, slot, nil)
		ok(t, err)
		if macs[string(mac)] != slot {
			t.Fatalf("slot %d answers as slot %d", slot, macs[string(mac)])
		}
	}
	if cached > cachedKeys {
		t.Errorf("%d keys cached, at most %d", cached, cachedKeys)
	}
}

// A share that could not be stored is not in the DKEK, not even in memory.
func TestShareThatWasNotStored(t *testing.T) {
	ctx := t.Context()
	disk := &testDisk{}
	d, err := open(Options{}, testBox, disk, false)
	ok(t, err)
	ok(t, d.Initialise(ctx, hsm.InitOptions{PIN: pin(), SOPIN: soPIN(), Shares: 1}))
	ok(t, d.Login(ctx, pin()))
	share := bytes.Repeat([]byte{3}, hsm.ShareSize)
	disk.set(func() { disk.full = true })
	_, err = d.ImportShare(ctx, hsm.NewSecret(bytes.Clone(share)))
	isNotDone(t, err)
	disk.set(func() { disk.full = false })
	status, err := d.ImportShare(ctx, hsm.NewSecret(bytes.Clone(share)))
	ok(t, err)
	sum := sha256.Sum256(share)
	if !bytes.Equal(status.KCV[:], sum[:8]) {
		t.Errorf("KCV %x, want %x", status.KCV, sum[:8])
	}
}

// A key that was begun in one life of the device does not end up in the next.
func TestKeyOfALifeBefore(t *testing.T) {
	ctx := t.Context()
	d := NewMemory(Options{})
	defer d.Close()
	prepare(t, d)
	life, _, err := d.reserve(ctx, "generate", 1, hsm.AES128, hsm.Attributes{})
	ok(t, err)
	prepare(t, d)
	k, err := generate(hsm.AES128)
	ok(t, err)
	if _, err := d.store("generate", life, 1, hsm.AES128, k, hsm.Attributes{}); !errors.Is(err, hsm.ErrNotLoggedIn) {
		t.Errorf("got %v", err)
	}
	d.release(1)
	if objects, err := d.List(ctx); err != nil || len(objects) != 0 {
		t.Errorf("%d keys, %v", len(objects), err)
	}
}

// Nobody disturbs anybody: one key signs, agrees and is wrapped at once, and the
// PIN is given again meanwhile.
func TestUsesBesideEachOther(t *testing.T) {
	for _, keyType := range []hsm.KeyType{hsm.ECDSAP224, hsm.ECDSAP256} {
		t.Run(string(keyType), func(t *testing.T) { usesBesideEachOther(t, keyType) })
	}
}

func usesBesideEachOther(t *testing.T, keyType hsm.KeyType) {
	ctx := t.Context()
	d := NewMemory(Options{})
	defer d.Close()
	prepare(t, d)
	object, err := d.Generate(ctx, 1, keyType, hsm.Attributes{})
	ok(t, err)
	public := object.Public.(*ecdsa.PublicKey)
	point, err := public.Bytes()
	ok(t, err)
	shared, err := d.ECDH(ctx, 1, point)
	ok(t, err)
	digest := make([]byte, 32)

	var group sync.WaitGroup
	for what, do := range map[string]func() bool{
		"wrap":       func() bool { _, err := d.Wrap(ctx, 1); return err == nil },
		"wrap again": func() bool { _, err := d.Wrap(ctx, 1); return err == nil },
		"agree": func() bool {
			again, err := d.ECDH(ctx, 1, point)
			return err == nil && again.Equal(shared)
		},
		"sign": func() bool {
			signature, err := d.Sign(ctx, 1, digest, hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
			return err == nil && ecdsa.VerifyASN1(public, digest, signature)
		},
	} {
		group.Go(func() {
			for range 300 {
				if !do() {
					t.Errorf("%s went wrong beside the others", what)
					return
				}
			}
		})
	}
	keys := d.keys
	for range 500 {
		ok(t, d.Login(ctx, pin()))
	}
	group.Wait()
	if d.keys != keys {
		t.Error("a login made the wrapping keys anew, and wiped those in use")
	}
}
