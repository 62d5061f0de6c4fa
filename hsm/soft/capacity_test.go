package soft_test

import (
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

// A device with as many slots as there are keys to make takes them all, however
// many are made at once.
func TestTheLastSlotsAreUsable(t *testing.T) {
	const slots = 256
	for range 20 {
		device := soft.NewMemory(soft.Options{Slots: slots})
		if err := prepare(device); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for slot := range slots {
			all.Go(func() {
				if _, err := device.Generate(t.Context(), hsm.Slot(slot+1), hsm.AES128, hsm.Attributes{}); err != nil {
					t.Errorf("slot %d: %v", slot+1, err)
				}
			})
		}
		all.Wait()
	}
}
