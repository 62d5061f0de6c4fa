package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// tidy waits until a member's device holds exactly one object for each live
// version, and no other.
func (l *keyLab) tidy(m *nodetest.Member) {
	l.t.Helper()
	defer func() {
		if why := l.untidy(m); why != "" {
			l.t.Logf("%s: %s", m.Name, why)
		}
	}()
	l.Eventually(m.Name+"'s device agrees with the log", func() bool { return l.untidy(m) == "" })
}

func (l *keyLab) untidy(m *nodetest.Member) string {
	view := m.View()
	seen := make(map[fsm.RequestID]bool)
	for _, object := range l.objects(m) {
		request, ours := node.RequestOfForTest(object)
		version, ok := view.VersionByRequest(request)
		switch {
		case !ours || !ok || !version.State.Live():
			return fmt.Sprintf("object %q is no key", object.Label)
		case seen[request]:
			return fmt.Sprintf("object %q is there twice", object.Label)
		}
		seen[request] = true
	}
	for version := range view.AllVersions(fsm.VersionRef{}) {
		if version.State.Live() && !seen[version.Request] {
			return fmt.Sprintf("version %d of %s is missing", version.N, version.Key)
		}
	}
	for range view.Aborts() {
		return "an abort is not confirmed"
	}
	return ""
}

// signs has a key sign and checks the signature.
func (l *keyLab) signs(m *nodetest.Member, name string) {
	l.t.Helper()
	key, err := m.Key(l.t.Context(), name)
	if err != nil {
		l.t.Fatal(err)
	}
	signature, err := key.SignContext(l.t.Context(), digest[:], options(key))
	if err != nil {
		l.t.Fatalf("sign with %s: %v", name, err)
	}
	if t, ok := l.t.(*testing.T); ok {
		verify(t, key.Public(), signature)
	}
}

func request(b byte) (id fsm.RequestID) {
	for i := range id {
		id[i] = b
	}
	return id
}

// TestEveryDeviceFaultInACreation: each device operation fails once, not done
// and done but reported failed. Then there is a key, or none and nothing left in
// the device; a retry of what is unknown gets an answer.
func TestEveryDeviceFaultInACreation(t *testing.T) {
	ops := []hsmtest.Op{hsmtest.OpInfo, hsmtest.OpGenerate, hsmtest.OpWrap, hsmtest.OpUnwrap, hsmtest.OpSign, hsmtest.OpECDH, hsmtest.OpDelete, hsmtest.OpSync, hsmtest.OpList}
	for _, op := range ops {
		for _, flavour := range []hsmtest.Flavour{hsmtest.NotDone, hsmtest.DoneButFailed} {
			t.Run(fmt.Sprintf("%s %d", op, flavour), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := startKeys(t, 1, nodetest.Options{})
					m := l.Members[0]
					l.create(m, "before", hsm.ECDSAP256)
					m.Device.Plan(hsmtest.Plan{Op: op, Flavour: flavour})
					spec := node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)}
					_, err := m.CreateKey(t.Context(), spec)
					if errors.Is(err, node.ErrOutcomeUnknown) {
						_, err = m.CreateKey(t.Context(), spec)
						if err != nil {
							t.Fatalf("retry: %v", err)
						}
					}
					if _, committed := m.View().Key("k"); committed != (err == nil) {
						t.Fatalf("the key is in the state: %v; create said: %v", committed, err)
					}
					m.Device.Heal()
					l.tidy(m)
					if err != nil {
						l.create(m, "k", hsm.ECDSAP256)
					}
					l.signs(m, "k")
					l.signs(m, "before")
				})
			})
		}
	}
}

// TestEveryDeviceFaultInALoad: a key that is not in the device is loaded all the
// same, or the use fails; never does another key answer.
func TestEveryDeviceFaultInALoad(t *testing.T) {
	for _, op := range []hsmtest.Op{hsmtest.OpUnwrap, hsmtest.OpSign, hsmtest.OpDelete} {
		for _, flavour := range []hsmtest.Flavour{hsmtest.NotDone, hsmtest.DoneButFailed} {
			t.Run(fmt.Sprintf("%s %d", op, flavour), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := startKeys(t, 1, nodetest.Options{Slots: 3})
					m := l.Members[0]
					for i := range 6 {
						l.create(m, fmt.Sprintf("key-%d", i), hsm.Ed25519)
					}
					m.Device.Plan(hsmtest.Plan{Op: op, Flavour: flavour})
					for i := range 6 {
						key, err := m.Key(t.Context(), fmt.Sprintf("key-%d", i))
						if err != nil {
							t.Fatal(err)
						}
						if signature, err := key.SignContext(t.Context(), digest[:], options(key)); err == nil {
							verify(t, key.Public(), signature)
						}
					}
					m.Device.Heal()
					time.Sleep(2 * time.Minute)
					for i := range 6 {
						l.signs(m, fmt.Sprintf("key-%d", i))
					}
					if o := m.ObjectsForTest(); o.Orphans+len(o.Aside) > 0 {
						t.Fatalf("left behind: %+v", o)
					}
				})
			})
		}
	}
}

