package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// fill initialises this node's device and imports the partials of the gathered
// quorum, one at a time. After any doubt the whole is done again.
func (r *runner) fill(ctx context.Context, quorum []dkek.NodeID) (dkek.KCV, error) {
	r.say("initialising the device")
	if err := r.node.mayInitialise(ctx); err != nil {
		return dkek.KCV{}, err
	}
	device := r.node.config.Device
	shares := len(quorum)
	if !device.Capabilities().Combines {
		shares = 1
	}
	label := clip("keycustodian "+r.node.config.Name, 32)
	if err := r.node.device.initialise(ctx, label, shares); err != nil {
		return dkek.KCV{}, err
	}
	if err := r.room.at(ctx, "device initialised"); err != nil {
		return dkek.KCV{}, err
	}
	var status hsm.DKEKStatus
	put := func(partial *dkek.Secret) (err error) {
		status, err = r.node.device.importShare(ctx, partial)
		return err
	}
	if err := importQuorum(r.gathered, quorum, shares == 1, put); err != nil {
		return dkek.KCV{}, err
	}
	status, err := r.node.device.dkek(ctx)
	if err != nil {
		return dkek.KCV{}, err
	}
	if status.Shares != shares || status.Missing != 0 {
		return dkek.KCV{}, fmt.Errorf("node: the device counts %d of %d shares missing after all were imported: it is initialised again", status.Missing, status.Shares)
	}
	return dkek.KCV(status.KCV), nil
}

// importQuorum hands over each partial and wipes it. A device that cannot
// combine gets their sum, which so exists in this process's memory for a moment.
func importQuorum(g *gathering, quorum []dkek.NodeID, combine bool, put func(*dkek.Secret) error) error {
	var partials []*dkek.Secret
	defer func() {
		for _, p := range partials {
			p.Wipe()
		}
	}()
	for _, holder := range quorum {
		partial, err := g.Partial(quorum, holder)
		if err != nil {
			return err
		}
		partials = append(partials, partial)
		if combine && len(quorum) > 1 {
			continue
		}
		err = put(partial)
		partial.Wipe()
		if err != nil {
			return err
		}
	}
	if !combine || len(quorum) == 1 {
		return nil
	}
	whole, err := dkek.Combine(&g.sharing.Plan, partials, g.sharing.Plan.KCV)
	if err != nil {
		return err
	}
	defer whole.Wipe()
	return put(whole)
}

// mayInitialise refuses to wipe a device that holds the only copy of a key: every
// object in it must be a key whose blob is committed, so that it comes back, or
// one that was destroyed or aborted.
func (n *Node) mayInitialise(ctx context.Context) error {
	info, err := n.config.Device.Info(ctx)
	if err != nil {
		return err
	}
	if info.State == hsm.Blank || info.State == hsm.SharesMissing {
		return nil // it cannot hold a key
	}
	objects, err := n.device.list(ctx)
	if err != nil {
		return fmt.Errorf("node: the device %s cannot be looked into, so it is not initialised: mend that, or where nothing on it is needed take another (of a software device, stop the node and delete the file): %w", info.Serial, err)
	}
	if len(objects) == 0 {
		return nil
	}
	view, err := n.consistent(ctx)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if !comesBack(view, o) {
			return &failure{fmt.Sprintf("device %s holds a key in slot %d (%q) that is nowhere else: it is not initialised: adopt or delete that key, or wipe the device by hand", info.Serial, o.Slot, clip(o.Label, hsm.MaxLabel))}
		}
	}
	return nil
}

// comesBack tells whether a device's object can be wiped without losing a key.
func comesBack(view *fsm.View, object hsm.Object) bool {
	tag, ours := parseTag(object.Tag)
	if !ours {
		return false
	}
	if _, aborted := view.Aborted(tag.request); aborted {
		return true
	}
	version, ok := view.VersionByRequest(tag.request)
	if !ok {
		return false
	}
	proven, ok := view.Proven()
	return !version.State.Live() || ok && len(version.Material.Blob) > 0 && version.Material.KCV == proven.KCV
}

// hasDKEK asks this node's device whether it has the DKEK with this check value,
// whole. One that does not say has not.
func (n *Node) hasDKEK(ctx context.Context, kcv dkek.KCV) bool {
	info, err := n.config.Device.Info(ctx)
	if err != nil || info.State != hsm.Ready {
		return false
	}
	status, err := n.device.dkek(ctx)
	return err == nil && status.Shares > 0 && status.Missing == 0 && dkek.KCV(status.KCV) == kcv
}

// locked says why nobody can log in to this node's device, which is initialised,
// or nil.
func (n *Node) locked(ctx context.Context) error {
	info, err := n.config.Device.Info(ctx)
	if err != nil || info.State != hsm.Ready {
		return nil
	}
	if _, err := n.device.dkek(ctx); err != nil && isPINTrouble(err) {
		return err
	}
	return nil
}

// canary brings one key back into this node's device and uses it, as every key
// will be once the ceremony is over. Without keys there is nothing to try.
func (n *Node) canary(ctx context.Context) error {
	if _, err := n.device.look(ctx); err != nil {
		return err
	}
	view := n.view()
	for version := range view.AllVersions(fsm.VersionRef{}) {
		key, ok := view.KeyByID(version.Key)
		if !ok || !version.State.Live() || !n.config.Device.Capabilities().Supports(key.Type) {
			continue
		}
		held, err := n.device.slots.acquire(ctx, key, version, true)
		if err == nil {
			n.device.slots.release(held)
		}
		return err
	}
	return nil
}
