package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// deviceEvery is how often the device is asked how it is, beside every change
// of the sharing in force and every doubt.
const deviceEvery = time.Minute

// deviceRoom owns the node's device: who is logged in, what is in which slot,
// and what the rest of the node may expect of it. Nobody else calls the device.
type deviceRoom struct {
	node     *Node
	token    hsm.Token
	hardware atomic.Bool // its signatures are verified before they leave
	slots    *slotTable
	logins   chan struct{} // one login at a time
	rejected *rejectedPINs
	entered  atomic.Pointer[hsm.Secret] // the PIN that a person entered
	soPIN    atomic.Pointer[hsm.Secret] // entered, for the next initialise
	health   atomic.Pointer[deviceHealth]
	looks    chan struct{} // one look at a time
	doubt    chan struct{} // asks for a look; buffered 1
	reports  chan struct{} // one report at a time
}

// deviceHealth is what a look at the device found.
type deviceHealth struct {
	Info   hsm.Info
	DKEK   hsm.DKEKStatus
	Looked time.Time
	Err    error // why it cannot be used, as far as the device itself knows
}

// Device errors beside those of hsm.
var (
	// ErrForeignDKEK: the device holds another DKEK than this cluster's.
	ErrForeignDKEK = errors.New("node: the device holds another DKEK than this cluster's: wipe it, or use the one that belongs here")
	// ErrDeviceBlank: the device holds no DKEK yet.
	ErrDeviceBlank = errors.New("node: the device holds no DKEK: provision it (device replace)")
)

func newDeviceRoom(n *Node) *deviceRoom {
	d := &deviceRoom{
		node: n, token: n.countedToken(),
		logins: make(chan struct{}, 1), looks: make(chan struct{}, 1), doubt: make(chan struct{}, 1), reports: make(chan struct{}, 1),
	}
	d.rejected = newRejectedPINs(n)
	d.slots = newSlotTable(d)
	return d
}

// start watches the device. What it holds follows from committed state, so it
// begins when the node is in a cluster.
func (d *deviceRoom) start() {
	changed := d.node.watch(fsm.TableCluster, fsm.TableSharings, fsm.TableMembers)
	d.node.run(func(ctx context.Context) { d.tend(ctx, changed) })
}

func (d *deviceRoom) tend(ctx context.Context, changed <-chan struct{}) {
	ticker := time.NewTicker(deviceEvery)
	defer ticker.Stop()
	for {
		if _, err := d.look(ctx); err == nil {
			if err := d.slots.open(ctx); err != nil && ctx.Err() == nil && d.usable() == nil {
				d.node.logger.Warn("device: its keys are not listed yet", "reason", err)
			}
		}
		if err := d.report(ctx); err != nil && ctx.Err() == nil {
			d.node.logger.Info("device: its state is not reported yet", "reason", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-changed:
		case <-d.doubt:
		}
	}
}

// suspect asks for a look soon: something failed that should not have.
func (d *deviceRoom) suspect() {
	select {
	case d.doubt <- struct{}{}:
	default:
	}
}

// withLogin does one device operation and, where the device says that nobody is
// logged in, logs in once and does it once more.
func withLogin[T any](ctx context.Context, d *deviceRoom, op func(hsm.Device) (T, error)) (T, error) {
	result, err := op(d.token.Device)
	if err == nil || !errors.Is(err, hsm.ErrNotLoggedIn) {
		return result, err
	}
	if err := d.login(ctx); err != nil {
		return result, err
	}
	return op(d.token.Device)
}

// look asks the device how it is and remembers the answer.
func (d *deviceRoom) look(ctx context.Context) (*deviceHealth, error) {
	if err := take(ctx, d.looks); err != nil {
		return nil, err
	}
	defer give(d.looks)
	h := &deviceHealth{Looked: d.node.now()}
	var err error
	if h.Info, err = d.token.Info(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if last := d.health.Load(); last != nil {
			h.Info = last.Info // it is still the one that is missed
		}
		h.Err = err
		d.remember(h)
		return h, err
	}
	switch h.Info.State {
	case hsm.Ready, hsm.SharesMissing:
		h.DKEK, h.Err = withLogin(ctx, d, func(device hsm.Device) (hsm.DKEKStatus, error) { return device.DKEK(ctx) })
	case hsm.NoBackup:
		h.Err = hsm.ErrNoBackup
	}
	if h.Err == nil && (h.Info.State != hsm.Ready || h.DKEK.Missing > 0) {
		h.Err = ErrDeviceBlank
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	d.remember(h)
	return h, nil
}

func (d *deviceRoom) remember(h *deviceHealth) {
	d.hardware.Store(h.Info.Kind != "soft")
	last := d.health.Swap(h)
	if last != nil && last.Err == nil && h.Err != nil {
		d.node.logger.Error("device: cannot be used", "device", h.Info.Serial, "reason", h.Err)
	}
	if h.Err != nil || last != nil && (last.Info.Serial != h.Info.Serial || last.DKEK.KCV != h.DKEK.KCV) {
		d.slots.close()
	}
}

// usable says what keeps keys from being used in the device, or nil: it is
// there, somebody is logged in, and its DKEK is the proven one.
func (d *deviceRoom) usable() error { return d.usableIn(d.node.view()) }

func (d *deviceRoom) usableIn(view *fsm.View) error {
	proven, ok := view.Proven()
	if !ok {
		return ErrNoDKEK
	}
	h := d.health.Load()
	switch {
	case h == nil:
		return hsm.ErrGone // not looked at yet
	case h.Err != nil:
		return h.Err
	case dkek.KCV(h.DKEK.KCV) != proven.KCV:
		return ErrForeignDKEK
	}
	return nil
}

// serial is the device's, as last seen.
func (d *deviceRoom) serial() string {
	if h := d.health.Load(); h != nil {
		return h.Info.Serial
	}
	return ""
}

// take and give make a channel of capacity 1 a lock that honours a context.
func take(ctx context.Context, lock chan struct{}) error {
	select {
	case lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func give(lock chan struct{}) { <-lock }
