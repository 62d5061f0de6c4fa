package node

import (
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// approved is a ceremony whose approvals this node has checked itself: against
// its own pins, over the exact bytes. Nothing else in the log is believed.
type approved struct {
	row  *fsm.Ceremony
	open *fsm.Open
	hash dkek.Hash
	by   dkek.Hash // digest of the approvals that it stands on
}

// approved checks that the operators approved a ceremony that is under way: in
// this cluster and incarnation, under the operators in force.
func (c *ceremonyRoom) approved(view *fsm.View, id fsm.CeremonyID) (*approved, error) {
	a, err := c.wasApproved(view, id)
	if err != nil {
		return nil, err
	}
	if err := c.checkOpener(view, a.open, a.row); err != nil {
		return nil, err
	}
	cluster, ok := view.Cluster()
	if pinned := c.node.pins.set(); !ok || a.open.Incarnation != cluster.Incarnation || a.open.Govern != pinned.Ref() {
		return nil, fmt.Errorf("node: ceremony %v: opened under operator set %d in incarnation %d, and set %d is pinned here", id, a.open.Govern.Number, a.open.Incarnation, pinned.Number)
	}
	return a, nil
}

// wasApproved checks that the operators of the time approved a ceremony, which
// may have ended since.
func (c *ceremonyRoom) wasApproved(view *fsm.View, id fsm.CeremonyID) (*approved, error) {
	row, ok := view.Ceremony(id)
	if !ok {
		return nil, fmt.Errorf("node: ceremony %v is not known here", id)
	}
	open, err := fsm.ParseOpen(row.Open)
	if err != nil {
		return nil, err
	}
	if open.Ceremony != id || open.Cluster != c.node.Cluster() {
		return nil, fmt.Errorf("node: ceremony %v: its Open is of ceremony %v, cluster %v", id, open.Ceremony, open.Cluster)
	}
	a := &approved{row: row, open: open, hash: fsm.OpenHash(row.Open)}
	if open.Cites != nil {
		return a, c.checkCited(view, a)
	}
	set, ok := c.node.pins.at(open.Govern)
	if !ok {
		return nil, fmt.Errorf("node: ceremony %v: this node does not believe operator set %d that it names", id, open.Govern.Number)
	}
	approvals := row.Approvals
	if len(approvals) > set.Approvals {
		approvals = approvals[:set.Approvals] // the same for whoever looks later
	}
	if err := fsm.VerifyApprovals(set, row.Open, approvals); err != nil {
		return nil, err
	}
	a.by, err = approvalsDigest(a.hash, approvals)
	return a, err
}

// checkOpener checks the opener's own signature, under the key that the Open
// names.
func (c *ceremonyRoom) checkOpener(view *fsm.View, open *fsm.Open, row *fsm.Ceremony) error {
	member, ok := view.Member(open.Opener.Node)
	if !ok || fsm.FingerprintOf(member.Public) != open.Opener.Fingerprint {
		return fmt.Errorf("node: ceremony %v: its opener %v is not a member with this key", open.Ceremony, open.Opener.Node)
	}
	return fsm.VerifyMessage(member.Public, fsm.DomainOpen, row.Open, row.Signature)
}

// checkCited lets a reshare stand on the approvals of the provision that it
// cites: only if that one names exactly this successor.
func (c *ceremonyRoom) checkCited(view *fsm.View, a *approved) error {
	o := a.open
	refuse := func(why string) error {
		return fmt.Errorf("node: ceremony %v: not covered by provision %v: %s", o.Ceremony, o.Cites.Ceremony, why)
	}
	if o.Kind != fsm.CeremonyReshare || o.Plan == nil || o.Cites.Ceremony == o.Ceremony {
		return refuse("only a reshare follows a provision")
	}
	if row, ok := view.Ceremony(o.Cites.Ceremony); !ok || row.Kind != fsm.CeremonyProvision {
		return refuse("there is no such provision")
	}
	provision, err := c.wasApproved(view, o.Cites.Ceremony)
	if err != nil {
		return err
	}
	p, outcome := provision.open, provision.row.Outcome
	switch s := p.Successor; {
	case p.Kind != fsm.CeremonyProvision || p.Cites != nil || provision.hash != o.Cites.Hash:
		return refuse("it is another one")
	case s == nil || !slices.Equal(s.Holders, o.Plan.Holders) || s.Threshold != o.Plan.Threshold || p.Source != o.Source:
		return refuse("it names another successor, or none")
	case p.Govern != o.Govern || p.Incarnation != o.Incarnation:
		return refuse("it was approved by other operators or before a recovery")
	case o.Expires > p.Expires:
		return refuse("it covers its successor until its own expiry only")
	case outcome != fsm.OutcomeOpen && outcome != fsm.OutcomeSuccess:
		return refuse("it ended as " + string(outcome))
	case c.node.shares.releases.cited(o.Cites.Ceremony, o.Ceremony):
		return refuse("it has had its successor")
	}
	a.by = provision.by
	return nil
}

// approvalsDigest binds approvals, in their order, to what they approve.
func approvalsDigest(open dkek.Hash, approvals []fsm.Approval) (dkek.Hash, error) {
	encoded, err := wireEncoder.Marshal(struct {
		Open      dkek.Hash      `cbor:"1,keyasint"`
		Approvals []fsm.Approval `cbor:"2,keyasint"`
	}{open, approvals})
	return hashOf("keycustodian v1 approvals", encoded), err
}
