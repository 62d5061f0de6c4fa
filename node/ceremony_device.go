package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
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
		return fmt.Errorf("node: the device %s cannot be looked into, so it is not initialised: wipe it by hand if nothing on it is needed: %w", info.Serial, err)
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

// deviceDKEK asks this node's device for the DKEK that it has.
func (n *Node) deviceDKEK(ctx context.Context) (hsm.DKEKStatus, error) {
	info, err := n.config.Device.Info(ctx)
	if err != nil || info.State != hsm.Ready {
		return hsm.DKEKStatus{}, err
	}
	return n.device.dkek(ctx)
}

// scratchDevice is a software device in memory that holds the DKEK for as long as
// it takes to compare its check value.
type scratchDevice struct {
	hsm.Device
	info hsm.Info
	kcv  dkek.KCV
}

// newScratch combines a quorum in a scratch device.
func newScratch(ctx context.Context, g *gathering, quorum []dkek.NodeID) (*scratchDevice, error) {
	s := &scratchDevice{Device: soft.NewMemory(soft.Options{})}
	if err := s.fill(ctx, g, quorum); err != nil {
		s.close()
		return nil, fmt.Errorf("node: scratch device: %w", err)
	}
	return s, nil
}

func (s *scratchDevice) fill(ctx context.Context, g *gathering, quorum []dkek.NodeID) error {
	pin, soPIN := scratchPIN(15), scratchPIN(16)
	defer pin.Wipe()
	defer soPIN.Wipe()
	if err := s.Initialise(ctx, hsm.InitOptions{Label: "scratch", PIN: pin, SOPIN: soPIN, Shares: len(quorum)}); err != nil {
		return err
	}
	if err := s.Login(ctx, pin); err != nil {
		return err
	}
	put := func(partial *dkek.Secret) error {
		_, err := s.ImportShare(ctx, partial)
		return err
	}
	if err := importQuorum(g, quorum, false, put); err != nil {
		return err
	}
	status, err := s.DKEK(ctx)
	if err != nil {
		return err
	}
	if status.Missing != 0 {
		return errors.New("shares are missing after all were imported")
	}
	s.kcv = dkek.KCV(status.KCV)
	s.info, err = s.Info(ctx)
	return err
}

// scratchPIN draws a PIN of n digits that nobody will need again.
func scratchPIN(n int) *hsm.Secret {
	digits := make([]byte, n)
	rand.Read(digits)
	for i := range digits {
		digits[i] = '0' + digits[i]%10
	}
	return hsm.NewSecret(digits)
}

// close ends the device and what it held.
func (s *scratchDevice) close() { s.Close() }
