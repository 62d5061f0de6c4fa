package hsmtest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

func device(t *testing.T) hsm.Device {
	t.Helper()
	d := soft.NewMemory(soft.Options{Slots: 20})
	t.Cleanup(func() { d.Close() })
	pin := hsm.NewSecret([]byte("648219"))
	must(t, d.Initialise(t.Context(), hsm.InitOptions{PIN: pin, SOPIN: hsm.NewSecret([]byte("12345678")), Shares: 1}))
	must(t, d.Login(t.Context(), pin))
	_, err := d.ImportShare(t.Context(), hsm.NewSecret(make([]byte, hsm.ShareSize)))
	must(t, err)
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func slots(t *testing.T, d hsm.Device) (slots []hsm.Slot) {
	t.Helper()
	objects, err := d.List(t.Context())
	must(t, err)
	for _, object := range objects {
		slots = append(slots, object.Slot)
	}
	return slots
}

// A wrapper without plans is the device: it passes the suite.
func TestFaultlessFaultPassesTheSuite(t *testing.T) {
	hsmtest.Run(t, hsmtest.Suite{
		SpendSOTries: true,
		Types:        []hsm.KeyType{hsm.ECDSAP192, hsm.ECDSAP256, hsm.AES256},
		Open: func(t *testing.T) hsmtest.Fixture {
			d := soft.NewMemory(soft.Options{Slots: 12})
			t.Cleanup(func() { d.Close() })
			return hsmtest.Fixture{Device: hsmtest.Fault(d)}
		},
	})
}

func TestFlavours(t *testing.T) {
	ctx := t.Context()
	f := hsmtest.Fault(device(t),
		hsmtest.Plan{Op: hsmtest.OpGenerate, Slot: 2, Flavour: hsmtest.NotDone},
		hsmtest.Plan{Op: hsmtest.OpGenerate, Slot: 3, Flavour: hsmtest.DoneButFailed},
		hsmtest.Plan{Op: hsmtest.OpDelete, Skip: 1, Times: -1, Err: hsm.ErrGone},
	)
	for slot, fails := range map[hsm.Slot]bool{1: false, 2: true, 3: true} {
		if _, err := f.Generate(ctx, slot, hsm.AES128, hsm.Attributes{}); errors.Is(err, hsmtest.ErrInjected) != fails {
			t.Errorf("Generate in slot %d: %v", slot, err)
		}
	}
	if got := slots(t, f); !slices.Equal(got, []hsm.Slot{1, 3}) {
		t.Errorf("slots %v, want 1, and 3 which was done but reported failed", got)
	}
	if n := f.Pending(); n != 0 {
		t.Errorf("%d plans pending; the one for ever does not count", n)
	}
	must(t, f.Delete(ctx, 3))
	for range 2 {
		if err := f.Delete(ctx, 1); !errors.Is(err, hsm.ErrGone) {
			t.Errorf("Delete: %v", err)
		}
	}
	f.Heal()
	must(t, f.Delete(ctx, 1))
	if n := f.Calls(hsmtest.OpDelete); n != 4 || f.Calls("") < 8 {
		t.Errorf("%d calls of Delete, %d in all", n, f.Calls(""))
	}
	// What really fails says why, whatever was planned.
	f.Plan(hsmtest.Plan{Flavour: hsmtest.DoneButFailed})
	if err := f.Delete(ctx, 1); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("got %v", err)
	}
}

func TestHangAndDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hsmtest.Fault(device(t),
			hsmtest.Plan{Op: hsmtest.OpGenerate, Slot: 1, Flavour: hsmtest.HangBefore},
			hsmtest.Plan{Op: hsmtest.OpGenerate, Slot: 2, Flavour: hsmtest.HangAfter},
			hsmtest.Plan{Op: hsmtest.OpGenerate, Slot: 3, Flavour: hsmtest.Slow, Delay: time.Hour},
		)
		start := time.Now()
		for slot := hsm.Slot(1); slot <= 2; slot++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := f.Generate(ctx, slot, hsm.AES128, hsm.Attributes{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("slot %d: %v", slot, err)
			}
		}
		_, err := f.Generate(t.Context(), 3, hsm.AES128, hsm.Attributes{})
		must(t, err)
		if took := time.Since(start); took != time.Hour+2*time.Minute {
			t.Errorf("took %v", took)
		}
		if got := slots(t, f); !slices.Equal(got, []hsm.Slot{2, 3}) {
			t.Errorf("slots %v, want 2 and 3", got)
		}
	})
}

func TestHooks(t *testing.T) {
	f := hsmtest.Fault(device(t), hsmtest.Plan{Op: hsmtest.OpRandom})
	var seen []hsmtest.Call
	var reported error
	f.Hook(func(c hsmtest.Call) { seen = append(seen, c) }, func(_ hsmtest.Call, err error) { reported = err })
	if _, err := f.Random(t.Context(), 1); !errors.Is(err, hsmtest.ErrInjected) || !errors.Is(reported, hsmtest.ErrInjected) {
		t.Errorf("Random: %v, the hook saw %v", err, reported)
	}
	_, err := f.Generate(t.Context(), 4, hsm.AES128, hsm.Attributes{})
	must(t, err)
	want := []hsmtest.Call{{Op: hsmtest.OpRandom, Number: 1}, {Op: hsmtest.OpGenerate, Slot: 4, Number: 1}}
	if !slices.Equal(seen, want) || reported != nil {
		t.Errorf("hooks saw %v, %v", seen, reported)
	}
}
