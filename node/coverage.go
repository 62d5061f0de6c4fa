package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// coverDelay is how long a change of what the device holds waits for others to
// go with it into one command.
const coverDelay = 20 * time.Millisecond

// holdings are what changed in the device and is not in the state yet.
type holdings struct {
	mu      sync.Mutex
	changed map[fsm.VersionRef]bool // true: the device holds it now
	wake    chan struct{}
}

func newHoldings() *holdings {
	return &holdings{changed: make(map[fsm.VersionRef]bool), wake: make(chan struct{}, 1)}
}

func (h *holdings) note(ref fsm.VersionRef, held bool) {
	h.mu.Lock()
	h.changed[ref] = held
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// compare notes a version of which the state says something else than the
// device.
func (h *holdings) compare(view *fsm.View, self dkek.NodeID, ref fsm.VersionRef, held bool) {
	if slices.Contains(view.Coverage(ref.Key, ref.N), self) != held {
		h.note(ref, held)
	}
}

// next takes up to so many changes that the state does not show yet.
func (h *holdings) next(view *fsm.View, self dkek.NodeID, most int) (add, drop []fsm.VersionRef) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ref, held := range h.changed {
		if len(add)+len(drop) == most {
			break
		}
		delete(h.changed, ref)
		version, ok := view.Version(ref.Key, ref.N)
		if !ok || !version.State.Live() || slices.Contains(view.Coverage(ref.Key, ref.N), self) == held {
			continue
		}
		if held {
			add = append(add, ref)
		} else {
			drop = append(drop, ref)
		}
	}
	return add, drop
}

// holds and gone say that the device now holds a version, proven, or not any
// more.
func (u *upkeepRoom) holds(ref fsm.VersionRef) { u.holding.note(ref, true) }
func (u *upkeepRoom) gone(ref fsm.VersionRef)  { u.holding.note(ref, false) }

// cover tells the cluster which keys the device holds.
func (u *upkeepRoom) cover(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.holding.wake:
		}
		if !sleepFor(ctx, coverDelay) {
			return
		}
		for {
			add, drop := u.holding.next(u.node.view(), u.node.id, fsm.MaxItems)
			if len(add)+len(drop) == 0 {
				break
			}
			if err := u.sayCover(ctx, add, drop); err != nil {
				if ctx.Err() != nil || !sleepFor(ctx, time.Second) {
					return
				}
				u.node.logger.Info("upkeep: coverage is not told yet", "reason", err)
				u.retry(add, drop)
			}
		}
	}
}

func (u *upkeepRoom) sayCover(ctx context.Context, add, drop []fsm.VersionRef) error {
	d := u.node.device
	if !d.reported() {
		if err := d.report(ctx); err != nil {
			return err
		}
		if !d.reported() {
			return errNotReported
		}
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	_, err := u.node.do(ctx, &fsm.Cover{Node: u.node.id, Serial: d.serial(), Add: add, Drop: drop})
	return err
}

// retry notes again what could not be told, as it is by now.
func (u *upkeepRoom) retry(refs ...[]fsm.VersionRef) {
	for _, ref := range slices.Concat(refs...) {
		held, _ := u.node.device.slots.holds(ref)
		u.holding.note(ref, held)
	}
}

// forgetCoverage says that a device without a DKEK holds nothing, where the
// state thinks that it does.
func (u *upkeepRoom) forgetCoverage(ctx context.Context) {
	d := u.node.device
	h := d.health.Load()
	if h == nil || !errors.Is(h.Err, ErrDeviceBlank) || h.Info.State == hsm.Ready || !d.reported() {
		return
	}
	if u.node.view().Covered()[u.node.id] == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	if _, err := u.node.do(ctx, &fsm.CoverReset{Node: u.node.id, Serial: h.Info.Serial}); err != nil && ctx.Err() == nil {
		u.node.logger.Info("upkeep: that the device is blank is not told yet", "reason", err)
	}
}
