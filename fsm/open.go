package fsm

import (
	"bytes"
	"crypto"
	"crypto/sha256"

	"github.com/keycustodian/keycustodian/dkek"
)

// OpenFormat is the first field of every [Open].
const OpenFormat = 1

// CeremonyKind says what a ceremony is for. Numbers 6 to 8 are kept for escrow,
// export and import.
type CeremonyKind uint8

const (
	CeremonyCreate    CeremonyKind = 1 // deal the DKEK and provision every device
	CeremonyProvision CeremonyKind = 2 // put the DKEK into one device
	CeremonyReshare   CeremonyKind = 3 // deal the shares anew
	CeremonyGovern    CeremonyKind = 4 // change the operators or the policy
	CeremonyDrill     CeremonyKind = 5 // prove shares and blobs with a scratch device
)

func (k CeremonyKind) String() string {
	switch k {
	case CeremonyCreate:
		return "create"
	case CeremonyProvision:
		return "provision"
	case CeremonyReshare:
		return "reshare"
	case CeremonyGovern:
		return "govern"
	case CeremonyDrill:
		return "drill"
	}
	return "unknown"
}

// Open is what a ceremony is about: everything that operators approve. Its
// exact bytes are signed, stored and hashed; never a re-encoding.
type Open struct {
	Format      int            `cbor:"1,keyasint"` // OpenFormat
	Cluster     dkek.ClusterID `cbor:"2,keyasint"`
	Incarnation uint64         `cbor:"3,keyasint"`
	Ceremony    CeremonyID     `cbor:"4,keyasint"`
	Kind        CeremonyKind   `cbor:"5,keyasint"`
	Purpose     string         `cbor:"6,keyasint,omitempty"`
	Reason      string         `cbor:"7,keyasint,omitempty"`
	Opener      dkek.Holder    `cbor:"8,keyasint"` // the member that opens
	// Expires is in the log's time, Unix milliseconds, at most 24 hours after
	// the opening.
	Expires int64 `cbor:"9,keyasint"`
	// Govern names the operator set that approves.
	Govern GovernRef `cbor:"10,keyasint"`
	// Source is the sharing whose shares move; zero at create and govern.
	Source SharingRef `cbor:"11,keyasint"`
	// Plan is the new sharing of a create or reshare, else nil.
	Plan *dkek.Plan `cbor:"12,keyasint,omitempty"`
	// Recipients are the nodes that receive shares, ascending by node, each a
	// [RecipientStatement] signed by that node: every new holder at create and
	// reshare, the target at provision and drill, none at govern.
	Recipients []Signed `cbor:"13,keyasint,omitempty"`
	// Successor, at provision only, is the one reshare that needs no approvals
	// of its own.
	Successor *Successor `cbor:"14,keyasint,omitempty"`
	// Cites, at reshare only, is the provision that named it as successor.
	Cites *Cite `cbor:"15,keyasint,omitempty"`
	// Proposal, at govern only.
	Proposal *Proposal `cbor:"16,keyasint,omitempty"`
	// Sample, at drill only, is how many blobs are proven.
	Sample int `cbor:"17,keyasint,omitempty"`
}

// SharingRef names a sharing.
type SharingRef struct {
	Epoch   uint64    `cbor:"1,keyasint"`
	Attempt uint64    `cbor:"2,keyasint"`
	Hash    dkek.Hash `cbor:"3,keyasint"` // [dkek.Sharing.Hash]
	KCV     dkek.KCV  `cbor:"4,keyasint"`
}

// RecipientStatement is a receiving node's own word for what shares may be
// sealed to, domain [DomainRecipient].
type RecipientStatement struct {
	Cluster     dkek.ClusterID `cbor:"1,keyasint"`
	Incarnation uint64         `cbor:"2,keyasint"`
	Ceremony    CeremonyID     `cbor:"3,keyasint"`
	// Epoch and Attempt are the new sharing's at create and reshare, else the
	// source's.
	Epoch        uint64         `cbor:"4,keyasint"`
	Attempt      uint64         `cbor:"5,keyasint"`
	Node         dkek.Holder    `cbor:"6,keyasint"`
	Public       []byte         `cbor:"7,keyasint"` // the node's key, DER SubjectPublicKeyInfo
	DeviceKind   string         `cbor:"8,keyasint,omitempty"`
	DeviceSerial string         `cbor:"9,keyasint,omitempty"`
	Certificate  []byte         `cbor:"10,keyasint,omitempty"` // the device's, where it has one
	Key          dkek.PublicKey `cbor:"11,keyasint"`           // HPKE, fresh for this ceremony and attempt
}

// KeyHash is SHA-256 of the HPKE key's bytes: what a [Release] names.
func (r *RecipientStatement) KeyHash() dkek.Hash { return sha256.Sum256(r.Key.Bytes) }

// Successor is the reshare that follows a provision.
type Successor struct {
	Holders   []dkek.Holder `cbor:"1,keyasint"` // ascending by node
	Threshold int           `cbor:"2,keyasint"`
	Replaced  dkek.NodeID   `cbor:"3,keyasint"` // the holder that goes; zero: none
}

// Cite names an Open by ceremony and hash.
type Cite struct {
	Ceremony CeremonyID `cbor:"1,keyasint"`
	Hash     dkek.Hash  `cbor:"2,keyasint"`
}

