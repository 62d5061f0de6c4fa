package node

import (
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// restoredShares is how this node's shares fit a backup.
type restoredShares struct {
	epoch   uint64        // the highest of which there is a share or a proof here
	inForce *dkek.Plan    // of the sharing that goes on; nil without a DKEK
	newer   *dkek.Sharing // it, where it is later than the backup's
	missing error         // why this node's share of it cannot be had, or nil

	held map[sharingName]heldShare
}

// sharesFor finds the sharing with which a backup can go on: the backup's own, or
// the one that came into force since, as this node has seen proven itself: the
// public half of it lies in the proof. Where operators have signed for one, planned
// is it, and a node that has seen none that is newer takes their word.
func (s *Stopped) sharesFor(view *fsm.View, planned *dkek.Sharing) (*restoredShares, error) {
	room, r, err := s.lookAtShares()
	if err != nil {
		return nil, err
	}
	newest, err := room.newestProven()
	if err != nil {
		return nil, err
	}
	if planned != nil && (newest == nil || newest.sharing.Plan.Epoch < planned.Plan.Epoch) {
		newest = &seenProven{planned, planned.Plan.KCV}
	}
	proven, ok := view.Proven()
	switch {
	case !ok && newest == nil:
		return r, nil
	case !ok:
		return nil, errors.New("the backup is from before the DKEK was made, and brings no key back: take one that was made after it")
	case newest != nil && newest.kcv != proven.KCV:
		return nil, fmt.Errorf("the backup is of a DKEK with check value %v, and shares here are of one with %v", proven.KCV, newest.kcv)
	case newest != nil && newest.sharing.Plan.Epoch > proven.Plan.Epoch:
		r.newer, r.inForce = newest.sharing, &newest.sharing.Plan
	case newest != nil && newest.sharing.Plan.Epoch == proven.Plan.Epoch && newest.sharing.Hash() != proven.Hash:
		return nil, fmt.Errorf("the backup has another sharing of epoch %d than the one that this node has seen proven", proven.Plan.Epoch)
	default:
		r.inForce = &proven.Plan
	}
	hash := proven.Hash
	if r.newer != nil {
		hash = r.newer.Hash()
	}
	return r, r.look(s.node.id, hash)
}

// lookAtShares unseals every share that is here.
func (s *Stopped) lookAtShares() (*shareRoom, *restoredShares, error) {
	box, err := s.node.box(dkek.SealPurpose)
	if err != nil {
		return nil, nil, err
	}
	room := &shareRoom{node: s.node, box: box, wake: make(chan struct{}, 1)}
	if err := room.check(); err != nil {
		return nil, nil, err
	}
	r := &restoredShares{held: room.shares()}
	for name := range r.held {
		r.epoch = max(r.epoch, name.epoch)
	}
	names, err := room.proofNames()
	for _, name := range names {
		r.epoch = max(r.epoch, name.epoch)
	}
	return room, r, err
}

// look finds this node's share of the sharing that goes on. One that cannot be
// read is a holder less. One that is of other sharings only has outlived that
// sharing, and so perhaps have those of the others.
func (r *restoredShares) look(self dkek.NodeID, hash dkek.Hash) error {
	if r.inForce.HolderIndex(self) < 0 {
		return nil
	}
	name := nameOf(r.inForce)
	held, here := r.held[name]
	switch {
	case here && held.err != nil:
		r.missing = held.err
	case here && held.sharing.Hash() != hash:
		return fmt.Errorf("this node's share %s is of another sharing than the backup's", name)
	case !here && len(r.held) > 0:
		return fmt.Errorf("this node has shares, and none of sharing %s: shares were dealt anew after the backup was made, and this node has no good proof of it: make the plan at another holder", name)
	case !here:
		r.missing = fmt.Errorf("share %s is not here", name)
	}
	return nil
}

// allow refuses a plan that was made at a node that knows less of the shares.
func (r *restoredShares) allow(terms *fsm.RestoreTerms) error {
	switch {
	case r.epoch > terms.Epoch:
		return fmt.Errorf("this node has seen epoch %d, and the plan knows of epoch %d: make the plan at this node", r.epoch, terms.Epoch)
	case r.newer != nil && (terms.Sharing == nil || *terms.Sharing != r.newer.Hash()):
		return fmt.Errorf("epoch %d came into force here after the backup was made, and the plan goes on with another sharing: make the plan at this node", r.newer.Plan.Epoch)
	}
	return nil
}

// seenProven is a sharing with the check value that it was proven to have.
type seenProven struct {
	sharing *dkek.Sharing
	kcv     dkek.KCV
}

// newestProven is the newest sharing that this node has seen proven, nil for none.
// A damaged proof is none.
func (s *shareRoom) newestProven() (*seenProven, error) {
	names, err := s.proofNames()
	if err != nil {
		return nil, err
	}
	var newest *seenProven
	for _, name := range names {
		sharing, err := s.verifyFile(name)
		if err != nil || newest != nil && sharing.Plan.Epoch < newest.sharing.Plan.Epoch {
			continue
		}
		proof, err := s.proofFile(name)
		if err != nil {
			return nil, err
		}
		newest = &seenProven{sharing, proof.KCV}
	}
	return newest, nil
}

func (s *shareRoom) proofNames() ([]sharingName, error) {
	files, err := s.node.files.list(proofFolder)
	if err != nil {
		return nil, fmt.Errorf("node: proofs: %w", err)
	}
	var names []sharingName
	for _, file := range files {
		if name, ok := parseSharingName(file); ok {
			names = append(names, name)
		}
	}
	return names, nil
}
