package transport_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// While a node's key changes, its peers know it under the old key or the new one,
// and it is reached, and let in, by both.
func TestTwoKeysWhileOneChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		old, next := r.identities[1], newIdentity(t)
		meet := func() (there, back error) {
			there = tryRaft(r, 0, r.addrs[1])
			back = tryRaft(r, 1, r.addrs[0])
			return there, back
		}
		r.nodes[1].Identify(old, next)
		if there, back := meet(); there != nil || back != nil {
			t.Errorf("before the peers know the new key: %v, %v", there, back)
		}
		r.members.remove(old.Fingerprint())
		r.members.add(next.Fingerprint(), r.addrs[1])
		if there, back := meet(); there != nil || back != nil {
			t.Errorf("peers know the new key first: %v, %v", there, back)
		}
		r.nodes[1].Identify(next, nil)
		if there, back := meet(); there != nil || back != nil {
			t.Errorf("after the change: %v, %v", there, back)
		}
		r.nodes[1].Identify(old, nil)
		if there, back := meet(); there == nil || back == nil {
			t.Error("the old key is good for something yet")
		}
	})
}

func tryRaft(r *rig, from int, to string) error {
	conn, err := r.nodes[from].Raft().Dial(raft.ServerAddress(to), time.Second)
	if err == nil {
		conn.Close()
	}
	return err
}
