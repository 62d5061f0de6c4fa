package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
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
	return api.Ack{}, a.node.UnblockPIN(ctx, secrets[0], secrets[1])
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
	return api.Devices{Devices: a.face.devices(a.view, newTimes(a.view))}, nil
}

// onMember answers by this node, or asks the member that is meant.
func onMember[Q, A any](ctx context.Context, a *asked, id dkek.NodeID, method string, q Q, here func(ctx context.Context, q Q) (A, error)) (A, error) {
	if id == a.node.id {
		return here(ctx, q)
	}
	var answer A
	err := a.node.call(ctx, id, method, q, &answer)
	return answer, err
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
	for _, o := range status.Objects.Aside {
		d.Aside = append(d.Aside, api.AsideObject{Slot: uint32(o.Slot), Type: string(o.Type), Label: o.Label, Incarnation: o.Incarnation, Why: o.Why})
	}
	return d, nil
}

const methodWipe = "node.wipe"

// wipeRequest asks a member to erase its own device, at an operator's word.
type wipeRequest struct {
	Serial   string           `cbor:"1,keyasint"`
	Operator dkek.Fingerprint `cbor:"2,keyasint"` // the member that asks vouches for it
}

func wipe(ctx context.Context, a *asked, q *api.WipeRequest) (api.Ack, error) {
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	m, err := memberCalled(a.view, q.Node)
	if err != nil {
		return api.Ack{}, err
	}
	if a.visitor.role == api.Socket && m.ID != a.node.id {
		return api.Ack{}, &api.Error{Code: api.CodeForbidden, Message: "the socket wipes this node's own device only", Hint: "ask as an operator"}
	}
	here := func(ctx context.Context, q wipeRequest) (api.Ack, error) {
		return api.Ack{}, a.node.wipeDevice(ctx, q.Serial)
	}
	return onMember(ctx, a, m.ID, methodWipe, wipeRequest{q.Serial, a.visitor.fingerprint}, here)
}

// wipeForMember answers a member that an operator has asked.
func (n *Node) wipeForMember(ctx context.Context, q wipeRequest) (api.Ack, error) {
	if _, ok := n.view().Operator(q.Operator); !ok {
		return api.Ack{}, fmt.Errorf("%w: a device is wiped at an operator's word", ErrForbidden)
	}
	return api.Ack{}, n.wipeDevice(ctx, q.Serial)
}

// wipeDevice erases this node's device, unless a key would be lost by it. It then
// waits for a provision.
func (n *Node) wipeDevice(ctx context.Context, serial string) error {
	info, err := n.config.Device.Info(ctx)
	if err != nil {
		return err
	}
	if info.Serial != serial {
		return &fsm.Error{Code: fsm.Conflict, Message: fmt.Sprintf("the device here has serial %.64s, not %.64s: nothing was erased", info.Serial, serial)}
	}
	if info.State == hsm.Blank {
		return nil
	}
	if err := n.mayInitialise(ctx); err != nil {
		return err
	}
	n.logger.Warn("the device is wiped", "serial", serial)
	return n.device.initialise(ctx, clip("keycustodian "+n.config.Name, 32), 1)
}