// dies ends a node at a point in a device operation: nothing that it does
// afterwards reaches the device or the others.
func (l *keyLab) dies(m *nodetest.Member, at hsmtest.Plan, do func(ctx context.Context)) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	at.Flavour = hsmtest.HangBefore
	m.Device.Plan(at)
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(ctx)
	}()
	l.Eventually("the operation is reached", func() bool { return m.Device.Pending() == 0 })
	m.Device.Plan(hsmtest.Plan{Times: -1}) // the device is out of reach
	l.Network.Crash(m.Host)
	cancel()
	<-done
	m.Close()
	m.Device.Heal()
}

func TestCrashAfterGenerate(t *testing.T) { // 17
	for _, op := range []hsmtest.Op{hsmtest.OpWrap, hsmtest.OpUnwrap, hsmtest.OpSign, hsmtest.OpDelete} {
		t.Run(string(op), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := startKeys(t, 1, nodetest.Options{})
				m := l.Members[0]
				l.create(m, "before", hsm.ECDSAP256)
				l.dies(m, hsmtest.Plan{Op: op}, func(ctx context.Context) {
					if _, err := m.CreateKey(ctx, node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err == nil {
						t.Error("a key was acknowledged")
					}
				})
				if n := len(l.objects(m)); n < 2 {
					t.Fatalf("%d objects: the crash left none, so this proves nothing", n)
				}
				m.Start()
				l.tidy(m)
				l.create(m, "k", hsm.ECDSAP256)
				l.signs(m, "k")
				l.signs(m, "before")
			})
		})
	}
}

func TestCrashBeforeTheAcknowledgement(t *testing.T) { // 19
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		spec := node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)}
		l.dies(m, hsmtest.Plan{Op: hsmtest.OpSync}, func(ctx context.Context) {
			l.Eventually("the key is committed", func() bool { _, ok := m.View().Key("k"); return ok || m.Device.Calls(hsmtest.OpSync) == 0 })
			if _, err := m.CreateKey(ctx, spec); !errors.Is(err, node.ErrOutcomeUnknown) {
				t.Errorf("create: %v", err)
			}
		})
		m.Start()
		l.Leader()
		first, _ := m.View().Key("k")
		l.ready(m)
		key, err := m.CreateKey(t.Context(), spec)
		if err != nil {
			t.Fatalf("retry: %v", err)
		}
		if again, _ := m.View().Key("k"); first == nil || again.ID != first.ID || key.Version() != 1 {
			t.Fatal("the retry made another key")
		}
		l.tidy(m)
		l.signs(m, "k")
	})
}

// TestProposalOfUnknownOutcome: a leader that is cut off with the proposal in its
// own log does not know what becomes of it.
func TestProposalOfUnknownOutcome(t *testing.T) { // 18
	for _, retry := range []bool{false, true} {
		t.Run(fmt.Sprintf("retry %v", retry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := startKeys(t, 3, nodetest.Options{})
				m := l.Leader()
				m.Device.Hook(func(call hsmtest.Call) {
					if call.Op == hsmtest.OpSync {
						l.Network.Isolate(m.Host)
					}
				}, nil)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				spec := node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)}
				_, err := m.CreateKey(ctx, spec)
				if err == nil {
					return // it was committed before the network was cut: nothing is unknown
				}
				var unknown *node.OutcomeUnknownError
				if !errors.As(err, &unknown) || unknown.Request != spec.RequestID {
					t.Fatalf("create: %v", err)
				}
				if n := len(l.objects(m)); n != 1 {
					t.Fatalf("%d objects: an object of unknown outcome is kept", n)
				}
				m.Device.Hook(nil, nil)
				l.Network.HealAll()
				if retry {
					l.Eventually("the retry is answered", func() bool {
						_, err := m.CreateKey(t.Context(), spec)
						return err == nil || errors.Is(err, fsm.Conflict)
					})
				}
				for _, member := range l.Members {
					l.tidy(member)
				}
				if _, ok := m.View().Key("k"); ok {
					l.signs(m, "k")
				}
			})
		})
	}
}

