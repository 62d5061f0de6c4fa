package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// Outcome says how a ceremony ended.
type Outcome string

const (
	OutcomeOpen     Outcome = ""         // it has not
	OutcomeSuccess  Outcome = "success"  // proven by the state's own conditions
	OutcomeUnproven Outcome = "unproven" // a reshare that all hold and a drill may still prove
	OutcomeFailed   Outcome = "failed"
	OutcomeLost     Outcome = "lost" // a recipient restarted and lost its key
	OutcomeDenied   Outcome = "denied"
	OutcomeExpired  Outcome = "expired"
	OutcomeVoid     Outcome = "void" // overtaken: a recovery, or other operators
)

// Ceremony is a recorded, signed, approved act. Its change key is the ID, 16
// bytes.
type Ceremony struct {
	ID        CeremonyID   `cbor:"1,keyasint"`
	Kind      CeremonyKind `cbor:"2,keyasint"`
	Open      []byte       `cbor:"3,keyasint"` // exact bytes, see ParseOpen
	Hash      dkek.Hash    `cbor:"4,keyasint"` // OpenHash of Open
	Signature []byte       `cbor:"5,keyasint"` // the opener's
	Opener    dkek.NodeID  `cbor:"6,keyasint"`
	Opened    uint64       `cbor:"7,keyasint"` // log index
	Time      int64        `cbor:"8,keyasint"` // of the opening, Unix milliseconds
	Expires   int64        `cbor:"9,keyasint"`
	Approvals []Approval   `cbor:"10,keyasint,omitempty"`
	// Approved is the log index from which on releases are legal; 0: not yet.
	Approved uint64 `cbor:"11,keyasint,omitempty"`
	// Cited: approved as the successor of a provision, without approvals.
	Cited    bool            `cbor:"12,keyasint,omitempty"`
	Denials  []Approval      `cbor:"13,keyasint,omitempty"` // domain DomainDeny
	Releases []ReleaseRecord `cbor:"14,keyasint,omitempty"`
	Reports  []Signed        `cbor:"15,keyasint,omitempty"` // [ReportStatement]s
	Outcome  Outcome         `cbor:"16,keyasint,omitempty"`
	Detail   string          `cbor:"17,keyasint,omitempty"`
	Closed   uint64          `cbor:"18,keyasint,omitempty"` // log index
	ClosedAt int64           `cbor:"19,keyasint,omitempty"`
	// Recipients and Holders are the nodes that receive and that give.
	Recipients []dkek.NodeID `cbor:"20,keyasint,omitempty"`
	Holders    []dkek.NodeID `cbor:"21,keyasint,omitempty"`
}

func (*Ceremony) table() Table     { return TableCeremonies }
func (c *Ceremony) key() []byte    { return c.ID[:] }
func (c *Ceremony) second() []byte { return number(c.Opened) }

func (c *Ceremony) involves(id dkek.NodeID) bool {
	return c.Opener == id || slices.Contains(c.Recipients, id) || slices.Contains(c.Holders, id)
}

// Live tells whether releases are legal at a time of the log.
func (c *Ceremony) Live(now int64) bool {
	return c.Outcome == OutcomeOpen && c.Approved != 0 && now <= c.Expires
}

// forgettable tells whether the row may go. Whatever an operator signed stays
// until it has expired, so that it is not opened once more or cited twice; the
// rest goes sooner, since any member can open any number.
func (c *Ceremony) forgettable(now int64) bool {
	signed := c.Cited || len(c.Approvals) > 0 || len(c.Denials) > 0
	return c.Outcome != OutcomeOpen && (!signed || c.Expires < now)
}

func (t *txn) openCeremonies() []*Ceremony {
	var open []*Ceremony
	for c := range t.Ceremonies() {
		if c.Outcome == OutcomeOpen {
			open = append(open, c)
		}
	}
	return open
}

// CeremonyOpen opens a ceremony: the exact bytes of an [Open] and the opener's
// signature, domain [DomainOpen].
type CeremonyOpen struct {
	Open      []byte `cbor:"1,keyasint"`
	Signature []byte `cbor:"2,keyasint"`
}

func (*CeremonyOpen) Kind() Kind { return KindCeremonyOpen }

// CeremonyApprove adds an operator's approval.
type CeremonyApprove struct {
	Ceremony CeremonyID `cbor:"1,keyasint"`
	Approval Approval   `cbor:"2,keyasint"`
}

func (*CeremonyApprove) Kind() Kind { return KindCeremonyApprove }

