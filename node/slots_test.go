package node_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

func TestThreeTimesMoreKeysThanSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots, count = 8, 24
		l := startKeys(t, 1, nodetest.Options{Slots: slots})
		m := l.Members[0]
		keys := make([]*node.Key, count)
		for i := range keys {
			keys[i] = l.create(m, fmt.Sprintf("key-%d", i), hsm.ECDSAP256)
		}
		// Long enough for others to want the slot.
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpSign, Flavour: hsmtest.Slow, Delay: time.Millisecond, Times: -1})
		var users sync.WaitGroup
		for user := range 32 {
			users.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(user)))
				for range 40 {
					key := keys[random.IntN(count)]
					signature, err := key.SignContext(t.Context(), digest[:], options(key))
					if err != nil {
						t.Errorf("%s: %v", key.Name(), err)
						return
					}
					verify(t, key.Public(), signature)
				}
			})
		}
		users.Wait()
		if n := len(l.objects(m)); n > slots {
			t.Fatalf("%d objects in %d slots", n, slots)
		}
		objects := m.ObjectsForTest()
		if objects.Orphans+len(objects.Aside) > 0 {
			t.Fatalf("left behind: %+v", objects)
		}
	})
}

func TestKeysAreMadeWhileAllSlotsAreInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{Slots: 4})
		m := l.Members[0]
		var makers sync.WaitGroup
		for i := range 12 {
			makers.Go(func() {
				key, err := m.CreateKey(t.Context(), node.KeySpec{Name: fmt.Sprintf("key-%d", i), Type: hsm.Ed25519})
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				signature, err := key.SignContext(t.Context(), digest[:], options(key))
				if err != nil {
					t.Errorf("sign: %v", err)
					return
				}
				verify(t, key.Public(), signature)
			})
		}
		makers.Wait()
	})
}
