package node_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// warned tells whether the node's status has a warning with all these words.
func warned(t *testing.T, c *nodetest.Cluster, m *nodetest.Member, words ...string) bool {
	t.Helper()
	c.Eventually("it knows whom to answer", func() bool { _, ok := m.View().Cluster(); return ok })
	status := read[api.Status](t, browse(t, c, c.Operators[0].Key).get(m, "/v1/status"))
	return slices.ContainsFunc(status.Warnings, func(w string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(w, word) })
	})
}

// The record of what a node gave away is missed where it is not there, also after
// the next start, and each release in it that the log shows.
func TestMissingReleasesAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		m := c.Follower()
		if why := m.Distrust(); len(why) > 0 {
			t.Fatalf("nothing is wrong yet: %v", why)
		}
		content := m.Config.Memory.Content("releases")
		notes, _ := m.Releases()
		if len(notes) < 2 {
			t.Fatalf("%d releases: this proves nothing", len(notes))
		}

		m.Crash()
		size := 4 + int(content[2])<<8 + int(content[3])
		m.Config.Memory.SetContent("releases", content[:size])
		m.Start()
		c.Eventually("a release that is not recorded is reported", func() bool {
			return warned(t, c, m, "on this node", "its own record lacks", "interrupted before the share left")
		})
		if got := len(m.Distrust()); got != len(notes)-1 {
			t.Errorf("%d of %d releases are missing: %v", got, len(notes)-1, m.Distrust())
		}

		m.Crash()
		m.Config.Memory.Remove("releases")
		for range 2 {
			m.Start()
			c.Eventually("the missing file is reported", func() bool { return warned(t, c, m, "on this node", "releases", "missing") })
			m.Crash()
		}
		m.Config.Memory.SetContent("releases", content)
		m.Config.Memory.Remove("releases-damaged")
		m.Start()
		c.Leader()
		time.Sleep(time.Second)
		if why := m.Distrust(); len(why) > 0 {
			t.Errorf("all is back: %v", why)
		}
	})
}

// A damaged proof is found, at a start and by the daily look: that of the sharing
// in force is made again, another one is reported.
func TestDamagedProofsAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		m := c.Follower()
		c.Eventually("both proofs are there", func() bool { return len(m.Config.Memory.Files("proofs/")) == 2 })
		damage := func(name string) []byte {
			whole := m.Config.Memory.Content(name)
			damaged := bytes.Clone(whole)
			damaged[len(damaged)/2] ^= 1
			m.Config.Memory.SetContent(name, damaged)
			return whole
		}
		old := damage("proofs/1-1")
		now := damage("proofs/2-1")
		m.LookAtShares() // as each day
		time.Sleep(time.Second)
		if !warned(t, c, m, "on this node", "proofs/1-1", "damaged") {
			t.Errorf("after a look: %v", m.Distrust())
		}
		if !bytes.Equal(m.Config.Memory.Content("proofs/2-1"), now) || warned(t, c, m, "proofs/2-1") {
			t.Errorf("the proof in force was not made again: %v", m.Distrust())
		}
		damage("proofs/2-1")
		m.Restart()
		c.Leader()
		c.Eventually("at a start as well", func() bool { return bytes.Equal(m.Config.Memory.Content("proofs/2-1"), now) })
		m.Crash()
		m.Config.Memory.SetContent("proofs/1-1", old)
		m.Start()
		c.Leader()
		if why := m.Distrust(); len(why) > 0 {
			t.Errorf("all is back: %v", why)
		}
	})
}

// A damaged reservation of slots is said, loses no key and deletes nothing.
func TestDamagedSlotsAreSaid(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "cut": `{"format":1,"serial":"KC`, "out of order": `{"format":1,"serial":"x","runs":[[9,3]]}`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := startKeys(t, 3, nodetest.Options{})
				m := l.Follower()
				l.create(m, "before", hsm.ECDSAP256)
				m.Crash()
				before := len(l.objects(m))
				m.Config.Memory.SetContent("slots", []byte(content))
				m.Start()
				l.Leader()
				l.ready(m)
				l.Eventually("it is said", func() bool { return warned(t, l.Cluster, m, "on this node", `"slots"`, "kept aside", "no key is lost") })
				l.signs(m, "before")
				l.create(m, "after", hsm.ECDSAP256)
				l.tidy(m)
				if got := len(l.objects(m)); got != before+1 {
					t.Errorf("%d objects, and %d before", got, before)
				}
			})
		})
	}
}

// A node whose state does not have its newest keys yet keeps their objects aside,
// where it does not know its slots either. They are no other objects once it has
// heard of the keys.
func TestObjectsKeptAsideTooEarlyAreTheirKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		m := l.Follower()
		if err := m.TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
		l.create(m, "k", hsm.ECDSAP256)
		for _, m := range l.Members {
			m.Crash()
		}
		m.Config.Memory.SetContent("slots", nil)
		m.Start()
		l.Eventually("its object is kept aside", func() bool {
			status, err := m.Node.Device(t.Context())
			return err == nil && len(status.Objects.Aside) == 1
		})
		for _, other := range l.Members {
			if other != m {
				other.Start()
			}
		}
		l.Leader()
		l.Eventually("it has heard of the key", func() bool {
			_, known := m.View().Key("k")
			return known
		})
		l.signs(m, "k")
		l.tidy(m)
	})
}

// Where the file of rejected PINs is empty, cut or changed, nobody knows which PIN
// the device has rejected: none is sent.
func TestWithoutTheRejectedPINsNoneIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m, device := startMoody(t)
		m.Close()
		m.Config.Device.PIN = source(wrongPIN)
		device.out.Store(true)
		m.Start()
		_ = m.LoginForTest(t.Context())
		synctest.Wait()
		m.Close()
		whole := m.Config.Memory.Content("pin-rejected")
		if len(whole) == 0 {
			t.Fatal("no PIN was rejected: this proves nothing")
		}
		left := tries(l, m)
		mark := bytes.Index(whole, []byte(`"hash": "`))
		for name, content := range map[string][]byte{
			"empty": {}, "cut": whole[:len(whole)/2], "without its end": whole[:len(whole)-3], "no object": []byte("{}"),
			"without marks": append(bytes.Clone(whole[:bytes.Index(whole, []byte(`"marks"`))]), `"marks": []}`...),
			"a short mark":  slices.Concat(whole[:mark+9], whole[mark+11:]),
		} {
			m.Config.Memory.SetContent("pin-rejected", content)
			m.Start()
			for range 3 {
				err := m.LoginForTest(t.Context())
				if err == nil || !strings.Contains(err.Error(), `"pin-rejected"`) || !strings.Contains(err.Error(), "remove the file") {
					t.Errorf("%s: log in: %v", name, err)
				}
			}
			synctest.Wait()
			l.Leader()
			l.Eventually("the device's state says it", func() bool {
				status, err := m.Node.Device(t.Context())
				return err == nil && status.Err != nil && strings.Contains(status.Err.Error(), `"pin-rejected"`)
			})
			m.Close()
			if got := tries(l, m); got != left {
				t.Fatalf("%s: a PIN was sent: %d tries left, and %d before", name, got, left)
			}
		}
	})
}
