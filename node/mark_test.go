package node_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// What a node cannot take back, it does when its disk says that it has applied the
// entry which allows it: with that entry lost it does not start again.
func TestMarkIsOnDiskBeforeAShareLeaves(t *testing.T) {
	c := nodetest.StartWith(t, 2, nodetest.Options{Dir: t.TempDir(), Blank: true})
	var seen atomic.Int32
	for _, m := range c.Members {
		m.Reached(func(_ context.Context, at string) error {
			if at != "release recorded" {
				return nil
			}
			notes, _ := m.Releases()
			last := slices.MaxFunc(notes, func(a, b node.ReleaseNote) int { return int(a.Index) - int(b.Index) })
			if mark := node.MarkOnDisk(t, m.Config.Dir); mark < last.Index {
				t.Errorf("%s gives a share away for entry %d, and its mark is at %d", m.Name, last.Index, mark)
			}
			seen.Add(1)
			return nil
		})
	}
	c.CreateDKEK()
	if seen.Load() < 2 {
		t.Fatalf("%d releases: this proves nothing", seen.Load())
	}
}

func TestMarkIsOnDiskBeforeADestroyedKeyIsDeleted(t *testing.T) {
	l := startKeys(t, 1, nodetest.Options{Dir: t.TempDir()})
	m := l.Members[0]
	for _, name := range []string{"a", "b", "c"} { // the mark is also written now and then
		l.create(m, name, hsm.Ed25519)
		l.tidy(m) // the copy that proved it is deleted too, for no entry
		row, _ := m.View().Key(name)
		looked := atDeletion(m, func() {
			stone, _ := m.View().Tombstone(row.ID, 1)
			if mark := node.MarkOnDisk(t, m.Config.Dir); mark < stone.Index {
				t.Errorf("%s is deleted for entry %d, and the mark is at %d", name, stone.Index, mark)
			}
		})
		if err := m.DeleteKey(t.Context(), name, time.Millisecond); err != nil {
			t.Fatal(err)
		}
		<-looked
		l.Eventually("it is confirmed", func() bool { stone, _ := m.View().Tombstone(row.ID, 1); return len(stone.Awaiting) == 0 })
		m.Device.Hook(nil, nil)
	}
}

func TestMarkIsOnDiskBeforeAnAbortedObjectIsDeleted(t *testing.T) {
	l := startKeys(t, 1, nodetest.Options{Dir: t.TempDir()})
	m := l.Members[0]
	for i := range byte(2) {
		l.dies(m, hsmtest.Plan{Op: hsmtest.OpWrap}, func(ctx context.Context) {
			m.CreateKey(ctx, node.KeySpec{Name: "k", Type: hsm.Ed25519, RequestID: request(i + 1)})
		})
		m.Device.Unwrapped().Close()
		device, err := soft.Open(soft.Options{Path: m.DeviceFile(), Seal: m.Seal})
		if err != nil {
			t.Fatal(err)
		}
		m.Device = hsmtest.Fault(device)
		m.Config.Device.Device = m.Device
		opened := make(chan struct{})
		looked := atDeletion(m, func() {
			<-opened
			abort, _ := m.View().Aborted(request(i + 1))
			if mark := node.MarkOnDisk(t, m.Config.Dir); mark < abort.Index {
				t.Errorf("an object is deleted for entry %d, and the mark is at %d", abort.Index, mark)
			}
		})
		l.Network.Resume(m.Host)
		if m.Node, err = node.Open(t.Context(), m.Config); err != nil {
			t.Fatal(err)
		}
		close(opened)
		<-looked
		l.tidy(m)
		m.Device.Hook(nil, nil)
	}
}

// atDeletion looks before a member's device deletes its next object.
func atDeletion(m *nodetest.Member, look func()) <-chan struct{} {
	looked := make(chan struct{})
	var once sync.Once
	m.Device.Hook(func(call hsmtest.Call) {
		if call.Op == hsmtest.OpDelete {
			once.Do(func() {
				look()
				close(looked)
			})
		}
	}, nil)
	return looked
}
