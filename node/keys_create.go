package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// CreateKey makes a key in this node's device. When it returns, the wrapped key
// is committed by a majority, was proven by unwrapping it again, lies synced in
// the device, and in as many devices as its policy wants. An error that is an
// [ErrOutcomeUnknown] means: repeat it with the request ID that the
// [OutcomeUnknownError] names. After every other error there is no new key; where
// the name is taken it is fsm.Exists.
func (n *Node) CreateKey(ctx context.Context, spec KeySpec) (*Key, error) {
	if err := n.keys.ready(); err != nil {
		return nil, err
	}
	info, err := n.keys.create(ctx, n.Self(), spec)
	if err != nil {
		return nil, err
	}
	return n.Key(ctx, fmt.Sprintf("%s@1", info.Name))
}

// RotateKey adds a version to a key, which is the default from then on. It
// guarantees what CreateKey does. A request ID makes a repetition harmless; zero
// draws a new one.
func (n *Node) RotateKey(ctx context.Context, name string, request fsm.RequestID) (*Key, error) {
	if err := n.keys.ready(); err != nil {
		return nil, err
	}
	version, err := n.keys.rotate(ctx, n.Self(), name, request)
	if err != nil {
		return nil, err
	}
	return n.Key(ctx, fmt.Sprintf("%s@%d", name, version))
}

// making is one key version that is to be made.
type making struct {
	caller  Caller
	request fsm.RequestID
	key     fsm.Key // what is known of it before it exists
	n       uint64  // of the version, as far as known: for the label in the device
	retry   bool    // an earlier try may have left an object
	adopt   []byte  // a wrapped key that becomes this one; nil: a new key is made
	body    func(fsm.Material) fsm.Body
}

func (r *keyRoom) create(ctx context.Context, caller Caller, spec KeySpec) (KeyInfo, error) {
	m, err := r.plan(ctx, caller, spec)
	if err != nil {
		return KeyInfo{}, doing(err, "create key")
	}
	version, err := r.make(ctx, m)
	if err != nil {
		return KeyInfo{}, doing(err, "create key %s", spec.Name)
	}
	view := r.node.view()
	key, ok := view.KeyByID(version.Key)
	if !ok {
		return KeyInfo{}, notFound("key %s is gone", spec.Name)
	}
	return keyInfo(view, key), nil
}

func (r *keyRoom) rotate(ctx context.Context, caller Caller, name string, request fsm.RequestID) (uint64, error) {
	retry := request != fsm.RequestID{}
	if !retry {
		request = newRequest()
	}
	view, err := r.current(ctx, retry)
	if err != nil {
		return 0, doing(err, "rotate key")
	}
	key, newest, err := findVersion(view, name)
	if err == nil && name != key.Name {
		err = badRequest("rotate wants a key's name, without a version")
	}
	if err == nil {
		err = r.node.authorise(view, caller, fsm.Rotate, name)
	}
	_, repeated := view.VersionByRequest(request) // whatever became of it since
	if err == nil && !repeated && newest.State != fsm.Enabled && newest.State != fsm.Disabled {
		err = &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("key %s is %s", name, newest.State)}
	}
	if err != nil {
		return 0, doing(err, "rotate key")
	}
	m := &making{caller: caller, request: request, key: *key, n: key.Newest + 1, retry: retry}
	m.body = func(material fsm.Material) fsm.Body { return &fsm.KeyRotate{Name: name, Material: material} }
	version, err := r.make(ctx, m)
	if err != nil {
		return 0, doing(err, "rotate key %s", name)
	}
	return version.N, nil
}

// current is a state to decide by: of a retry the newest, which shows what
// became of the first try.
func (r *keyRoom) current(ctx context.Context, retry bool) (*fsm.View, error) {
	if !retry {
		return r.known(ctx)
	}
	return r.node.consistent(ctx)
}

// plan checks a new key before the device has any work with it.
func (r *keyRoom) plan(ctx context.Context, caller Caller, spec KeySpec) (*making, error) {
	retry := spec.RequestID != fsm.RequestID{}
	if !retry {
		spec.RequestID = newRequest()
	}
	view, err := r.current(ctx, retry)
	if err != nil {
		return nil, err
	}
	if spec.Usage == 0 {
		spec.Usage = fsm.Usable(spec.Type)
	}
	body := fsm.KeyCreate{
		Name: spec.Name, Type: spec.Type, Usage: spec.Usage, Legacy: spec.Legacy,
		Policy: fsm.KeyPolicy{Copies: spec.Copies, Clients: slices.Clone(spec.Clients)},
	}
	slices.SortFunc(body.Policy.Clients, func(a, b dkek.Fingerprint) int { return slices.Compare(a[:], b[:]) })
	for _, label := range slices.Sorted(maps.Keys(spec.Labels)) {
		body.Labels = append(body.Labels, fsm.Label{Key: label, Value: spec.Labels[label]})
	}
	m := &making{caller: caller, request: spec.RequestID, n: 1, retry: retry, key: fsm.Key{
		ID: fsm.KeyID(spec.RequestID), Name: spec.Name, Type: spec.Type, Usage: spec.Usage, Policy: body.Policy, Newest: 1,
	}}
	m.body = func(material fsm.Material) fsm.Body {
		create := body
		create.Material = material
		return &create
	}
	if err := r.node.authorise(view, caller, fsm.Create, spec.Name); err != nil {
		return nil, err
	}
	return m, r.mayBeMade(view, m, &body)
}

