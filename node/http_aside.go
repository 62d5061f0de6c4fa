package node

import (
	"context"
	"errors"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

func decideAside(ctx context.Context, a *asked, q *api.AsideRequest) (api.Ack, error) {
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	m, err := memberCalled(a.view, q.Node)
	if err != nil {
		return api.Ack{}, err
	}
	return atDevice(ctx, a, m.ID, q.OperatorWord)
}

// decideAside does with an object that is kept aside what an operator signed.
func (n *Node) decideAside(ctx context.Context, caller Caller, s *fsm.DeviceStatement) error {
	if err := n.keys.ready(); err != nil {
		return err
	}
	if s.Act == fsm.ActDelete {
		return n.DeleteAside(ctx, caller, hsm.Slot(s.Slot))
	}
	_, err := n.AdoptAside(ctx, caller, hsm.Slot(s.Slot), s.Name)
	if _, done := n.view().Key(s.Name); done && errors.Is(err, fsm.NotFound) {
		return nil // what an earlier word adopted, and whose answer was lost
	}
	return err
}
