package api

import "time"

// OperatorKey is an operator: a public key with a name.
type OperatorKey struct {
	// Name for people, [a-z0-9][a-z0-9-]{0,62}.
	Name string `json:"name"`
	// Public is the key's DER SubjectPublicKeyInfo: Ed25519 or ECDSA P-256.
	Public []byte `json:"public"`
	// Fingerprint of the key; ignored in requests.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// OperatorSet is who may approve.
type OperatorSet struct {
	// Number of the set: 1 at init, one more for each govern ceremony.
	Number uint64 `json:"number"`
	// Digest of the set, 64 hexadecimal digits.
	Digest string `json:"digest"`
	// Approvals is how many must approve a ceremony.
	Approvals int           `json:"approvals"`
	Operators []OperatorKey `json:"operators"`
}

// GovernChain is how one operator set became another.
type GovernChain struct {
	Records []GovernRecord `json:"records"`
}

// GovernRecord is one change of the operator set, with its proof.
type GovernRecord struct {
	// Number of the set that it made.
	Number uint64 `json:"number"`
	// Open is the exact bytes that operators of the set before signed.
	Open []byte `json:"open"`
	// Approvals are their signatures.
	Approvals []Approval `json:"approvals"`
}

// ChainQuery asks for the records after a known set.
type ChainQuery struct {
	// After is the number of the set that the caller has pinned.
	After uint64 `query:"after"`
}

// GovernRequest opens a govern ceremony: a change of the operator set, of the
// approvals needed or of the policy.
type GovernRequest struct {
	// Number of the set that the change is meant for; another one in force is
	// a conflict.
	Number uint64 `json:"number"`
	// Add are operators to add.
	Add []OperatorKey `json:"add,omitempty"`
	// Remove are fingerprints of operators to remove.
	Remove []string `json:"remove,omitempty"`
	// Approvals is the new number; 0 keeps it.
	Approvals int `json:"approvals,omitempty"`
	// Policy from then on, whole; none keeps it.
	Policy *Policy `json:"policy,omitempty"`
	CeremonyTerms
}

// Client is a user or an auditor.
type Client struct {
	// Name for people, unique among clients.
	Name string `json:"name"`
	// Fingerprint of its key.
	Fingerprint string `json:"fingerprint"`
	// Role is "user" or "auditor".
	Role Who `json:"role"`
	// Prefixes of the key names that a user may use; "" is every key.
	Prefixes []string `json:"prefixes,omitempty"`
	// Verbs are what a user may do under its prefixes.
	Verbs []Verb `json:"verbs,omitempty"`
	// AddedAt is when it was added.
	AddedAt time.Time `json:"added_at"`
}

// Clients is the list of clients.
type Clients struct {
	Clients []Client `json:"clients"`
}

// ClientAddRequest adds a client.
type ClientAddRequest struct {
	// Name for people, [a-z0-9][a-z0-9-]{0,62}, unique among clients.
	Name string `json:"name"`
	// Public is the key's DER SubjectPublicKeyInfo.
	Public []byte `json:"public"`
	// Role is "user" or "auditor".
	Role Who `json:"role"`
	// Prefixes of the key names that a user may use; "" is every key.
	Prefixes []string `json:"prefixes,omitempty"`
	// Verbs are what a user may do under its prefixes.
	Verbs []Verb `json:"verbs,omitempty"`
}

// ClientRemoveRequest removes a client; its connections are cut.
type ClientRemoveRequest struct {
	// Client is a name or a fingerprint.
	Client string `json:"client"`
}
