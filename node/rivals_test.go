package node_test

import (
	"context"
	"crypto/ecdsa"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A node dies while it makes a key, and its caller asks another node under the
// same request ID. The first node comes back with an object of a request that
// made another key: it deletes that, and loads the key.
func TestTheSameRequestAtAnotherNode(t *testing.T) {
	for _, keyType := range []hsm.KeyType{hsm.ECDSAP256, hsm.AES256} {
		for _, op := range []hsmtest.Op{hsmtest.OpWrap, hsmtest.OpDelete} { // one object, and two
			t.Run(string(keyType)+" "+string(op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := startKeys(t, 3, nodetest.Options{})
					died, other := l.Members[0], l.Members[1]
					spec := node.KeySpec{Name: "k", Type: keyType, RequestID: request(7)}
					l.dies(died, hsmtest.Plan{Op: op}, func(ctx context.Context) { died.CreateKey(ctx, spec) })
					if len(l.objects(died)) == 0 {
						t.Fatal("nothing was left behind: this proves nothing")
					}
					l.Leader()
					l.Eventually("the other node makes it", func() bool { _, err := other.CreateKey(t.Context(), spec); return err == nil })
					died.Start()
					l.tidy(died)
					l.Eventually("it holds the key", func() bool { o := died.ObjectsForTest(); return o.Resident == 1 && o.Orphans == 0 && len(o.Aside) == 0 })
				})
			})
		}
	}
}

// Two nodes die while each makes a key for the same request. Neither key was
// committed: both objects go, in whichever order the nodes come back.
func TestTheSameRequestLeftAtTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		spec := node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)}
		for _, m := range l.Members[:2] {
			l.dies(m, hsmtest.Plan{Op: hsmtest.OpWrap}, func(ctx context.Context) { m.CreateKey(ctx, spec) })
		}
		for _, m := range l.Members[:2] {
			m.Start()
		}
		for _, m := range l.Members[:2] {
			l.tidy(m)
			l.Eventually("nothing is left", func() bool { o := m.ObjectsForTest(); return o.Slots > 0 && o.Orphans == 0 && len(o.Aside) == 0 })
		}
	})
}

// A node makes a key while another one commits a key for the same request. Its
// caller gets that key, also where the log has yet to arrive.
func TestTheSameRequestAtTwoNodesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		m, leader := l.Follower(), l.Leader()
		spec := node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)}
		var once sync.Once
		m.Device.Hook(func(call hsmtest.Call) {
			if call.Op == hsmtest.OpDelete { // of the copy: only the proposal is missing
				once.Do(func() { leader.CreateKey(t.Context(), spec) })
			}
		}, nil)
		key, err := m.CreateKey(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		want, err := leader.Key(t.Context(), "k")
		if err != nil || !want.Public().(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Errorf("another key: %v", err)
		}
		for _, m := range l.Members {
			l.tidy(m)
		}
	})
}

// A caller that hangs up and asks again while its first request is still under
// way gets the key of that one.
func TestARequestThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		m := l.Follower()
		spec := node.KeySpec{Name: "k", Type: hsm.ECDSAP256, RequestID: request(7)}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				if _, err := m.CreateKey(t.Context(), spec); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		l.signs(m, "k")
		l.tidy(m)
	})
}