func (b *CeremonyApprove) apply(t *txn) (Value, *Error) {
	c, err := t.openCeremony(b.Ceremony)
	if err != nil {
		return Value{}, err
	}
	if t.now > c.Expires {
		return Value{}, refuse(Expired, "ceremony %v has expired", c.ID)
	}
	set := t.cluster().Operators
	operator, ok := set.Find(b.Approval.Operator)
	if !ok {
		return Value{}, refuse(NotAllowed, "%v is no operator", b.Approval.Operator)
	}
	if slices.ContainsFunc(c.Approvals, func(a Approval) bool { return a.Operator == b.Approval.Operator }) {
		return Value{}, nil
	}
	if err := verify(operator.Public, DomainApproval, c.Open, b.Approval.Signature); err != nil {
		return Value{}, err
	}
	next := *c
	next.Approvals = append(slices.Clone(c.Approvals), b.Approval)
	if next.Approved == 0 && len(next.Approvals) >= set.Approvals {
		next.Approved = t.index
	}
	t.put(&next)
	t.audit("ceremony approve", c.ID.String(), operator.Name)
	if next.Approved != 0 && next.Kind == CeremonyGovern {
		return Value{}, t.govern(&next)
	}
	return Value{}, nil
}

// govern puts an approved proposal in force. Ceremonies that were opened under
// the former operators are void.
func (t *txn) govern(c *Ceremony) *Error {
	former := t.cluster().Operators
	set, proposal, err := verifyGovern(former, c.Open, c.Approvals)
	if err != nil {
		return err
	}
	if err := t.operatorsFree(proposal.Operators); err != nil {
		return err
	}
	t.put(&GovernRecord{
		Number: set.Number, Previous: former.Digest(), Digest: set.Digest(), Set: set,
		Policy: proposal.Policy, Open: c.Open, Approvals: c.Approvals,
	})
	t.changeCluster(func(cluster *Cluster) { cluster.Operators, cluster.Policy = set, proposal.Policy })
	t.operatorsNoClients(proposal.Operators)
	t.closeCeremony(c, OutcomeSuccess, "")
	for _, other := range t.openCeremonies() {
		t.closeCeremony(other, OutcomeVoid, "the operators were changed")
	}
	return nil
}

// operatorsFree refuses operators' keys that stand for a node.
func (t *txn) operatorsFree(operators []Operator) *Error {
	for _, o := range operators {
		if m, ok := t.MemberByFingerprint(o.Fingerprint()); ok {
			return refuse(Exists, "member %s has operator %s's key", m.Name, o.Name)
		}
	}
	return nil
}

// operatorsNoClients removes clients with operators' keys: what operators signed
// goes before a row that takes one member's word.
func (t *txn) operatorsNoClients(operators []Operator) {
	for _, o := range operators {
		if c, ok := t.Client(o.Fingerprint()); ok {
			t.remove(c)
			t.audit("client remove", c.Name, "its key is operator "+o.Name+"'s")
		}
	}
}

// CeremonyDeny ends a ceremony at one operator's word: a signature over the
// exact bytes of its Open, domain [DomainDeny].
type CeremonyDeny struct {
	Ceremony CeremonyID `cbor:"1,keyasint"`
	Denial   Approval   `cbor:"2,keyasint"`
	Reason   string     `cbor:"3,keyasint,omitempty"` // not signed
}

func (*CeremonyDeny) Kind() Kind { return KindCeremonyDeny }

func (b *CeremonyDeny) apply(t *txn) (Value, *Error) {
	c, err := t.openCeremony(b.Ceremony)
	if err != nil {
		return Value{}, err
	}
	if err := checkText("reason", b.Reason, MaxReason); err != nil {
		return Value{}, err
	}
	operator, ok := t.cluster().Operators.Find(b.Denial.Operator)
	if !ok {
		return Value{}, refuse(NotAllowed, "%v is no operator", b.Denial.Operator)
	}
	if err := verify(operator.Public, DomainDeny, c.Open, b.Denial.Signature); err != nil {
		return Value{}, err
	}
	next := *c
	next.Denials = append(slices.Clone(c.Denials), b.Denial)
	detail := "by " + operator.Name
	if b.Reason != "" {
		detail += ": " + b.Reason
	}
	t.closeCeremony(&next, OutcomeDenied, detail)
	return Value{}, nil
}

// openCeremony returns a ceremony that must exist and not be closed; whoever
// speaks of it does so through a member.
func (t *txn) openCeremony(id CeremonyID) (*Ceremony, *Error) {
	if _, err := t.proposed(); err != nil {
		return nil, err
	}
	c, ok := t.Ceremony(id)
	if !ok {
		return nil, refuse(NotFound, "no ceremony %v", id)
	}
	if c.Outcome != OutcomeOpen {
		return nil, refuse(WrongState, "ceremony %v is closed: %s", id, c.Outcome)
	}
	return c, nil
}

// liveCeremony returns a ceremony in which shares may move now.
func (t *txn) liveCeremony(id CeremonyID) (*Ceremony, *Error) {
	c, err := t.openCeremony(id)
	if err != nil {
		return nil, err
	}
	if c.Approved == 0 {
		return nil, refuse(WrongState, "ceremony %v is not approved", id)
	}
	if t.now > c.Expires {
		return nil, refuse(Expired, "ceremony %v has expired", id)
	}
	return c, nil
}