// mayBeMade is the part of the state's own checks that needs no device.
func (r *keyRoom) mayBeMade(view *fsm.View, m *making, body *fsm.KeyCreate) error {
	if err := fsm.CheckKeyName(body.Name); err != nil {
		return err
	}
	if _, err := hsm.ParseKeyType(string(body.Type)); err != nil {
		return badRequest("%v", err)
	}
	if body.Usage&^fsm.Usable(body.Type) != 0 {
		return badRequest("usage of a key of type %s: one or more of %s", body.Type, fsm.Usable(body.Type))
	}
	cluster, ok := view.Cluster()
	if !ok {
		return errNothingYet
	}
	if body.Type.Legacy() && (!body.Legacy || !slices.Contains(cluster.Policy.Legacy, body.Type)) {
		return &fsm.Error{Code: fsm.NotAllowed, Message: fmt.Sprintf("a key of type %s needs the legacy permission, for the key and in the cluster's policy", body.Type)}
	}
	if old, ok := view.Key(body.Name); ok && old.ID != m.key.ID {
		return &fsm.Error{Code: fsm.Exists, Message: fmt.Sprintf("there is a key %s already: names are not used again", body.Name)}
	}
	return r.enoughDevices(view, body.Type, copiesOf(view, &m.key))
}

// make makes one version: in the device, proven, committed, synced, covered.
func (r *keyRoom) make(ctx context.Context, m *making) (*fsm.Version, error) {
	if err := r.node.diskTrouble(); err != nil {
		return nil, notAppended(err)
	}
	if err := r.dealt(ctx); err != nil {
		return nil, err
	}
	waiting, stop := withProposeTime(ctx)
	err := r.takeOff(waiting, m.request)
	stop()
	if err != nil {
		return nil, err
	}
	defer r.landed(m.request)
	if version, ok := r.node.view().VersionByRequest(m.request); ok { // a retry
		return version, r.awaitCopies(ctx, m, version)
	}
	r.begun(m.request)
	made, err := r.generate(ctx, m)
	if err != nil {
		return nil, err
	}
	bounded, cancel := withProposeTime(ctx)
	defer cancel()
	synced := make(chan error, 1)
	go func() { synced <- r.node.device.sync(bounded) }()
	version, err := r.commit(bounded, m, made)
	syncErr := <-synced
	if err != nil {
		return nil, err
	}
	if syncErr != nil {
		r.node.device.suspect()
		return nil, &OutcomeUnknownError{m.request, fmt.Errorf("the key is committed, but the device did not say that its own copy is durable: %w", syncErr)}
	}
	return version, r.awaitCopies(ctx, m, version)
}

// dealt looks in the newest state before it says that there is no DKEK: a create may
// have ended elsewhere a moment ago. The device is listed then if it has yet to be.
func (r *keyRoom) dealt(ctx context.Context) error {
	slots := r.node.device.slots
	if _, ok := r.node.view().Proven(); ok && slots.areOpen() {
		return nil
	}
	view, err := r.node.consistent(ctx)
	if err != nil {
		return err
	}
	if _, ok := view.Proven(); !ok {
		return ErrNoDKEK
	}
	return slots.open(ctx)
}

// commit proposes what was made and decides what becomes of the object.
func (r *keyRoom) commit(ctx context.Context, m *making, made *madeKey) (*fsm.Version, error) {
	slots := r.node.device.slots
	r.arrives(m.request, true)
	defer r.arrives(m.request, false)
	_, err := r.node.propose(ctx, r.node.command(m.caller, m.request, m.body(made.material)))
	view := r.node.view()
	var refused *fsm.Error
	if errors.As(err, &refused) { // by a leader who may know of a key that has yet to arrive here
		if newest, readErr := r.node.consistent(ctx); readErr == nil {
			view = newest
		}
	}
	version, committed := view.VersionByRequest(m.request)
	switch {
	case committed:
		// Also where the answer was a refusal: this or another try of the same
		// request, perhaps of another node, came first.
		r.keep(ctx, m, made, version)
		r.settled(m.request)
		return version, nil
	case err == nil:
		err = fmt.Errorf("committed, and not in the state: %w", ErrOutcomeUnknown)
		fallthrough
	case !isKnownNotAppended(err):
		slots.orphan(made.slot, made.tag, made.object)
		r.arrives(m.request, false)
		r.node.upkeep.wakeUp()
		return nil, &OutcomeUnknownError{m.request, err}
	}
	slots.discard(ctx, made.slot)
	return nil, err
}

// keep makes the new object the key's residence, if it is the key that was
// committed.
func (r *keyRoom) keep(ctx context.Context, m *making, made *madeKey, version *fsm.Version) {
	slots := r.node.device.slots
	same := slices.Equal(made.material.Public, version.Material.Public) && slices.Equal(made.material.Check, version.Material.Check)
	public, err := publicOf(version)
	if !same || err != nil {
		slots.discard(ctx, made.slot)
		return
	}
	residence, err := slots.settle(made.slot, version.Ref(), made.tag, public)
	if err == nil {
		slots.release(residence)
		r.node.upkeep.holds(version.Ref())
	}
}

// sync returns when what the device was changed before lies on its storage.
func (d *deviceRoom) sync(ctx context.Context) error {
	_, err := withLogin(ctx, d, func(device hsm.Device) (struct{}, error) { return struct{}{}, device.Sync(ctx) })
	return err
}

// capable refuses a type that the device cannot make, and says what it can do.
func (d *deviceRoom) capable(keyType hsm.KeyType) error {
	capabilities := d.token.Capabilities()
	if capabilities.Supports(keyType) {
		return nil
	}
	types := slices.SortedFunc(slices.Values(capabilities.Types), func(a, b hsm.KeyType) int { return cmp.Compare(a, b) })
	return &fsm.Error{Code: fsm.BadRequest, Message: fmt.Sprintf("device %s cannot make keys of type %s, it can do %v", d.serial(), keyType, types)}
}

// errNotReported: the cluster does not know this device yet.
var errNotReported = errors.New("node: the device is not reported to the cluster yet: try again")
