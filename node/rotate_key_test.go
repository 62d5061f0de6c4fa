package node_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// rotateKey rotates a member's key and waits until everybody knows it.
func rotateKey(c *nodetest.Cluster, m *nodetest.Member) {
	c.T.Helper()
	old := m.Fingerprint()
	f, err := m.RotateNodeKey(c.T.Context())
	if err != nil {
		c.T.Fatalf("%s: %v", m.Name, err)
	}
	if f == old || f != m.Fingerprint() {
		c.T.Errorf("%s: the key is %v, was %v, and %v was announced", m.Name, m.Fingerprint(), old, f)
	}
	knownToAll(c, m)
}

// knownToAll waits until all members let in a member's present key alone, and the
// former one is gone from its folder.
func knownToAll(c *nodetest.Cluster, m *nodetest.Member) {
	c.T.Helper()
	c.Eventually("everybody knows the key of "+m.Name, func() bool {
		for _, other := range c.Members {
			if other.Node == nil {
				continue
			}
			if row, ok := other.View().Member(m.ID()); !ok || row.Fingerprint != m.Fingerprint() {
				return false
			}
		}
		return m.Keys() == 1
	})
}

// use has a member's own program sign and create keys until it is told to stop,
// and fails the test at the first refusal.
func use(t *testing.T, m *nodetest.Member, key *node.Key) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	digest := sha256.Sum256([]byte("load"))
	busy.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				t.Errorf("%s: sign: %v", m.Name, err)
			}
			if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: fmt.Sprintf("%s-%d", m.Name, i), Type: hsm.ECDSAP256}); err != nil {
				t.Errorf("%s: create: %v", m.Name, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	return func() { cancel(); busy.Wait() }
}

// Every node's key is rotated, one after the other, while all of them work. Shares
// are gathered, proven and dealt anew all the same.
func TestRotateEveryNodesKey(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		devicesReady(c)
		makeKey(t, c.Leader(), "key")
		var stops []func()
		for _, m := range c.Members {
			key, err := m.Key(t.Context(), "key")
			if err != nil {
				t.Fatal(err)
			}
			stops = append(stops, use(t, m, key))
		}
		for range 2 {
			for _, m := range c.Members {
				rotateKey(c, m)
			}
		}
		for _, stop := range stops {
			stop()
		}
		target := blankDevice(c, c.Follower())
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
		c.Approve(id, 1)
		c.Done(id)
		drilled, err := c.Leader().OpenDrill(t.Context(), node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(drilled.ID, 1)
		c.Done(drilled.ID)
		id = openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		row := provenEverywhere(t, c, 2)
		onlyShares(c, row)
		for _, m := range c.Members {
			rotateKey(c, m)
			m.Restart()
		}
		c.Leader()
		makeKey(t, c.Members[0], "after")
	})
}

// A thief of the former key is a stranger.
func TestFormerKeyOpensNothing(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		victim := c.Follower()
		stolen := victim.Fingerprint()
		rotateKey(c, victim)
		for _, m := range c.Members {
			if m.LetsIn(stolen) {
				t.Errorf("%s lets the former key of %s in", m.Name, victim.Name)
			}
			if _, err := m.CallerOf(stolen); err == nil {
				t.Errorf("%s knows the former key of %s", m.Name, victim.Name)
			}
			if m != victim {
				m.Restart()
				if m.LetsIn(stolen) {
					t.Errorf("%s lets it in after a restart", m.Name)
				}
			}
		}
		if err := victim.RotateBack(t.Context(), stolen); !errors.Is(err, fsm.Exists) && !errors.Is(err, fsm.NotAllowed) {
			t.Errorf("back to the former key: %v", err)
		}
	})
}

// Two nodes, of which the one that stays behind has to hear of the change from the
// other, under whichever of its keys.
func TestRotateOfTwo(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 2, nodetest.Options{Blank: true})
		for range 3 {
			for _, m := range c.Members {
				rotateKey(c, m)
			}
		}
		for _, m := range c.Members {
			m.Restart()
		}
		c.Leader()
		rotateKey(c, c.Follower())
	})
}

// A member that was away while the others' keys were rotated comes back and hears
// of it; the others keep the former keys until then, and rotate none again.
func TestRotateWhileAMemberIsAway(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		away := c.Follower()
		away.Crash()
		var others []*nodetest.Member
		for _, m := range c.Members {
			if m != away {
				others = append(others, m)
			}
		}
		for _, m := range others {
			if _, err := m.RotateNodeKey(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		for _, m := range others {
			if m.Keys() != 2 {
				t.Errorf("%s has %d keys while %s does not know the new one", m.Name, m.Keys(), away.Name)
			}
			if _, err := m.RotateNodeKey(t.Context()); !errors.Is(err, fsm.WrongState) {
				t.Errorf("%s rotates its key once more: %v", m.Name, err)
			}
			next := secret.Random(secret.KeySize) // takes both keys along
			if err := m.Reseal(t.Context(), m.Seal, next); err != nil {
				t.Fatal(err)
			}
			m.Seal, m.Config.Seal = next, secret.Fixed(next)
			m.Restart()
		}
		away.Start()
		for _, m := range others {
			knownToAll(c, m)
		}
		rotateKey(c, away)
	})
}

// Where a rotation dies: see the table of crash points.
func TestRotationIsFinishedAfterACrash(t *testing.T) {
	for _, point := range []string{"next key written", "rotation committed"} {
		t.Run(point, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
				m := c.Follower()
				old := m.Fingerprint()
				s := holdAt(m, point)
				go m.RotateNodeKey(m.Node.Context())
				s.kill(c, m)
				c.Eventually("the key is rotated", func() bool { return m.Fingerprint() != old })
				knownToAll(c, m)
				if m.LetsIn(old) {
					t.Error("the old key is let in")
				}
			})
		})
	}
}

// A rotation that is refused changes nothing, and can be asked for later.
func TestRotationWaitsForCeremonies(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		devicesReady(c)
		m := c.Follower()
		old := m.Fingerprint()
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		if _, err := m.RotateNodeKey(t.Context()); !errors.Is(err, fsm.WrongState) {
			t.Errorf("rotated amid a ceremony: %v", err)
		}
		if m.Fingerprint() != old || m.Keys() != 1 {
			t.Errorf("the refused rotation left %d keys", m.Keys())
		}
		c.Approve(id, 1)
		c.Done(id)
		rotateKey(c, m)
	})
}
