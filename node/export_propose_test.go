package node

import (
	"context"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// ForgeProposal sends the leader a command as if another had asked at another node.
func (n *Node) ForgeProposal(ctx context.Context, leader dkek.NodeID, actor fsm.Actor, body fsm.Body) error {
	command, err := fsm.Encode(fsm.Command{Header: fsm.Header{Request: newRequest(), Actor: actor}, Body: body})
	if err != nil {
		return err
	}
	var answer proposed
	if err := n.call(ctx, leader, methodPropose, proposal{command}, &answer); err != nil {
		return err
	}
	if answer.Err != nil {
		return answer.Err
	}
	return nil
}
