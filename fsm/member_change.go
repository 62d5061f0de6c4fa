package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/hsm"
)

// MemberRemove removes a member: another one at an operator's word, or itself.
// It is refused where fewer than t holders of the proven epoch would remain, and
// for the last voter.
type MemberRemove struct {
	Node   dkek.NodeID `cbor:"1,keyasint"`
	Reason string      `cbor:"2,keyasint,omitempty"`
}

func (*MemberRemove) Kind() Kind { return KindMemberRemove }

func (b *MemberRemove) apply(t *txn) (Value, *Error) {
	if self := t.bySelf(b.Node) == nil; !self {
		if err := t.byOperator(); err != nil {
			return Value{}, err
		}
	}
	if err := checkText("reason", b.Reason, MaxReason); err != nil {
		return Value{}, err
	}
	m, err := t.member(b.Node)
	if err != nil {
		return Value{}, err
	}
	if voters, _ := t.voters(); m.Voter && voters == 1 {
		return Value{}, refuse(WrongState, "member %s is the last voter", m.Name)
	}
	if err := t.enoughHoldersWithout(m); err != nil {
		return Value{}, err
	}
	t.dropMember(m, b.Reason)
	t.audit("member remove", m.Name, b.Reason)
	return Value{}, nil
}

// enoughHoldersWithout refuses to drop a holder that the proven epoch needs.
func (t *txn) enoughHoldersWithout(m *Member) *Error {
	proven, ok := t.Proven()
	if !ok || !proven.holds(m.ID) {
		return nil
	}
	remain := 0
	for _, h := range proven.Plan.Holders {
		if _, is := t.Member(h.Node); is && h.Node != m.ID {
			remain++
		}
	}
	if remain < proven.Plan.Threshold {
		return refuse(WrongState, "without %s only %d holders of epoch %d would remain and %d are needed: reshare to the others first", m.Name, remain, proven.Plan.Epoch, proven.Plan.Threshold)
	}
	return nil
}

// dropMember turns a member into a removed one: nobody waits for it any more.
func (t *txn) dropMember(m *Member, reason string) {
	t.remove(m)
	t.put(&Removed{ID: m.ID, Name: m.Name, Fingerprint: m.Fingerprint, Addr: m.Addr, Index: t.index, Time: t.now, Reason: reason})
	t.trim(TableRemoved, bySecond, MaxRemoved, nil)
	t.changeMember(MemberChange{Action: ChangeRemove, Node: m.ID, Fingerprint: m.Fingerprint})
	for _, stone := range slices.Collect(t.Tombstones()) {
		if slices.Contains(stone.Awaiting, m.ID) {
			t.confirm(stone, m.ID)
		}
	}
	for _, a := range slices.Collect(t.Aborts()) {
		if a.Node == m.ID {
			t.remove(a)
		}
	}
}

// MemberAddress says where a member is reached now. Only itself says so.
type MemberAddress struct {
	Node dkek.NodeID `cbor:"1,keyasint"`
	Addr string      `cbor:"2,keyasint"`
}

func (*MemberAddress) Kind() Kind { return KindMemberAddress }

func (b *MemberAddress) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	if err := checkAddress(b.Addr); err != nil {
		return Value{}, err
	}
	if err := t.addressFree(b.Addr, b.Node); err != nil {
		return Value{}, err
	}
	next := *t.self()
	next.Addr = b.Addr
	t.put(&next)
	t.audit("member address", next.Name, b.Addr)
	return Value{}, nil
}

// MemberRotateKey gives a member a new key. Signed is its [RotateStatement]
// under the old key, Possession the signature over the same bytes under the new
// one. Not while a ceremony is open in which it takes part, nor while the reshare
// that follows a provision is due and names it under its present key.
type MemberRotateKey struct {
	Signed     Signed `cbor:"1,keyasint"`
	Possession []byte `cbor:"2,keyasint"`
}

func (*MemberRotateKey) Kind() Kind { return KindMemberRotateKey }

// RotateStatement is what both keys sign, domain [DomainRotate].
type RotateStatement struct {
	Cluster dkek.ClusterID   `cbor:"1,keyasint"`
	Node    dkek.NodeID      `cbor:"2,keyasint"`
	Old     dkek.Fingerprint `cbor:"3,keyasint"`
	Public  []byte           `cbor:"4,keyasint"` // the new key, DER SubjectPublicKeyInfo
}

