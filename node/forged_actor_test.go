package node_test

import (
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A member vouches for who asked it. It must not speak for another member: what
// only a node itself may say would be anybody's to say.
func TestMemberProposesUnderItsOwnNameOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		leader, liar := c.Leader(), c.Follower()
		victim, _ := leader.View().Member(leader.ID())
		for _, m := range c.Members {
			if m != leader && m != liar {
				victim, _ = leader.View().Member(m.ID())
			}
		}
		as := fsm.Actor{Who: victim.Fingerprint, Node: victim.ID}
		if err := liar.ForgeProposal(t.Context(), leader.ID(), as, &fsm.MemberAddress{Node: victim.ID, Addr: "elsewhere.example:1"}); err == nil {
			t.Error("the victim's address was changed by another member")
		}
		if err := liar.ForgeProposal(t.Context(), leader.ID(), as, &fsm.MemberRemove{Node: victim.ID}); err == nil {
			t.Error("the victim was removed by another member, in its own name")
		}
	})
}
