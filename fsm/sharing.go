package fsm

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// SharingStatus says how far a sharing is.
type SharingStatus string

const (
	SharingDealing    SharingStatus = "dealing"    // dealings or acknowledgements are missing
	SharingStaged     SharingStatus = "staged"     // all holders have it, no device has proven it
	SharingProven     SharingStatus = "proven"     // in force
	SharingSuperseded SharingStatus = "superseded" // by a later proven one
	SharingDropped    SharingStatus = "dropped"    // never came into force
)

// SharingRow is the public half of a split of the DKEK and how far it is. Its
// change key is epoch and attempt, 8 bytes each, big endian.
type SharingRow struct {
	Plan     dkek.Plan     `cbor:"1,keyasint"`
	Ceremony CeremonyID    `cbor:"2,keyasint"`
	Status   SharingStatus `cbor:"3,keyasint"`
	// Dealings in the order of the plan's dealers, as far as they are in, and
	// the statements that carried them.
	Dealings []dkek.Dealing `cbor:"4,keyasint,omitempty"`
	Signed   []Signed       `cbor:"5,keyasint,omitempty"` // of Dealings, same order
	// Hash is [dkek.Sharing.Hash] once all dealings are in, else zero.
	Hash dkek.Hash `cbor:"6,keyasint"`
	// KCV is the plan's, or at create what the first device reported.
	KCV     dkek.KCV `cbor:"7,keyasint"`
	Acks    []Signed `cbor:"8,keyasint,omitempty"` // [AckStatement]s
	Reports []Signed `cbor:"9,keyasint,omitempty"` // [ReportStatement]s
	// Acked and Erased are the holders that have the share, and those that
	// erased it after a later one was proven.
	Acked  []dkek.NodeID `cbor:"10,keyasint,omitempty"`
	Erased []dkek.NodeID `cbor:"11,keyasint,omitempty"`
	// Proven is the log index at which it came into force.
	Proven uint64 `cbor:"12,keyasint,omitempty"`
}

func (*SharingRow) table() Table  { return TableSharings }
func (s *SharingRow) key() []byte { return sharingKey(s.Plan.Epoch, s.Plan.Attempt) }

func sharingKey(epoch, attempt uint64) []byte {
	return binary.BigEndian.AppendUint64(number(epoch), attempt)
}

// Sharing is the complete sharing; only while Hash is not zero.
func (s *SharingRow) Sharing() dkek.Sharing {
	return dkek.Sharing{Plan: s.Plan, Dealings: s.Dealings}
}

// Ref names the sharing.
func (s *SharingRow) Ref() SharingRef {
	return SharingRef{Epoch: s.Plan.Epoch, Attempt: s.Plan.Attempt, Hash: s.Hash, KCV: s.KCV}
}

// Dealt tells whether all dealings are in.
func (s *SharingRow) Dealt() bool { return s.Hash != dkek.Hash{} }

func (s *SharingRow) holds(id dkek.NodeID) bool { return s.Plan.HolderIndex(id) >= 0 }

// sharingOf is the sharing that a create or reshare deals.
func (t *txn) sharingOf(c *Ceremony) (*SharingRow, *Error) {
	o, err := parseOpen(c.Open)
	if err != nil {
		return nil, err
	}
	if o.Plan == nil {
		return nil, refuse(WrongState, "a %s deals no sharing", c.Kind)
	}
	s, ok := t.Sharing(o.Plan.Epoch, o.Plan.Attempt)
	if !ok {
		return nil, refuse(NotFound, "sharing %d.%d is forgotten", o.Plan.Epoch, o.Plan.Attempt)
	}
	return s, nil
}

// DealingRecord records the public half of what a dealer dealt: a
// [DealingStatement], domain [DomainDealing].
type DealingRecord struct {
	Signed Signed `cbor:"1,keyasint"`
}

// DealingStatement is a dealer's word for what it dealt.
type DealingStatement struct {
	Cluster  dkek.ClusterID `cbor:"1,keyasint"`
	Ceremony CeremonyID     `cbor:"2,keyasint"`
	Plan     dkek.Hash      `cbor:"3,keyasint"` // [dkek.Plan.Hash]
	Dealing  dkek.Dealing   `cbor:"4,keyasint"`
}

func (*DealingRecord) Kind() Kind { return KindDealingRecord }

func (b *DealingRecord) apply(t *txn) (Value, *Error) {
	var s DealingStatement
	if err := b.Signed.peek(&s); err != nil {
		return Value{}, err
	}
	c, sharing, err := t.stated(b.Signed, DomainDealing, s.Cluster, s.Ceremony, s.Dealing.Dealer)
	if err != nil {
		return Value{}, err
	}
	if s.Plan != sharing.Plan.Hash() {
		return Value{}, refuse(Conflict, "dealing for another plan")
	}
	if err := s.Dealing.Validate(&sharing.Plan); err != nil {
		return Value{}, refuse(BadRequest, "%v", err)
	}
	dealer := sharing.Plan.DealerIndex(s.Dealing.Dealer)
	at, found := slices.BinarySearchFunc(sharing.Dealings, dealer, func(d dkek.Dealing, i int) int {
		return sharing.Plan.DealerIndex(d.Dealer) - i
	})
	if found {
		if bytes.Equal(sharing.Signed[at].Statement, b.Signed.Statement) {
			return Value{}, nil
		}
		return Value{}, refuse(Conflict, "dealer %v has dealt already", s.Dealing.Dealer)
	}
	next := *sharing
	next.Dealings = slices.Insert(slices.Clone(sharing.Dealings), at, s.Dealing)
	next.Signed = slices.Insert(slices.Clone(sharing.Signed), at, b.Signed)
	if len(next.Dealings) == len(next.Plan.Dealers) {
		whole := next.Sharing()
		if err := whole.Validate(); err != nil {
			return Value{}, refuse(BadRequest, "%v", err)
		}
		next.Hash, next.KCV = whole.Hash(), next.Plan.KCV
	}
	t.put(&next)
	t.audit("dealing", c.ID.String(), s.Dealing.Dealer.String())
	return Value{}, nil
}

