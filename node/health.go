package node

import (
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// health is what the node says about itself to anybody, quorum or not.
func (n *Node) health() api.Health {
	h := api.Health{State: api.StateOpen, Version: buildVersion(), Quorum: n.hasQuorum()}
	view := n.view()
	switch err := n.standing(view); {
	case err == nil:
		h.Ready = true
	case errors.Is(err, ErrStale):
		h.Missing = api.Plain(err.Error())
	case errors.Is(err, ErrSealed):
		h.State, h.Missing = api.StateSealed, api.Plain(err.Error())
	default:
		h.State, h.Missing = api.StateUnready, api.Plain(err.Error())
	}
	return h
}

// standing says what keeps this node from using keys, or nil.
func (n *Node) standing(view *fsm.View) error {
	if err := n.Sealed(); err != nil {
		return err
	}
	if err := n.Err(); err != nil {
		return err
	}
	m := n.cluster.Load()
	if m == nil {
		return n.outside()
	}
	if err := m.log.Err(); err != nil {
		return err
	}
	if err := n.diskTrouble(); err != nil {
		return err
	}
	cluster, ok := view.Cluster()
	switch {
	case !ok && n.hasQuorum():
		return errCatchingUp
	case !ok:
		return errNothingYet
	}
	if _, ok := view.Proven(); !ok {
		return ErrNoDKEK
	}
	if err := n.deviceStanding(view); err != nil {
		return err
	}
	if age, ok := n.stateAge(); !ok || age > cluster.Policy.StaleTime() && age > quorumSilence {
		return ErrStale
	}
	return nil
}

// deviceStanding says what keeps keys from being used in this node's device.
func (n *Node) deviceStanding(view *fsm.View) error {
	err := n.device.usableIn(view)
	if err != nil && isPINTrouble(err) {
		return fmt.Errorf("%w: the device: %w", ErrSealed, err)
	}
	return err
}
