package fsm

import (
	"bytes"
	"crypto/sha256"

	"github.com/keycustodian/keycustodian/dkek"
)

// Operator is a person's public key that approves.
type Operator struct {
	Name   string `cbor:"1,keyasint"`
	Public []byte `cbor:"2,keyasint"` // DER SubjectPublicKeyInfo: Ed25519 or ECDSA P-256
}

// Fingerprint identifies the operator.
func (o Operator) Fingerprint() dkek.Fingerprint { return FingerprintOf(o.Public) }

// OperatorSet is who may approve, as of one govern number. Every member pins one
// in a file of its own.
type OperatorSet struct {
	Cluster   dkek.ClusterID `cbor:"1,keyasint"`
	Number    uint64         `cbor:"2,keyasint"` // from 1
	Approvals int            `cbor:"3,keyasint"` // k: distinct signatures that approve
	Operators []Operator     `cbor:"4,keyasint"` // ascending by fingerprint
}

// Digest is SHA-256 over "keycustodian v1 operators", 0 and the set's core
// deterministic CBOR.
func (s OperatorSet) Digest() dkek.Hash {
	encoded, err := marshal(&s)
	if err != nil {
		return dkek.Hash{} // no field of it can fail
	}
	return sha256.Sum256(append([]byte("keycustodian v1 operators\x00"), encoded...))
}

// Find returns the operator with a fingerprint.
func (s OperatorSet) Find(f dkek.Fingerprint) (Operator, bool) {
	for _, o := range s.Operators {
		if o.Fingerprint() == f {
			return o, true
		}
	}
	return Operator{}, false
}

// Validate refuses a set that could not approve anything, or whose order or
// names leave doubt.
func (s OperatorSet) Validate() error {
	if err := s.validate(); err != nil {
		return err
	}
	return nil
}

func (s OperatorSet) validate() *Error {
	if len(s.Operators) == 0 || len(s.Operators) > MaxOperators {
		return refuse(BadRequest, "%d operators: want 1 to %d", len(s.Operators), MaxOperators)
	}
	if s.Approvals < 1 || s.Approvals > len(s.Operators) {
		return refuse(BadRequest, "%d approvals of %d operators: want 1 to %d", s.Approvals, len(s.Operators), len(s.Operators))
	}
	names := make(map[string]bool)
	var last dkek.Fingerprint
	for i, o := range s.Operators {
		if err := CheckName(o.Name); err != nil {
			return err
		}
		f, err := checkIdentity(o.Public)
		if err != nil {
			return err
		}
		if names[o.Name] || i > 0 && bytes.Compare(last[:], f[:]) >= 0 {
			return refuse(BadRequest, "operators: want distinct names and keys, ascending by fingerprint")
		}
		names[o.Name], last = true, f
	}
	return nil
}

// Approval is one operator's signature over the exact bytes of an Open, domain
// [DomainApproval], or of a [RecoverStatement], domain [DomainRecover].
type Approval struct {
	Operator  dkek.Fingerprint `cbor:"1,keyasint"`
	Signature []byte           `cbor:"2,keyasint"`
}

// VerifyApprovals tells whether an Open, in the exact bytes that were signed, is
// approved under a set: it names that set, and k distinct operators of it
// signed. A holder asks this with its own pinned set before it gives a share.
func VerifyApprovals(set OperatorSet, open []byte, approvals []Approval) error {
	if err := verifyApprovals(set, open, approvals); err != nil {
		return err
	}
	return nil
}

func verifyApprovals(set OperatorSet, open []byte, approvals []Approval) *Error {
	o, err := parseOpen(open)
	if err != nil {
		return err
	}
	if o.Cluster != set.Cluster || o.Govern != set.Ref() {
		return refuse(NotAllowed, "ceremony %v was opened under another operator set", o.Ceremony)
	}
	return set.approved(DomainApproval, open, approvals)
}

// approved wants k distinct operators' signatures over a message.
func (s OperatorSet) approved(domain Domain, message []byte, approvals []Approval) *Error {
	seen := make(map[dkek.Fingerprint]bool)
	for _, a := range approvals {
		operator, ok := s.Find(a.Operator)
		if !ok {
			return refuse(NotAllowed, "approval by %v, who is no operator", a.Operator)
		}
		if err := verify(operator.Public, domain, message, a.Signature); err != nil {
			return err
		}
		seen[a.Operator] = true
	}
	if len(seen) < s.Approvals {
		return refuse(NotAllowed, "%d approvals, and %d are needed", len(seen), s.Approvals)
	}
	return nil
}

// GovernRef names an operator set.
type GovernRef struct {
	Number uint64    `cbor:"1,keyasint"`
	Digest dkek.Hash `cbor:"2,keyasint"`
}

// Ref names the set.
func (s OperatorSet) Ref() GovernRef { return GovernRef{Number: s.Number, Digest: s.Digest()} }

// GovernRecord is one link in the chain of operator sets. Number 1 comes with
// the cluster; every later one is approved by the one before. Its change key is
// Number, 8 bytes big endian.
type GovernRecord struct {
	Number    uint64      `cbor:"1,keyasint"`
	Previous  dkek.Hash   `cbor:"2,keyasint"` // digest of the set before; zero in the first
	Digest    dkek.Hash   `cbor:"3,keyasint"` // of Set
	Set       OperatorSet `cbor:"4,keyasint"`
	Policy    Policy      `cbor:"5,keyasint"`
	Open      []byte      `cbor:"6,keyasint,omitempty"` // exact bytes
	Approvals []Approval  `cbor:"7,keyasint,omitempty"`
}

func (*GovernRecord) table() Table  { return TableGoverns }
func (r *GovernRecord) key() []byte { return number(r.Number) }

// VerifyGovern follows one link of the chain: from the set that is pinned to the
// one that the record's Open proposes, if enough operators of the pinned set
// signed that Open. It believes nothing in the record but those signatures.
func VerifyGovern(pinned OperatorSet, record *GovernRecord) (OperatorSet, error) {
	next, _, err := verifyGovern(pinned, record.Open, record.Approvals)
	if err != nil {
		return pinned, err
	}
	return next, nil
}

func verifyGovern(pinned OperatorSet, open []byte, approvals []Approval) (OperatorSet, *Proposal, *Error) {
	if err := verifyApprovals(pinned, open, approvals); err != nil {
		return pinned, nil, err
	}
	o, err := parseOpen(open)
	if err != nil {
		return pinned, nil, err
	}
	if o.Kind != CeremonyGovern || o.Proposal == nil {
		return pinned, nil, refuse(NotAllowed, "ceremony %v does not change the operators", o.Ceremony)
	}
	next := OperatorSet{Cluster: pinned.Cluster, Number: pinned.Number + 1, Approvals: o.Proposal.Approvals, Operators: o.Proposal.Operators}
	if err := next.validate(); err != nil {
		return pinned, nil, err
	}
	return next, o.Proposal, nil
}