// stated checks who made a statement about a live ceremony's sharing: a member,
// by its signature. Another member may hand it in.
func (t *txn) stated(signed Signed, domain Domain, cluster dkek.ClusterID, id CeremonyID, by dkek.NodeID) (*Ceremony, *SharingRow, *Error) {
	c, err := t.liveCeremony(id)
	if err != nil {
		return nil, nil, err
	}
	if cluster != t.cluster().ID {
		return nil, nil, refuse(Conflict, "statement of another cluster")
	}
	m, err := t.member(by)
	if err != nil {
		return nil, nil, err
	}
	if err := verify(m.Public, domain, signed.Statement, signed.Signature); err != nil {
		return nil, nil, err
	}
	sharing, err := t.sharingOf(c)
	return c, sharing, err
}

// ShareAck records that a holder has its share: written, synced, read back,
// unsealed and compared. It carries an [AckStatement], domain [DomainAck]. With
// the last one the sharing is staged.
type ShareAck struct {
	Signed Signed `cbor:"1,keyasint"`
}

// AckStatement is a holder's word that it has its share of a sharing.
type AckStatement struct {
	Cluster  dkek.ClusterID `cbor:"1,keyasint"`
	Ceremony CeremonyID     `cbor:"2,keyasint"`
	Sharing  dkek.Hash      `cbor:"3,keyasint"`
	Holder   dkek.NodeID    `cbor:"4,keyasint"`
}

func (*ShareAck) Kind() Kind { return KindShareAck }

func (b *ShareAck) apply(t *txn) (Value, *Error) {
	var s AckStatement
	if err := b.Signed.peek(&s); err != nil {
		return Value{}, err
	}
	c, sharing, err := t.stated(b.Signed, DomainAck, s.Cluster, s.Ceremony, s.Holder)
	if err != nil {
		return Value{}, err
	}
	if !sharing.Dealt() || s.Sharing != sharing.Hash {
		return Value{}, refuse(Conflict, "acknowledgement of another sharing than ceremony %v dealt", c.ID)
	}
	if !sharing.holds(s.Holder) {
		return Value{}, refuse(NotAllowed, "node %v is no holder", s.Holder)
	}
	if slices.Contains(sharing.Acked, s.Holder) {
		return Value{}, nil
	}
	next := *sharing
	next.Acks = append(slices.Clone(sharing.Acks), b.Signed)
	next.Acked = append(slices.Clone(sharing.Acked), s.Holder)
	if len(next.Acked) == len(next.Plan.Holders) {
		next.Status = SharingStaged
	}
	t.put(&next)
	t.audit("share acknowledge", c.ID.String(), s.Holder.String())
	return Value{}, nil
}

// OldShareErased records that a holder erased its share of a sharing that is
// not in force any more.
type OldShareErased struct {
	Node    dkek.NodeID `cbor:"1,keyasint"`
	Epoch   uint64      `cbor:"2,keyasint"`
	Attempt uint64      `cbor:"3,keyasint"`
}

func (*OldShareErased) Kind() Kind { return KindOldShareErased }

func (b *OldShareErased) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	s, ok := t.Sharing(b.Epoch, b.Attempt)
	if !ok || !s.holds(b.Node) {
		return Value{}, refuse(NotFound, "no share of sharing %d.%d at this node", b.Epoch, b.Attempt)
	}
	if s.Status != SharingSuperseded && s.Status != SharingDropped {
		return Value{}, refuse(WrongState, "sharing %d.%d is %s: its shares must not be erased", b.Epoch, b.Attempt, s.Status)
	}
	if slices.Contains(s.Erased, b.Node) {
		return Value{}, nil
	}
	next := *s
	next.Erased = append(slices.Clone(s.Erased), b.Node)
	t.put(&next)
	t.audit("share erase", b.Node.String(), "")
	return Value{}, nil
}

// prove puts a sharing in force.
func (t *txn) prove(s *SharingRow) {
	for _, other := range slices.Collect(t.Sharings()) {
		changed := *other
		switch {
		case other.Plan.Epoch == s.Plan.Epoch && other.Plan.Attempt == s.Plan.Attempt:
			continue
		case other.Status == SharingProven:
			changed.Status = SharingSuperseded
		case other.Status == SharingStaged:
			changed.Status = SharingDropped
		default:
			continue
		}
		t.put(&changed)
	}
	next := *s
	next.Status, next.Proven = SharingProven, t.index
	t.put(&next)
	t.changeCluster(func(c *Cluster) { c.Proven, c.ReshareDue = next.Ref(), "" })
	t.audit("sharing proven", next.Hash.String(), next.KCV.String())
}

// dropSharing gives up a sharing that never came into force.
func (t *txn) dropSharing(s *SharingRow) {
	next := *s
	next.Status = SharingDropped
	t.put(&next)
	over := func(r row) bool {
		s := r.(*SharingRow)
		return s.Status == SharingSuperseded || s.Status == SharingDropped
	}
	t.trim(TableSharings, byKey, MaxSharings, over)
}