func TestCrashBetweenAbortAndDeletion(t *testing.T) { // 20
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		l.dies(m, hsmtest.Plan{Op: hsmtest.OpWrap}, func(ctx context.Context) {
			m.CreateKey(ctx, node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)})
		})
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpDelete, Times: -1})
		m.Start()
		l.Eventually("the abort is committed", func() bool { _, ok := m.View().Aborted(request(7)); return ok })
		synctest.Wait()
		if n := len(l.objects(m)); n != 1 {
			t.Fatalf("%d objects", n)
		}
		m.Crash()
		m.Device.Heal()
		m.Start()
		l.tidy(m)
	})
}

func TestCrashBetweenDestroyAndDeletion(t *testing.T) { // 21
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 3}})
		m := l.Follower()
		l.create(m, "k", hsm.ECDSAP256)
		l.create(m, "other", hsm.ECDSAP256)
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpDelete, Times: -1})
		if err := m.DeleteKey(t.Context(), "k", 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		key, _ := m.View().Key("k")
		state := func() fsm.VersionState {
			version, _ := l.Leader().View().Version(key.ID, 1)
			return version.State
		}
		time.Sleep(4 * time.Minute)
		if state() != fsm.Pending {
			t.Fatalf("before its time the version is %s", state())
		}
		time.Sleep(2 * time.Minute)
		l.Eventually("destroyed by the others", func() bool {
			stone, ok := l.Leader().View().Tombstone(key.ID, 1)
			return ok && len(stone.Awaiting) == 1 && stone.Awaiting[0] == m.ID()
		})
		m.Crash()
		m.Device.Heal()
		m.Start()
		l.Eventually("destroyed", func() bool { return state() == fsm.Destroyed })
		for _, member := range l.Members {
			l.tidy(member)
			l.signs(member, "other")
		}
		if _, err := m.Key(t.Context(), "k"); err != nil {
			t.Fatal(err) // its public half can still be seen
		}
		dead, _ := m.Key(t.Context(), "k")
		if _, err := dead.SignContext(t.Context(), digest[:], options(dead)); !errors.Is(err, fsm.WrongState) {
			t.Fatalf("sign with a destroyed key: %v", err)
		}
	})
}

func TestCrashBetweenEvictionAndLoad(t *testing.T) { // 22
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{Slots: 2})
		m := l.Members[0]
		for i := range 4 {
			l.create(m, fmt.Sprintf("key-%d", i), hsm.Ed25519)
		}
		l.signs(m, "key-3")
		l.dies(m, hsmtest.Plan{Op: hsmtest.OpUnwrap}, func(ctx context.Context) {
			for i := range 4 {
				if key, err := m.Key(ctx, fmt.Sprintf("key-%d", i)); err == nil {
					key.SignContext(ctx, digest[:], options(key))
				}
			}
		})
		m.Start()
		l.Leader()
		l.ready(m)
		for i := range 4 {
			l.signs(m, fmt.Sprintf("key-%d", i))
		}
	})
}

func TestARestoreGoesOnWhereItWasCutOff(t *testing.T) { // 16
	synctest.Test(t, func(t *testing.T) {
		const count = 20
		l := startKeys(t, 3, nodetest.Options{})
		m := l.Follower()
		for i := range count {
			l.create(m, fmt.Sprintf("key-%d", i), hsm.Ed25519)
		}
		m.Close()
		m.NewDevice()
		m.Start()
		l.Eventually("the blank device is known", func() bool {
			row, _ := l.Leader().View().Member(m.ID())
			return row.Device != nil && row.Device.State == string(hsm.Blank)
		})
		l.signs(m, "key-3") // by another node's device
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpUnwrap, Flavour: hsmtest.Slow, Delay: time.Second, Times: -1})
		l.provision(m)
		l.Eventually("half of the keys are back", func() bool { return len(l.objects(m)) >= count/2 })
		progress := m.RestoreProgress()
		m.Crash()
		m.Device.Heal()
		back := len(l.objects(m))
		if back == count || progress.Total != count || progress.Done > back {
			t.Fatalf("progress half way, with %d keys back: %+v", back, progress)
		}
		before := m.Device.Calls(hsmtest.OpUnwrap)
		m.Start()
		l.tidy(m)
		l.Eventually("all keys are covered", func() bool {
			return m.RestoreProgress().Done == count && m.View().Covered()[m.ID()] == count
		})
		if unwraps := m.Device.Calls(hsmtest.OpUnwrap) - before; unwraps != count-back {
			t.Fatalf("%d keys were unwrapped after the restart, with %d there already, which are only proven", unwraps, back)
		}
		for i := range count {
			l.signs(m, fmt.Sprintf("key-%d", i))
		}
	})
}

