package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

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
	if err := n.face.canRefill(ctx, n.view()); err != nil {
		return err
	}
	n.logger.Warn("the device is wiped", "serial", serial)
	return n.device.initialise(ctx, clip("keycustodian "+n.config.Name, 32), 1)
}

// canRefill refuses to erase this node's device where that takes away the last
// copy of the DKEK, or of a key, that anybody could use: where no other device in
// reach has it, and the shares in reach are too few to put the DKEK together. A
// blob alone brings nothing back.
func (f *face) canRefill(ctx context.Context, view *fsm.View) error {
	proven, ok := view.Proven()
	if !ok {
		return nil
	}
	f.askMembers(ctx, view)
	able := len(f.releasing(view, proven))
	if able >= proven.Plan.Threshold {
		return nil
	}
	elsewhere := map[dkek.NodeID]bool{}
	for m := range view.Members() {
		if m.ID != f.node.id && m.Device != nil && m.Device.State == string(hsm.Ready) && m.Device.KCV == proven.KCV && f.reachable(m.ID) {
			elsewhere[m.ID] = true
		}
	}
	what := ""
	if len(elsewhere) == 0 {
		what = "has the DKEK"
	}
	for version := range view.AllVersions(fsm.VersionRef{}) {
		if what != "" {
			break
		}
		if key, ok := view.KeyByID(version.Key); ok && version.State.Live() && holds(view, version, f.node.id) && !anyHolds(view, version, elsewhere) {
			what = fmt.Sprintf("holds key %.80s version %d", key.Name, version.N)
		}
	}
	if what == "" {
		return nil
	}
	return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("nothing was erased: no other device in reach %s, and %d holders answer with a readable share where %d are needed to fill this one again: bring the others back first",
		what, able, proven.Plan.Threshold)}
}

func holds(view *fsm.View, version *fsm.Version, id dkek.NodeID) bool {
	return anyHolds(view, version, map[dkek.NodeID]bool{id: true})
}

func anyHolds(view *fsm.View, version *fsm.Version, devices map[dkek.NodeID]bool) bool {
	for _, id := range view.Coverage(version.Key, version.N) {
		if devices[id] {
			return true
		}
	}
	return false
}