// VerifyRotation checks a change of a member's key against the old key, without
// any state: for a node that follows the chain of [MemberChange].
func VerifyRotation(oldPublic []byte, signed Signed) (*RotateStatement, error) {
	s, err := verifyRotation(oldPublic, signed)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func verifyRotation(oldPublic []byte, signed Signed) (*RotateStatement, *Error) {
	var s RotateStatement
	if err := signed.open(DomainRotate, oldPublic, &s); err != nil {
		return nil, err
	}
	if s.Old != FingerprintOf(oldPublic) {
		return nil, refuse(NotAllowed, "rotation of another key")
	}
	return &s, nil
}

func (b *MemberRotateKey) apply(t *txn) (Value, *Error) {
	if err := t.byMember(); err != nil {
		return Value{}, err
	}
	m := t.self()
	s, err := verifyRotation(m.Public, b.Signed)
	if err != nil {
		return Value{}, err
	}
	if s.Cluster != t.cluster().ID || s.Node != m.ID {
		return Value{}, refuse(NotAllowed, "rotation of another member's key")
	}
	fingerprint, err := checkIdentity(s.Public)
	if err != nil {
		return Value{}, err
	}
	if err := t.identityFree(fingerprint); err != nil {
		return Value{}, err
	}
	if err := verify(s.Public, DomainRotate, b.Signed.Statement, b.Possession); err != nil {
		return Value{}, err
	}
	for c := range t.Ceremonies() {
		if c.Outcome == OutcomeOpen && c.involves(m.ID) || t.successorNames(c, m.ID) {
			return Value{}, refuse(WrongState, "member %s takes part in ceremony %v: rotate its key when that is over", m.Name, c.ID)
		}
	}
	next := *m
	next.Public, next.Fingerprint, next.Former = s.Public, fingerprint, m.Fingerprint
	t.put(&next)
	t.changeMember(MemberChange{Action: ChangeRotate, Node: m.ID, Fingerprint: fingerprint, Public: s.Public, Signed: &b.Signed})
	t.audit("member rotate-key", m.Name, fingerprint.String())
	return Value{}, nil
}

// MemberReport is what a member says about itself. A nil part leaves what it
// said before. A device with another serial holds none of what the former one
// did.
type MemberReport struct {
	Node     dkek.NodeID  `cbor:"1,keyasint"`
	ReadsTo  uint64       `cbor:"2,keyasint"`
	Device   *Device      `cbor:"3,keyasint,omitempty"`
	Share    *ShareHealth `cbor:"4,keyasint,omitempty"`
	SealKept *string      `cbor:"5,keyasint,omitempty"`
}

func (*MemberReport) Kind() Kind { return KindMemberReport }

func (b *MemberReport) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	if err := b.validate(); err != nil {
		return Value{}, err
	}
	if b.ReadsTo < t.cluster().Version {
		return Value{}, refuse(WrongState, "the cluster is at command version %d already", t.cluster().Version)
	}
	old := t.self()
	next := *old
	next.ReadsTo = b.ReadsTo
	if b.SealKept != nil {
		next.SealKept = *b.SealKept
	}
	if b.Share != nil {
		next.Share = b.Share
	}
	if b.Device != nil {
		next.Device = b.Device
		if old.Device != nil && old.Device.Serial != b.Device.Serial {
			next.Emptied = t.index
			t.audit("device change", next.Name, old.Device.Serial+" to "+b.Device.Serial)
		}
	}
	t.put(&next)
	return Value{}, nil
}

func (b *MemberReport) validate() *Error {
	if b.SealKept != nil {
		if err := checkText("seal weakness", *b.SealKept, MaxText); err != nil {
			return err
		}
	}
	if b.Share != nil {
		if err := checkText("share health", b.Share.Text, MaxText); err != nil {
			return err
		}
	}
	if d := b.Device; d != nil {
		if d.Kind == "" || d.Serial == "" {
			return refuse(BadRequest, "device without a kind or serial")
		}
		for _, text := range []string{d.Kind, d.Serial, d.Label, d.State, d.BlobKind, d.Weakness} {
			if err := checkText("device", text, MaxText); err != nil {
				return err
			}
		}
		if len(d.Types) > len(hsm.KeyTypes()) {
			return refuse(BadRequest, "device with %d key types", len(d.Types))
		}
		for _, keyType := range d.Types {
			if keyType.Family() == "" {
				return refuse(BadRequest, "device with unknown key type %.40q", keyType)
			}
		}
	}
	return nil
}
