package node

import (
	"context"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

// LieAboutMembers answers whoever asks who is a member with one more.
func (n *Node) LieAboutMembers(also dkek.Fingerprint) {
	handle(n, methodMembers, func(context.Context, *fsm.Member, nothing) (memberList, error) {
		list := memberListOf(n.view())
		list.Index = 1 << 63
		list.Members = append(list.Members, memberIdentity{dkek.NodeID{0xff}, also, "sybil.example:1"})
		return list, nil
	})
}

// Meet is what a stranger's connection does.
func (n *Node) Meet() { n.directory.meet() }

// LetsIn tells whether a key may speak Raft here.
func (n *Node) LetsIn(f dkek.Fingerprint) bool { return n.directory.IsMember(transport.Fingerprint(f)) }

// LieAboutMembersOften answers with the same sybil several times over, with
// another entry of the same node in between.
func (n *Node) LieAboutMembersOften(also dkek.Fingerprint) {
	handle(n, methodMembers, func(context.Context, *fsm.Member, nothing) (memberList, error) {
		list := memberListOf(n.view())
		for range 3 {
			list.Members = append(list.Members, memberIdentity{dkek.NodeID{0xff}, also, "sybil.example:1"},
				memberIdentity{dkek.NodeID{0xff}, dkek.Fingerprint{9}, "sybil.example:1"})
		}
		return list, nil
	})
}

// Identity is the node's own, for tests that speak in its name after its end.
func (n *Node) Identity() (*transport.Identity, error) {
	return transport.NewIdentity(n.own.Load().signer)
}
