package fsm

import (
	"bytes"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

func (b *CeremonyOpen) apply(t *txn) (Value, *Error) {
	o, err := parseOpen(b.Open)
	if err != nil {
		return Value{}, err
	}
	if err := t.checkOpen(o, b); err != nil {
		return Value{}, err
	}
	recipients, err := o.recipients()
	if err != nil {
		return Value{}, err
	}
	next := &Ceremony{
		ID: o.Ceremony, Kind: o.Kind, Open: b.Open, Hash: OpenHash(b.Open), Signature: b.Signature,
		Opener: o.Opener.Node, Opened: t.index, Time: t.now, Expires: o.Expires,
	}
	for _, r := range recipients {
		if m, ok := t.Member(r.Node.Node); !ok || m.Holder() != r.Node {
			return Value{}, refuse(NotAllowed, "recipient %v is not a member with this key", r.Node.Node)
		}
		next.Recipients = append(next.Recipients, r.Node.Node)
	}
	if err := t.checkOpenKind(o, next); err != nil {
		return Value{}, err
	}
	t.put(next)
	t.trim(TableCeremonies, bySecond, MaxCeremonies, func(r row) bool { return r.(*Ceremony).forgettable(t.now) })
	t.audit("ceremony open", o.Ceremony.String(), o.Kind.String()+": "+o.Purpose)
	epoch, _ := o.attempt()
	return Value{Number: epoch}, nil
}

// checkOpen checks what all kinds of ceremony share.
func (t *txn) checkOpen(o *Open, b *CeremonyOpen) *Error {
	opener, err := t.proposed()
	if err != nil {
		return err
	}
	cluster := t.cluster()
	if opener.Holder() != o.Opener {
		return refuse(NotAllowed, "the Open names another opener")
	}
	if err := verify(opener.Public, DomainOpen, b.Open, b.Signature); err != nil {
		return err
	}
	if err := checkText("purpose", o.Purpose, MaxText); err != nil {
		return err
	}
	if err := checkText("reason", o.Reason, MaxReason); err != nil {
		return err
	}
	switch {
	case o.Ceremony == CeremonyID{}:
		return refuse(BadRequest, "ceremony without an ID")
	case o.Cluster != cluster.ID:
		return refuse(Conflict, "Open of another cluster")
	case o.Incarnation != cluster.Incarnation:
		return refuse(Conflict, "Open of incarnation %d, this is %d", o.Incarnation, cluster.Incarnation)
	case o.Govern != cluster.Operators.Ref():
		return refuse(Conflict, "Open names operator set %d, %d is in force", o.Govern.Number, cluster.Operators.Number)
	case o.Expires <= t.now:
		return refuse(Expired, "the Open has expired")
	case o.Expires-t.now > MaxCeremonyTime.Milliseconds():
		return refuse(BadRequest, "a ceremony is open for %v at most", MaxCeremonyTime)
	}
	if _, ok := t.Ceremony(o.Ceremony); ok {
		return refuse(Exists, "there is a ceremony %v", o.Ceremony)
	}
	if len(t.openCeremonies()) >= MaxOpenCeremonies {
		return refuse(TooMany, "%d open ceremonies at most: close or deny one", MaxOpenCeremonies)
	}
	return nil
}

// checkOpenKind checks what one kind of ceremony needs, and prepares its
// sharing.
func (t *txn) checkOpenKind(o *Open, row *Ceremony) *Error {
	switch o.Kind {
	case CeremonyCreate:
		return t.openCreate(o, row)
	case CeremonyReshare:
		return t.openReshare(o, row)
	case CeremonyProvision, CeremonyDrill:
		return t.openProvision(o, row)
	}
	return t.openGovern(o) // the last kind that checkForm knows
}

func (t *txn) openCreate(o *Open, row *Ceremony) *Error {
	if _, ok := t.Proven(); ok {
		return refuse(WrongState, "there is a DKEK already: reshare it")
	}
	if t.count(TableKeys) > 0 {
		return refuse(WrongState, "there are keys already, under another DKEK")
	}
	if o.Source != (SharingRef{}) || o.Plan.Previous != (dkek.Hash{}) {
		return refuse(BadRequest, "the first sharing has none before it")
	}
	if err := o.Plan.Validate(); err != nil {
		return refuse(BadRequest, "%v", err)
	}
	if !slices.Equal(o.Plan.Dealers, o.Plan.Holders) && o.Plan.Origin != dkek.Imported {
		return refuse(BadRequest, "the first sharing is dealt by all holders")
	}
	return t.openSharing(o, row)
}

func (t *txn) openReshare(o *Open, row *Ceremony) *Error {
	proven, ok := t.Proven()
	if !ok {
		return refuse(WrongState, "no sharing is proven: there is nothing to reshare")
	}
	if o.Source != proven.Ref() {
		return refuse(Conflict, "Open names sharing %d.%d, %d.%d is in force", o.Source.Epoch, o.Source.Attempt, proven.Plan.Epoch, proven.Plan.Attempt)
	}
	previous := proven.Sharing()
	if err := o.Plan.Follows(&previous, proven.KCV); err != nil {
		return refuse(BadRequest, "%v", err)
	}
	if o.Cites != nil {
		if err := t.checkCite(o); err != nil {
			return err
		}
		row.Cited, row.Approved = true, t.index
	}
	return t.openSharing(o, row)
}

// checkCite lets a reshare stand on the approvals of a provision: the one that
// it names as its successor, once, before the provision's own expiry.
func (t *txn) checkCite(o *Open) *Error {
	c, ok := t.Ceremony(o.Cites.Ceremony)
	if !ok || c.Kind != CeremonyProvision || c.Hash != o.Cites.Hash {
		return refuse(NotFound, "no provision as cited")
	}
	provision, err := parseOpen(c.Open)
	if err != nil {
		return err
	}
	s := provision.Successor
	switch {
	case c.Approved == 0 || c.Outcome != OutcomeOpen && c.Outcome != OutcomeSuccess:
		return refuse(NotAllowed, "the cited provision was not approved, or failed")
	case provision.Govern != o.Govern || provision.Incarnation != o.Incarnation:
		return refuse(NotAllowed, "the cited provision was approved by other operators or before a recovery")
	case t.now > c.Expires || o.Expires > c.Expires:
		return refuse(Expired, "a cited provision covers its successor until its own expiry")
	case s == nil || !slices.Equal(s.Holders, o.Plan.Holders) || s.Threshold != o.Plan.Threshold || o.Source != provision.Source:
		return refuse(NotAllowed, "the cited provision does not name this successor")
	}
	if t.hadSuccessor(c.ID) {
		return refuse(NotAllowed, "the cited provision has had its successor")
	}
	return nil
}

// hadSuccessor tells whether a reshare stood on a provision's approvals already.
func (t *txn) hadSuccessor(provision CeremonyID) bool {
	for other := range t.Ceremonies() {
		if !other.Cited {
			continue
		}
		if cited, err := parseOpen(other.Open); err == nil && cited.Cites != nil && cited.Cites.Ceremony == provision {
			return true
		}
	}
	return false
}

// successorNames tells whether a provision that has ended well is still to be
// followed by a reshare to this holder, under the key that was approved.
func (t *txn) successorNames(c *Ceremony, id dkek.NodeID) bool {
	if c.Kind != CeremonyProvision || c.Outcome != OutcomeSuccess || t.now > c.Expires {
		return false
	}
	o, err := parseOpen(c.Open)
	if err != nil || o.Successor == nil || !slices.ContainsFunc(o.Successor.Holders, func(h dkek.Holder) bool { return h.Node == id }) {
		return false
	}
	proven, ok := t.Proven()
	return ok && proven.Ref() == o.Source && !t.hadSuccessor(c.ID)
}

// openSharing checks a plan against the members and takes its numbers.
func (t *txn) openSharing(o *Open, row *Ceremony) *Error {
	cluster, plan := t.cluster(), o.Plan
	if plan.Cluster != cluster.ID {
		return refuse(Conflict, "plan of another cluster")
	}
	// The next number and no other: with a leap one Open could use them all up.
	again := plan.Epoch == cluster.Epoch && plan.Attempt == cluster.Attempt+1
	if next := plan.Epoch == cluster.Epoch+1 && plan.Attempt == 1; !again && !next {
		return refuse(Conflict, "epoch %d attempt %d: the highest so far is %d.%d, and the next attempt or epoch follows it", plan.Epoch, plan.Attempt, cluster.Epoch, cluster.Attempt)
	}
	if least := cluster.Policy.LeastThreshold(len(plan.Holders)); plan.Threshold < least {
		return refuse(NotAllowed, "threshold %d of %d holders: at least %d", plan.Threshold, len(plan.Holders), least)
	}
	var holders []dkek.NodeID
	for _, h := range plan.Holders {
		if m, ok := t.Member(h.Node); !ok || m.Holder() != h {
			return refuse(NotAllowed, "holder %v is not a member with this key", h.Node)
		}
		holders = append(holders, h.Node)
	}
	for _, c := range t.openCeremonies() {
		if c.Kind == CeremonyCreate || c.Kind == CeremonyReshare {
			return refuse(WrongState, "ceremony %v deals a sharing: one at a time", c.ID)
		}
	}
	for _, d := range plan.Dealers {
		if m, ok := t.Member(d.Node); !ok || m.Holder() != d {
			return refuse(NotAllowed, "dealer %v is not a member with this key", d.Node)
		}
		if !slices.Contains(holders, d.Node) {
			holders = append(holders, d.Node)
		}
	}
	slices.SortFunc(holders, func(a, b dkek.NodeID) int { return bytes.Compare(a[:], b[:]) })
	row.Holders = holders
	t.put(&SharingRow{Plan: *plan, Ceremony: o.Ceremony, Status: SharingDealing})
	t.changeCluster(func(c *Cluster) { c.Epoch, c.Attempt = plan.Epoch, plan.Attempt })
	return nil
}

// openProvision checks a provision or a drill: one target, and the sharing in
// force. A drill may also prove a sharing that is staged.
func (t *txn) openProvision(o *Open, row *Ceremony) *Error {
	source, ok := t.Sharing(o.Source.Epoch, o.Source.Attempt)
	if !ok || source.Ref() != o.Source && (source.Status != SharingStaged || source.Hash != o.Source.Hash) {
		return refuse(Conflict, "the Open's source is not a sharing here")
	}
	if source.Status != SharingProven && (source.Status != SharingStaged || o.Kind != CeremonyDrill) {
		return refuse(Conflict, "sharing %d.%d is %s", o.Source.Epoch, o.Source.Attempt, source.Status)
	}
	for _, c := range t.openCeremonies() {
		if c.Kind == o.Kind && slices.Contains(c.Recipients, row.Recipients[0]) {
			return refuse(WrongState, "ceremony %v provisions this node already", c.ID)
		}
	}
	for _, h := range source.Plan.Holders {
		row.Holders = append(row.Holders, h.Node)
	}
	if o.Successor != nil {
		return t.checkSuccessor(o.Successor, source)
	}
	return nil
}

func (t *txn) checkSuccessor(s *Successor, source *SharingRow) *Error {
	n := len(s.Holders)
	if n == 0 || n > dkek.MaxHolders || s.Threshold > n || s.Threshold < t.cluster().Policy.LeastThreshold(n) {
		return refuse(BadRequest, "successor: threshold %d of %d holders", s.Threshold, n)
	}
	for i, h := range s.Holders {
		if m, ok := t.Member(h.Node); !ok || m.Holder() != h || h.Node == s.Replaced {
			return refuse(BadRequest, "successor: holder %v is not a member with this key, or the one replaced", h.Node)
		}
		if i > 0 && bytes.Compare(s.Holders[i-1].Node[:], h.Node[:]) >= 0 {
			return refuse(BadRequest, "successor: want holders distinct and ascending by node")
		}
	}
	if !zero(s.Replaced) && !source.holds(s.Replaced) {
		return refuse(BadRequest, "successor: %v, which is replaced, holds nothing", s.Replaced)
	}
	return nil
}

func (t *txn) openGovern(o *Open) *Error {
	set := OperatorSet{Cluster: o.Cluster, Number: o.Govern.Number + 1, Approvals: o.Proposal.Approvals, Operators: o.Proposal.Operators}
	if err := set.validate(); err != nil {
		return err
	}
	if err := o.Proposal.Policy.validate(); err != nil {
		return err
	}
	if err := t.operatorsFree(set.Operators); err != nil {
		return err
	}
	if t.count(TableGoverns) >= MaxGoverns {
		return refuse(TooMany, "%d changes of operators at most", MaxGoverns)
	}
	for _, c := range t.openCeremonies() {
		if c.Kind == CeremonyGovern {
			return refuse(WrongState, "ceremony %v changes the operators: one at a time", c.ID)
		}
	}
	return nil
}