// TestAKeyThatIsHereIsNotUnwrappedAgain: a node that starts from a snapshot and
// reaches nobody lists objects of keys that its state does not know yet. When it
// does, they are proven where they are.
func TestAKeyThatIsHereIsNotUnwrappedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 10
		l := startKeys(t, 3, nodetest.Options{})
		m := l.Follower()
		m.Config.Timing.SnapshotAfter = 1
		m.Restart()
		l.ready(m)
		time.Sleep(2 * time.Minute) // a snapshot is taken
		m.Close()
		m.Config.Timing.SnapshotAfter = 0
		m.Start()
		l.ready(m)
		for i := range count {
			l.create(m, fmt.Sprintf("key-%d", i), hsm.Ed25519)
		}
		m.Crash()
		l.Network.Isolate(m.Host)
		before := m.Device.Calls(hsmtest.OpUnwrap)
		m.Start()
		l.Eventually("the device is listed", func() bool { return m.ObjectsForTest().Orphans == count })
		for _, other := range l.Members { // so that the log is there well before a read
			l.Network.Delay(m.Host, other.Host, 50*time.Millisecond)
		}
		l.Network.HealAll()
		l.tidy(m)
		l.Eventually("all keys are proven", func() bool { return m.RestoreProgress().Done == count })
		if unwraps := m.Device.Calls(hsmtest.OpUnwrap) - before; unwraps != 0 {
			t.Errorf("%d of %d keys that are in the device were unwrapped again", unwraps, count)
		}
	})
}

// TestAnObjectThatIsListedDuringALoadGoes: its proof failed once, so that its slot
// was listed again while the key came into another one.
func TestAnObjectThatIsListedDuringALoadGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		l.create(m, "k", hsm.Ed25519)
		m.Crash()
		m.Device.Plan(
			hsmtest.Plan{Op: hsmtest.OpSign},
			hsmtest.Plan{Op: hsmtest.OpList, Skip: 1, Flavour: hsmtest.Slow, Delay: 10 * time.Second},
			hsmtest.Plan{Op: hsmtest.OpUnwrap, Flavour: hsmtest.Slow, Delay: 20 * time.Second})
		m.Start()
		l.Eventually("the proof has failed and the device is listed again", func() bool { return m.Device.Pending() == 1 })
		l.signs(m, "k") // from its blob
		l.tidy(m)
		l.signs(m, "k")
	})
}

// A key that was committed while its creator still waited may be loaded by upkeep
// beside the object that it was made as. One of the two goes.
func TestALoadThatMeetsTheCreationLeavesOneObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err != nil {
			t.Fatal(err)
		}
		if err := m.LoadAgainForTest(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		l.tidy(m)
		l.signs(m, "k")
	})
}

// A second object whose proof fails keeps no other one where it is.
func TestEverySpareGoesThoughOneProofFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		const count = 3
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpDelete, Times: -1})
		for i := range count { // each leaves the copy that it was proven by
			l.create(m, fmt.Sprintf("k%d", i), hsm.Ed25519)
		}
		m.Crash()
		m.Device.Heal()
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpSign, Skip: count}) // of the first spare
		if held := len(l.objects(m)); held != 2*count {
			t.Fatalf("%d objects of %d keys", held, count)
		}
		m.Start()
		l.tidy(m)
	})
}

// Upkeep looks at the slots under its own lock, and an enumeration wakes upkeep
// under the slots': neither may wait for the other.
func TestUpkeepIsWokenUnderAnyLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		if !l.Members[0].WakesUnderLocksForTest() {
			t.Error("whoever wakes upkeep waits for a lock")
		}
	})
}

// A key that was just made is in its maker's device: it is not loaded from its blob
// there as well.
func TestUpkeepLeavesACreationAlone(t *testing.T) {
	l := startKeys(t, 1, nodetest.Options{})
	m := l.Members[0]
	var unwrapped atomic.Int32
	m.Device.Hook(func(call hsmtest.Call) {
		if call.Op == hsmtest.OpUnwrap {
			unwrapped.Add(1)
		}
	}, nil)
	const keys = 200
	for i := range keys {
		l.create(m, fmt.Sprintf("key-%d", i), hsm.Ed25519)
	}
	l.tidy(m)
	if n := unwrapped.Load(); n != keys { // each once, for its proof
		t.Errorf("%d unwraps for %d keys", n, keys)
	}
}
