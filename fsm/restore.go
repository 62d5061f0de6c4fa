package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// RestoreTerms are what operators sign beside the rest of a [RecoverStatement]
// where a backup becomes the cluster's state. Every member that goes on carries the
// same statement out.
type RestoreTerms struct {
	Backup dkek.Hash `cbor:"1,keyasint"` // [BackupStatement.Hash]
	// Loses is how many entries of the log are given up: those after the backup's
	// index, as far as a member knows of them. One that knows of more does not go on.
	Loses uint64 `cbor:"2,keyasint"`
	// Epoch is the highest one of which a member has a share or a proof: it is not
	// used again.
	Epoch uint64 `cbor:"3,keyasint"`
	// Sharing is the hash of a sharing that came into force after the backup was
	// made, and is in force from now on: the shares of the one before are erased.
	Sharing *dkek.Hash `cbor:"4,keyasint,omitempty"`
	// Back are members that were removed after the backup was made and that are
	// members again.
	Back []dkek.NodeID `cbor:"5,keyasint,omitempty"`
}

// adopted is the sharing that a restore puts in force, or nil. That it was proven
// is the word of the operators who signed its hash; the state sees to it that it
// is a later one of the same DKEK.
func (b *Recover) adopted(t *txn, s *RecoverStatement) (*dkek.Sharing, *Error) {
	if s.Restore != nil && s.Restore.Epoch > MaxIncarnation {
		return nil, refuse(BadRequest, "epoch %d: the next one must always be there", s.Restore.Epoch)
	}
	if s.Restore == nil || s.Restore.Sharing == nil {
		if len(b.Sharing) > 0 {
			return nil, refuse(BadRequest, "a sharing that operators have not approved")
		}
		return nil, nil
	}
	sharing, err := dkek.ParseSharing(b.Sharing)
	if err != nil {
		return nil, refuse(BadRequest, "the sharing is malformed")
	}
	if sharing.Hash() != *s.Restore.Sharing {
		return nil, refuse(Conflict, "operators approved another sharing")
	}
	before, ok := t.Proven()
	if !ok || sharing.Plan.Cluster != s.Cluster || sharing.Plan.KCV != before.KCV {
		return nil, refuse(Conflict, "the sharing is not of the DKEK in force")
	}
	if sharing.Plan.Epoch <= before.Plan.Epoch || sharing.Plan.Epoch > s.Restore.Epoch {
		return nil, refuse(Conflict, "sharing %d.%d does not follow %d.%d", sharing.Plan.Epoch, sharing.Plan.Attempt, before.Plan.Epoch, before.Plan.Attempt)
	}
	return sharing, nil
}

// restore makes a state that was put back safe to go on from: what counted once
// does not count again.
func (t *txn) restore(r *RestoreTerms, sharing *dkek.Sharing) {
	for _, token := range slices.Collect(t.Tokens()) { // it may have been used since
		t.remove(token)
	}
	if sharing != nil {
		row := &SharingRow{Plan: sharing.Plan, Dealings: sharing.Dealings, Hash: sharing.Hash(), KCV: sharing.Plan.KCV}
		if known, ok := t.Sharing(row.Plan.Epoch, row.Plan.Attempt); ok && known.Hash == row.Hash {
			row = known
		}
		t.prove(row)
	}
	t.changeCluster(func(c *Cluster) {
		c.Epoch, c.Attempt = max(c.Epoch, r.Epoch)+1, 0
	})
}
