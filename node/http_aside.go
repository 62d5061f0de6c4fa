package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

const (
	methodAside = "node.aside"
	asideAdopt  = "adopt"
	asideDelete = "delete"
)

// asideRequest asks a member to decide about an object that it keeps aside, at an
// operator's word.
type asideRequest struct {
	Slot     uint32           `cbor:"1,keyasint"`
	Action   string           `cbor:"2,keyasint"`
	Name     string           `cbor:"3,keyasint,omitempty"`
	Operator dkek.Fingerprint `cbor:"4,keyasint"` // the member that asks vouches for it
}

func decideAside(ctx context.Context, a *asked, q *api.AsideRequest) (api.Ack, error) {
	switch {
	case q.Action != asideAdopt && q.Action != asideDelete:
		return api.Ack{}, malformed("action %.40q: want %s or %s", q.Action, asideAdopt, asideDelete)
	case (q.Name == "") == (q.Action == asideAdopt):
		return api.Ack{}, malformed("a key is adopted under a name, and deleted without one")
	}
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	m, err := memberCalled(a.view, q.Node)
	if err != nil {
		return api.Ack{}, err
	}
	return onMember(ctx, a, m.ID, methodAside, asideRequest{q.Slot, q.Action, q.Name, a.visitor.fingerprint}, a.node.asideForMember)
}

// asideForMember does it on this node, for an operator that this node knows.
func (n *Node) asideForMember(ctx context.Context, q asideRequest) (api.Ack, error) {
	operator, ok := n.view().Operator(q.Operator)
	if !ok {
		return api.Ack{}, fmt.Errorf("%w: what is aside is decided at an operator's word", ErrForbidden)
	}
	if err := n.keys.ready(); err != nil {
		return api.Ack{}, err
	}
	caller, slot := Caller{Kind: CallerOperator, Fingerprint: q.Operator, Name: operator.Name}, hsm.Slot(q.Slot)
	n.logger.Warn("an object that was kept aside is decided on", "slot", q.Slot, "action", q.Action, "name", q.Name, "operator", operator.Name)
	var err error
	if q.Action == asideAdopt {
		_, err = n.AdoptAside(ctx, caller, slot, q.Name)
		if _, done := n.view().Key(q.Name); done && errors.Is(err, fsm.NotFound) {
			err = nil // the same request once more
		}
	} else {
		err = n.DeleteAside(ctx, caller, slot)
	}
	return api.Ack{Index: n.view().Index()}, err
}
