// Package dkek deals, checks, scales and combines the DKEK, the 32-byte key
// that wraps every backup, so that no host ever holds it whole.
//
// Every dealer calls [Deal] for an agreed [Plan], hands out the public
// [Dealing] and seals one sub-share to every holder ([SubShares.SealFor]). Each
// holder opens what it got ([OpenSubShare]), and when [NewSharing] has joined
// the dealings, its [NewBundle] is its share, kept in a file
// ([Bundle.SealAtRest]). To put the DKEK into a device, t holders release their
// bundles ([Bundle.SealRelease]) to one requester, which collects them in a
// [Gather] and imports one [Gather.Partial] at a time: their XOR is the DKEK.
// A reshare deals partials in place of fresh secrets. [Split] and [Reconstruct]
// are the plain way for people, on a type of its own.
//
// Guaranteed: what is not exactly what its dealer committed to is refused with a
// [*ShareError] that names its holder and says why; secrets lie in locked
// memory, cannot be printed or encoded, and are scaled in constant time. Not
// guaranteed: that a dealer dealt the right secret (a wrong one shows as a wrong
// [KCV]), nor who sent a [Sealed] (its sender signs it), nor that a release was
// approved (its caller checks). There is no I/O, clock, logger or context here.
//
//	dealt, err := dkek.Deal(plan, self, nil)
//	defer dealt.Wipe()
//	sealed, err := dealt.SealFor(holder, holdersKey, transcript)
package dkek

import (
	"encoding/hex"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// Secret is a wiped, locked secret that refuses to be printed or encoded.
type Secret = secret.Bytes

// Size is the length of a DKEK, of a partial and of a dealer's secret in bytes.
const Size = 32

// ClusterID names a cluster: 16 random bytes, shown as 32 hexadecimal digits.
type ClusterID [16]byte

// NodeID names a node for ever: 16 random bytes, shown as 32 hexadecimal digits.
type NodeID [16]byte

// Fingerprint is the SHA-256 of a public key's DER SubjectPublicKeyInfo, shown
// as 64 hexadecimal digits.
type Fingerprint [32]byte

// Hash is a SHA-256.
type Hash [32]byte

// KCV is the DKEK's key check value: the first 8 bytes of SHA-256(DKEK), shown
// as 16 hexadecimal digits in upper case, as sc-hsm-tool does.
type KCV [8]byte

func (id ClusterID) String() string  { return hex.EncodeToString(id[:]) }
func (id NodeID) String() string     { return hex.EncodeToString(id[:]) }
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }
func (h Hash) String() string        { return hex.EncodeToString(h[:]) }
func (k KCV) String() string         { return fmt.Sprintf("%X", k[:]) }

// Origin says how a sharing's DKEK came to be; every reshare inherits it.
type Origin string

const (
	Dealt    Origin = "dealt"    // by all holders, known to none
	Imported Origin = "imported" // from share files that somebody has typed in
	Single   Origin = "single"   // ever t = 1: one host has known the DKEK
)

// Holder is a node with the fingerprint of the key that it signs with.
type Holder struct {
	Node        NodeID      `cbor:"1,keyasint"`
	Fingerprint Fingerprint `cbor:"2,keyasint"`
}

// Plan is what is agreed before a DKEK is dealt.
type Plan struct {
	Cluster   ClusterID `cbor:"1,keyasint"`
	Epoch     uint64    `cbor:"2,keyasint"` // from 1; never used again
	Attempt   uint64    `cbor:"3,keyasint"` // from 1 within an epoch; never used again
	Threshold int       `cbor:"4,keyasint"` // t, 1 to len(Holders)
	Origin    Origin    `cbor:"5,keyasint"`
	Holders   []Holder  `cbor:"6,keyasint"` // ascending by node, 1 to MaxHolders
	// Dealers are all holders at create, and t holders of the previous sharing
	// at a reshare; ascending by node.
	Dealers []Holder `cbor:"7,keyasint"`
	// Previous is the hash of the sharing whose partials are dealt; zero at
	// create.
	Previous Hash `cbor:"8,keyasint"`
	// KCV is what the result must have; zero at create, where nobody knows it.
	KCV KCV `cbor:"9,keyasint"`
}

// Dealing is the public half of what one dealer dealt. X and Commitments have
// one entry for each of the plan's holders, in their order.
type Dealing struct {
	Dealer      NodeID `cbor:"1,keyasint"`
	X           []byte `cbor:"2,keyasint"`
	Commitments []Hash `cbor:"3,keyasint"`
}

// Sharing is the public half of a split of the DKEK: everything that a holder
// or a requester needs to check a share, and nothing that helps to guess one.
type Sharing struct {
	Plan     Plan      `cbor:"1,keyasint"`
	Dealings []Dealing `cbor:"2,keyasint"` // in the order of Plan.Dealers
}
