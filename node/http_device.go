package node

import (
	"context"
	"errors"
	"syscall"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
)

func deviceEndpoints() map[string]endpoint {
	return map[string]endpoint{
		api.SecretPIN:        enter(1, enterPIN),
		api.SecretSOPIN:      enter(1, enterSOPIN),
		api.DeviceList:       look(listDevices),
		api.DeviceInfo:       ask(deviceInfo),
		api.DeviceWipe:       ask(wipe),
		api.DeviceAside:      ask(decideAside),
		api.DeviceReseal:     enter(2, resealNode),
		api.DevicePINChange:  enter(2, changePIN),
		api.DevicePINUnblock: enter(2, unblockPIN),
	}
}

func enterPIN(ctx context.Context, a *asked, secrets []*secret.Bytes) (api.Health, error) {
	if err := a.node.EnterPIN(ctx, secrets[0]); err != nil {
		return api.Health{}, err
	}
	if _, err := a.node.Device(ctx); err != nil {
		return api.Health{}, err
	}
	return a.node.health(), nil
}

func enterSOPIN(_ context.Context, a *asked, secrets []*secret.Bytes) (api.Health, error) {
	if err := a.node.EnterSOPIN(secrets[0]); err != nil {
		return api.Health{}, err
	}
	return a.node.health(), nil
}

func changePIN(ctx context.Context, a *asked, secrets []*secret.Bytes) (api.Ack, error) {
	return api.Ack{}, a.node.ChangePIN(ctx, secrets[0], secrets[1])
}

func unblockPIN(ctx context.Context, a *asked, secrets []*secret.Bytes) (api.Ack, error) {
	given := func(s *secret.Bytes) *secret.Bytes { // an empty one is the node's own
		if s.Len() == 0 {
			return nil
		}
		return s
	}
	err := a.node.UnblockPIN(ctx, given(secrets[0]), given(secrets[1]))
	if d := a.node.device; d != nil && d.token.PINDerived && isPINTrouble(err) {
		said := a.face.explain(err)
		said.Hint = "nodectl device pin unblock, without a source: the node knows its device's SO-PIN"
		if secrets[0].Len() == 0 {
			said.Hint = "the device has other PINs than those of its seal secret: stop the node, delete the device's file, start it, then nodectl device replace: the keys come back from the cluster"
		}
		return api.Ack{}, said
	}
	return api.Ack{}, err
}

func resealNode(ctx context.Context, a *asked, secrets []*secret.Bytes) (api.Ack, error) {
	var keys [2]*secret.Bytes
	for i, what := range []string{"present seal secret", "new seal secret"} {
		key, err := secret.Key(ctx, secret.Fixed(secrets[i]), what)
		if err != nil {
			return api.Ack{}, malformed("%v", err)
		}
		defer key.Wipe()
		keys[i] = key
	}
	return api.Ack{}, a.node.Reseal(ctx, keys[0], keys[1])
}

func listDevices(ctx context.Context, a *asked) (api.Devices, error) {
	if err := a.look(ctx); err != nil {
		return api.Devices{}, err
	}
	a.face.askMembers(ctx, a.view)
	return api.Devices{Devices: a.face.devices(a.view, newTimes(a.view))}, nil
}

// onMember answers by this node, or asks the member that is meant.
func onMember[Q, A any](ctx context.Context, a *asked, id dkek.NodeID, method string, q Q, here func(ctx context.Context, q Q) (A, error)) (A, error) {
	if id == a.node.id {
		return here(ctx, q)
	}
	var answer A
	err := a.node.call(ctx, id, method, q, &answer)
	var far *peerError
	var refused *fsm.Error
	if err != nil && ctx.Err() == nil && !errors.As(err, &far) && !errors.As(err, &refused) {
		return answer, unanswered(memberName(a.view, id), method, err)
	}
	return answer, err
}

// unanswered says which member it was that gave no answer. What it was to do it
// has not done where it was not even reached.
func unanswered(name, method string, err error) error {
	said := &api.Error{Code: api.CodeUnavailable, Node: name, Message: "does not answer: " + err.Error(), Hint: "start it, or see why it cannot be reached: systemctl status keycustodian on its machine"}
	if method == methodAct && !errors.Is(err, syscall.ECONNREFUSED) {
		said.Code, said.Hint = api.CodeTimeout, "nobody knows whether it was done: look with nodectl device info --node "+name
	}
	return said
}

func deviceInfo(ctx context.Context, a *asked, q *api.DeviceQuery) (api.DeviceDetails, error) {
	if a.node.Cluster() == (dkek.ClusterID{}) && q.Node == "" {
		return a.node.deviceDetails(ctx, struct{}{})
	}
	if err := a.look(ctx); err != nil {
		return api.DeviceDetails{}, err
	}
	id := a.node.id
	if q.Node != "" {
		m, err := memberCalled(a.view, q.Node)
		if err != nil {
			return api.DeviceDetails{}, err
		}
		id = m.ID
	}
	return onMember(ctx, a, id, methodDevice, struct{}{}, a.node.deviceDetails)
}

const methodDevice = "node.device"

// deviceDetails is what this node says about its own device now.
func (n *Node) deviceDetails(ctx context.Context, _ struct{}) (api.DeviceDetails, error) {
	status, err := n.Device(ctx)
	if err != nil {
		return api.DeviceDetails{}, err
	}
	view := n.view()
	row := &fsm.Member{ID: n.id, Name: n.config.Name, Device: &fsm.Device{
		Kind: status.Info.Kind, Serial: status.Info.Serial, State: status.State, KCV: status.KCV, Types: status.Types,
		Slots: uint32(max(status.Info.Slots, 0)), Combines: status.Combines, Weakness: status.Weakness,
	}}
	d := api.DeviceDetails{
		Device: deviceToWire(row, view.Covered()[n.id]), Label: printable(status.Info.Label), Model: printable(status.Info.Model),
		Firmware: printable(status.Info.Firmware), LoggedIn: status.Info.LoggedIn, FreeSlots: status.Info.FreeSlots,
		UserTries: status.Tries.User, SOTries: status.Tries.SO,
	}
	d.ReportedAt = status.Looked.UTC()
	d.Restored = (*api.Restored)(n.word().Restored)
	for _, o := range status.Objects.Aside {
		d.Aside = append(d.Aside, api.AsideObject{Slot: uint32(o.Slot), Type: string(o.Type), Label: o.Label, Incarnation: o.Incarnation, Why: o.Why})
	}
	return d, nil
}

// wipe erases a member's device. The socket is of this machine's administrator,
// who could take the device out as well: it needs no signature for this node's own.
func wipe(ctx context.Context, a *asked, q *api.WipeRequest) (api.Ack, error) {
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	m, err := memberCalled(a.view, q.Node)
	if err != nil {
		return api.Ack{}, err
	}
	switch {
	case a.visitor.role != api.Socket:
		return atDevice(ctx, a, m.ID, q.OperatorWord)
	case m.ID != a.node.id:
		return api.Ack{}, &api.Error{Code: api.CodeForbidden, Message: "the socket wipes this node's own device only", Hint: "ask as an operator"}
	}
	return api.Ack{}, a.node.wipeDevice(ctx, q.Serial)
}
