package fsm

import (
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// CeremonyClose ends a ceremony: a [CloseStatement] signed by a member, domain
// [DomainClose]. Success is legal only where the state's own conditions hold,
// expired only after the expiry; failed and lost are for the opener and the
// recipients to say.
type CeremonyClose struct {
	Signed Signed `cbor:"1,keyasint"`
}

// CloseStatement is a member's word for how a ceremony ended.
type CloseStatement struct {
	Cluster  dkek.ClusterID `cbor:"1,keyasint"`
	Ceremony CeremonyID     `cbor:"2,keyasint"`
	Node     dkek.NodeID    `cbor:"3,keyasint"`
	Outcome  Outcome        `cbor:"4,keyasint"`
	Detail   string         `cbor:"5,keyasint,omitempty"`
}

func (*CeremonyClose) Kind() Kind { return KindCeremonyClose }

func (b *CeremonyClose) apply(t *txn) (Value, *Error) {
	var s CloseStatement
	if err := b.Signed.peek(&s); err != nil {
		return Value{}, err
	}
	c, err := t.openCeremony(s.Ceremony)
	if err != nil {
		return Value{}, err
	}
	m, err := t.member(s.Node)
	if err != nil {
		return Value{}, err
	}
	if err := verify(m.Public, DomainClose, b.Signed.Statement, b.Signed.Signature); err != nil {
		return Value{}, err
	}
	if s.Cluster != t.cluster().ID {
		return Value{}, refuse(Conflict, "statement of another cluster")
	}
	if err := checkText("detail", s.Detail, MaxReason); err != nil {
		return Value{}, err
	}
	if err := t.mayClose(c, &s); err != nil {
		return Value{}, err
	}
	detail := s.Detail
	if s.Outcome == OutcomeFailed {
		detail += t.spoiledBy(c, m)
	}
	t.closeCeremony(c, s.Outcome, detail)
	return Value{}, nil
}

// spoiledBy names those between whom a create failed: one of them may have lied
// about the check value, which the first report fixed.
func (t *txn) spoiledBy(c *Ceremony, by *Member) string {
	if c.Kind != CeremonyCreate || len(c.Reports) == 0 {
		return ""
	}
	sharing, err := t.sharingOf(c)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (given up by %s; check value %v %s)", by.Name, sharing.KCV, t.knownBy(sharing))
}

func (t *txn) mayClose(c *Ceremony, s *CloseStatement) *Error {
	switch s.Outcome {
	case OutcomeSuccess:
		return t.succeeded(c)
	case OutcomeUnproven:
		if sharing, err := t.sharingOf(c); err != nil || c.Kind != CeremonyReshare || sharing.Status != SharingStaged {
			return refuse(WrongState, "ceremony %v has no staged reshare", c.ID)
		}
		return nil
	case OutcomeExpired:
		if t.now <= c.Expires {
			return refuse(WrongState, "ceremony %v has not expired yet", c.ID)
		}
		return nil
	case OutcomeFailed, OutcomeLost:
		if s.Node != c.Opener && !slices.Contains(c.Recipients, s.Node) {
			return refuse(NotAllowed, "only the opener or a recipient gives a ceremony up")
		}
		return nil
	}
	return refuse(BadRequest, "outcome %.40q: want success, unproven, failed, lost or expired", s.Outcome)
}

// succeeded checks by what is recorded that a ceremony reached its end.
func (t *txn) succeeded(c *Ceremony) *Error {
	if t.now > c.Expires {
		return refuse(Expired, "ceremony %v has expired", c.ID)
	}
	reporters := c.reporters()
	switch c.Kind {
	case CeremonyCreate, CeremonyReshare:
		sharing, err := t.sharingOf(c)
		if err != nil {
			return err
		}
		if sharing.Status != SharingStaged {
			return refuse(WrongState, "sharing %d.%d is %s: dealings or acknowledgements are missing", sharing.Plan.Epoch, sharing.Plan.Attempt, sharing.Status)
		}
		if !sharing.proven() {
			return refuse(WrongState, "sharing %d.%d is not proven: devices have not reported quorums with every holder", sharing.Plan.Epoch, sharing.Plan.Attempt)
		}
		for _, id := range c.Recipients {
			// At create it is the node's own device that must be ready. At a
			// reshare a holder erases its old share on no word but its own.
			if !reporters[id] {
				return refuse(WrongState, "node %v has not reported", id)
			}
		}
	case CeremonyProvision, CeremonyDrill:
		if !reporters[c.Recipients[0]] {
			return refuse(WrongState, "the device has not reported the check value")
		}
	default:
		return refuse(WrongState, "a %s is closed by its approval", c.Kind)
	}
	return nil
}

// closeCeremony ends a ceremony with all that follows from it. The caller has
// checked that the outcome is legal.
func (t *txn) closeCeremony(c *Ceremony, outcome Outcome, detail string) {
	next := *c
	next.Outcome, next.Detail, next.Closed, next.ClosedAt = outcome, cleanText(detail), t.index, t.now
	t.put(&next)
	t.audit("ceremony close", c.ID.String(), string(outcome)+" "+detail)
	sharing, err := t.reportedOn(&next)
	if err != nil {
		return
	}
	deals := c.Kind == CeremonyCreate || c.Kind == CeremonyReshare
	switch {
	case outcome == OutcomeSuccess && (deals || sharing.Status == SharingStaged && sharing.proven()):
		t.prove(sharing)
	case deals && outcome == OutcomeUnproven, deals && outcome == OutcomeExpired && c.Kind == CeremonyReshare && sharing.Status == SharingStaged:
		// It stays staged: a drill may prove it.
	case deals:
		t.dropSharing(sharing)
	}
	ended := outcome == OutcomeSuccess || outcome == OutcomeUnproven
	if !ended && len(c.Releases) > 0 && c.Kind != CeremonyCreate {
		t.changeCluster(func(cluster *Cluster) {
			cluster.ReshareDue = "ceremony " + c.ID.String() + " ended as " + string(outcome) + " after shares had been released"
		})
	}
}