// Proposal is what a govern ceremony puts in force.
type Proposal struct {
	Operators []Operator `cbor:"1,keyasint"`
	Approvals int        `cbor:"2,keyasint"`
	Policy    Policy     `cbor:"3,keyasint"` // the whole policy from then on
}

// EncodeOpen returns the bytes to be signed.
func EncodeOpen(o *Open) ([]byte, error) { return marshal(o) }

// ParseOpen reads an Open strictly, and refuses one that holds what has no place in
// its kind: recipients that are not the new holders, shares in a govern ceremony.
func ParseOpen(open []byte) (*Open, error) {
	o, err := parseOpen(open)
	if err != nil {
		return nil, err
	}
	return o, nil
}

func parseOpen(open []byte) (*Open, *Error) {
	if len(open) > MaxOpen {
		return nil, refuse(BadRequest, "Open of %d bytes: %d at most", len(open), MaxOpen)
	}
	var o Open
	if err := unmarshal(open, &o); err != nil || o.Format != OpenFormat {
		return nil, refuse(BadRequest, "Open is malformed or of an unknown format")
	}
	if err := o.checkForm(); err != nil {
		return nil, err
	}
	return &o, nil
}

// OpenHash is SHA-256 over "keycustodian v1 open", 0 and the Open's exact bytes.
func OpenHash(open []byte) dkek.Hash {
	return sha256.Sum256(append([]byte("keycustodian v1 open\x00"), open...))
}

// SignOpen encodes and signs an Open as its opener.
func SignOpen(signer crypto.Signer, o *Open) (*CeremonyOpen, error) {
	encoded, err := EncodeOpen(o)
	if err != nil {
		return nil, err
	}
	signature, err := SignMessage(signer, DomainOpen, encoded)
	return &CeremonyOpen{Open: encoded, Signature: signature}, err
}

// Recipient returns a node's verified entry. The signature is checked under the
// key in the entry, and that key against its fingerprint; whether the
// fingerprint is the node's is for the caller to compare with its own table.
func (o *Open) Recipient(node dkek.NodeID) (*RecipientStatement, error) {
	for _, entry := range o.Recipients {
		r, err := o.recipient(entry)
		if err != nil {
			return nil, err
		}
		if r.Node.Node == node {
			return r, nil
		}
	}
	return nil, refuse(NotFound, "node %v is no recipient of ceremony %v", node, o.Ceremony)
}

// attempt is the epoch and attempt that recipients sign.
func (o *Open) attempt() (epoch, attempt uint64) {
	if o.Plan != nil {
		return o.Plan.Epoch, o.Plan.Attempt
	}
	return o.Source.Epoch, o.Source.Attempt
}

func (o *Open) recipient(entry Signed) (*RecipientStatement, *Error) {
	var r RecipientStatement
	if err := entry.peek(&r); err != nil {
		return nil, err
	}
	if err := entry.open(DomainRecipient, r.Public, &r); err != nil {
		return nil, err
	}
	epoch, attempt := o.attempt()
	switch {
	case r.Node.Fingerprint != FingerprintOf(r.Public):
		return nil, refuse(NotAllowed, "recipient %v: key and fingerprint differ", r.Node.Node)
	case r.Cluster != o.Cluster || r.Incarnation != o.Incarnation || r.Ceremony != o.Ceremony || r.Epoch != epoch || r.Attempt != attempt:
		return nil, refuse(NotAllowed, "recipient %v: entry was signed for something else", r.Node.Node)
	case r.Key.Suite.Validate() != nil || len(r.Key.Bytes) != hpkeKeySize(r.Key.Suite):
		return nil, refuse(BadRequest, "recipient %v: no HPKE key of a known suite", r.Node.Node)
	case len(r.Certificate) > MaxCertificate:
		return nil, refuse(BadRequest, "recipient %v: certificate over %d bytes", r.Node.Node, MaxCertificate)
	}
	for _, text := range []string{r.DeviceKind, r.DeviceSerial} {
		if err := checkText("device", text, MaxText); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

func hpkeKeySize(s dkek.Suite) int {
	switch s {
	case dkek.Hybrid():
		return 1216
	case dkek.X25519():
		return 32
	case dkek.P256():
		return 65
	}
	return -1
}

// recipients checks all entries: each valid, ascending by node, no key twice.
func (o *Open) recipients() ([]*RecipientStatement, *Error) {
	if len(o.Recipients) > MaxRecipients {
		return nil, refuse(BadRequest, "%d recipients: %d at most", len(o.Recipients), MaxRecipients)
	}
	list := make([]*RecipientStatement, 0, len(o.Recipients))
	keys := make(map[dkek.Hash]bool)
	for i, entry := range o.Recipients {
		r, err := o.recipient(entry)
		if err != nil {
			return nil, err
		}
		if i > 0 && bytes.Compare(list[i-1].Node.Node[:], r.Node.Node[:]) >= 0 {
			return nil, refuse(BadRequest, "recipients: want them distinct and ascending by node")
		}
		if keys[r.KeyHash()] {
			return nil, refuse(BadRequest, "recipients: two have the same key")
		}
		keys[r.KeyHash()] = true
		list = append(list, r)
	}
	return list, nil
}
