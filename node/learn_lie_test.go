package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A member that lies about who is a member must not keep a way in that outlives
// its own removal.
func TestSybilOfARemovedMemberIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		leader, liar := c.Leader(), c.Follower()
		sybil := dkek.Fingerprint{1, 2, 3}
		liar.LieAboutMembers(sybil)
		leader.Meet()
		time.Sleep(10 * time.Second)
		if leader.LetsIn(sybil) {
			t.Error("one member's word let a stranger in")
		}
		if err := leader.ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), &fsm.MemberRemove{Node: liar.ID()}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if leader.LetsIn(sybil) {
			t.Error("a key that no committed change ever named may still speak Raft")
		}
	})
}

// What a majority of the others says is believed, for a while.
func TestMembersAreHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		leader, newcomer := c.Leader(), dkek.Fingerprint{1, 2, 3}
		for _, m := range c.Members {
			if m != leader {
				m.LieAboutMembers(newcomer)
			}
		}
		leader.Meet()
		time.Sleep(10 * time.Second)
		if !leader.LetsIn(newcomer) {
			t.Error("two of two others name a member, and it is not believed")
		}
		time.Sleep(2 * time.Minute)
		if leader.LetsIn(newcomer) {
			t.Error("hearsay is believed for ever")
		}
	})
}

// However often a member repeats itself, it is one.
func TestMemberIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		leader, sybil := c.Leader(), dkek.Fingerprint{1, 2, 3}
		c.Follower().LieAboutMembersOften(sybil)
		leader.Meet()
		time.Sleep(10 * time.Second)
		if leader.LetsIn(sybil) {
			t.Error("one member's word, repeated, let a stranger in")
		}
	})
}
