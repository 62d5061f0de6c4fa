package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// Words for a device's state beside those of hsm.State, as status shows them.
const (
	deviceGone    = "gone"
	deviceLocked  = "locked"       // its DKEK is complete, but nobody could log in
	deviceForeign = "foreign DKEK" // complete, and another cluster's
)

// standing is the device's state in a word.
func (h *deviceHealth) standing(view *fsm.View) string {
	proven, ok := view.Proven()
	switch {
	case h.Info.State == "" || h.Err != nil && h.Info.State == hsm.Ready && h.DKEK.Shares == 0 && !h.Info.LoggedIn && isPINTrouble(h.Err):
		if h.Info.State == "" {
			return deviceGone
		}
		return deviceLocked
	case h.Err != nil && h.Info.State == hsm.Ready && h.DKEK.Missing == 0 && h.DKEK.KCV == (hsm.KCV{}):
		return deviceGone
	case ok && h.Info.State == hsm.Ready && dkek.KCV(h.DKEK.KCV) != proven.KCV:
		return deviceForeign
	}
	return string(h.Info.State)
}

// row is what the cluster is told about the device. What the last look could
// not find out (nobody logged in, device gone) is left as it was reported, so
// that a lost login does not look like another device.
func (h *deviceHealth) row(d *deviceRoom, view *fsm.View, last *fsm.Device) *fsm.Device {
	if h.Info.Serial == "" {
		return last
	}
	capabilities := d.token.Capabilities()
	row := &fsm.Device{
		Kind: h.Info.Kind, Serial: h.Info.Serial, Label: printable(h.Info.Label), State: h.standing(view),
		KCV: dkek.KCV(h.DKEK.KCV), BlobKind: capabilities.BlobKind, Types: capabilities.Types,
		Slots: uint32(max(h.Info.Slots, 0)), Combines: capabilities.Combines, Weakness: d.token.Weakness,
	}
	unknown := row.State == deviceGone || row.State == deviceLocked
	if unknown && last != nil && last.Serial == row.Serial {
		row.KCV = last.KCV
	}
	return row
}

func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < 0x20 || 0x7f <= r && r < 0xa0 || r == 0xfffd {
			return '?'
		}
		return r
	}, text)
	return text[:min(len(text), hsm.MaxLabel)]
}

func sameDevice(a, b *fsm.Device) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Types, y.Types = nil, nil
	return slices.Equal(a.Types, b.Types) && x.Kind == y.Kind && x.Serial == y.Serial && x.Label == y.Label && x.State == y.State &&
		x.KCV == y.KCV && x.BlobKind == y.BlobKind && x.Slots == y.Slots && x.Combines == y.Combines && x.Weakness == y.Weakness
}

// report tells the cluster about the device where that has changed. A key made
// in a device that was not reported would be refused.
func (d *deviceRoom) report(ctx context.Context) error {
	if err := take(ctx, d.reports); err != nil {
		return err
	}
	defer give(d.reports)
	h := d.health.Load()
	view := d.node.view()
	member, ok := view.Member(d.node.id)
	if h == nil || !ok {
		return nil
	}
	row := h.row(d, view, member.Device)
	if sameDevice(row, member.Device) && member.ReadsTo == d.node.readsTo.Load() && member.SealKept == d.node.config.SealWeakness {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := d.node.do(ctx, &fsm.MemberReport{Node: d.node.id, ReadsTo: d.node.readsTo.Load(), Device: row, SealKept: &d.node.config.SealWeakness})
	return err
}

// DeviceStatus is what a node says about its own device.
type DeviceStatus struct {
	Info     hsm.Info
	State    string // of hsm.State, or "gone", "locked", "foreign DKEK"
	KCV      dkek.KCV
	Tries    hsm.PINTries // -1 where the device cannot tell
	Combines bool
	Types    []hsm.KeyType
	Weakness string
	Err      error // why keys cannot be used in it now, or nil
	Looked   time.Time
	Objects  DeviceObjects
}

// Device looks at the node's device and says how it is.
func (n *Node) Device(ctx context.Context) (DeviceStatus, error) {
	if n.device == nil {
		return DeviceStatus{}, n.Sealed()
	}
	d := n.device
	h, err := d.look(ctx)
	if h == nil {
		return DeviceStatus{}, err
	}
	view := n.view()
	capabilities := d.token.Capabilities()
	s := DeviceStatus{
		Info: h.Info, State: h.standing(view), KCV: dkek.KCV(h.DKEK.KCV), Tries: hsm.PINTries{User: -1, SO: -1, UserMax: -1, SOMax: -1},
		Combines: capabilities.Combines, Types: capabilities.Types, Weakness: d.token.Weakness, Looked: h.Looked,
		Err: d.usableIn(view), Objects: d.slots.objects(),
	}
	if tries, err := d.token.Tries(ctx); err == nil {
		s.Tries = tries
	}
	return s, nil
}
