package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// deviceStep is what this node's own device has been through in a ceremony.
type deviceStep struct {
	kcv dkek.KCV // after the last share was in
}

// prove gathers the quorum that this node is to prove and has a device combine
// it: at create the node's own, at a reshare a scratch one.
func (r *runner) prove(ctx context.Context, view *fsm.View, row *fsm.Ceremony, open *fsm.Open, quorum []dkek.NodeID) error {
	a, err := r.room.approved(view, r.id)
	if err != nil {
		return err
	}
	state, ok := view.Sharing(open.Plan.Epoch, open.Plan.Attempt)
	if !ok {
		return &failure{"its sharing is forgotten"}
	}
	sharing := state.Sharing()
	if quorum, err = r.gather(ctx, view, a, &sharing, quorum); err != nil {
		return err
	}
	if err := r.room.at(ctx, "gathered"); err != nil {
		return err
	}
	if row.Kind == fsm.CeremonyReshare {
		scratch, err := newScratch(ctx, r.room.scratch(), r.gathered, quorum)
		if err != nil {
			return err
		}
		defer scratch.close()
		return r.report(ctx, state, quorum, scratch.kcv, scratch.info, true)
	}
	if r.device.kcv == (dkek.KCV{}) {
		if r.device.kcv, err = r.fill(ctx, quorum); err != nil {
			return err
		}
	}
	info, err := r.node.config.Device.Info(ctx)
	if err != nil {
		return err
	}
	return r.report(ctx, state, quorum, r.device.kcv, info, false)
}

// report commits what a device found. A check value other than the known one
// means that a share or a dealing is wrong, and ends the ceremony.
func (r *runner) report(ctx context.Context, state *fsm.SharingRow, quorum []dkek.NodeID, kcv dkek.KCV, info hsm.Info, scratch bool) error {
	want := state.KCV
	if now, ok := r.node.view().Sharing(state.Plan.Epoch, state.Plan.Attempt); ok {
		want = now.KCV
	}
	if want != (dkek.KCV{}) && kcv != want {
		return &failure{wrongKCV + r.blame(state, kcv, want)}
	}
	if err := r.room.at(ctx, "device ready"); err != nil {
		return err
	}
	if err := r.node.shares.noteReport(state); err != nil {
		return err
	}
	signed, err := fsm.SignStatement(r.node.own.Load().signer, fsm.DomainReport, &fsm.ReportStatement{
		Cluster: r.node.Cluster(), Ceremony: r.id, Sharing: state.Hash, Node: r.node.id, Quorum: quorum, KCV: kcv,
		DeviceKind: info.Kind, DeviceSerial: info.Serial, Scratch: scratch,
	})
	if err != nil {
		return err
	}
	_, err = r.node.do(ctx, &fsm.DeviceProof{Signed: signed})
	if errors.Is(err, fsm.Conflict) {
		return &failure{wrongKCV + err.Error()}
	}
	if err != nil {
		return err
	}
	return r.room.at(ctx, "proof committed")
}

// wrongKCV begins the detail of a ceremony that ended because a device did not
// give the right check value: by it a later reshare knows which dealers to avoid.
const wrongKCV = "wrong check value: "

func (r *runner) blame(state *fsm.SharingRow, kcv, want dkek.KCV) string {
	view := r.node.view()
	if state.Plan.KCV == (dkek.KCV{}) { // at create it is a device's word against another's
		return fmt.Sprintf("%v instead of %v: a share, a dealing or a report is wrong: no DKEK was made", kcv, want)
	}
	text := fmt.Sprintf("%v instead of %v: one of these dealt wrongly:", kcv, want)
	for _, d := range state.Plan.Dealers {
		text += " " + r.node.nameOf(view, d.Node)
	}
	return text + ": reshare with another quorum; the sharing in force is untouched"
}
