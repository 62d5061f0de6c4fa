package node

import (
	"context"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// View is this node's replicated state as it is now, read only. It may lag
// behind the cluster's.
func (n *Node) View() *fsm.View { return n.view() }

// Now is this node's clock.
func (n *Node) Now() time.Time { return n.now() }

// Leads tells whether this node leads its cluster and has finished taking over.
func (n *Node) Leads() bool {
	m := n.cluster.Load()
	return m != nil && m.log.IsLeader()
}

// ProposeAs commits a command that an operator or client asked of this node. The
// state checks what that one may do; that it was really asked, this node
// vouches for.
func (n *Node) ProposeAs(ctx context.Context, who dkek.Fingerprint, body fsm.Body) error {
	_, err := n.propose(ctx, fsm.Command{Header: fsm.Header{Request: newRequest(), Actor: fsm.Actor{Who: who, Node: n.id}}, Body: body})
	return err
}
