package api

import "time"

// CeremonyTerms are what whoever opens a ceremony says about it.
type CeremonyTerms struct {
	// Reason for the record, up to 1024 bytes.
	Reason string `json:"reason,omitempty"`
	// ExpiresSeconds is how long it may take, 60 to 86400; 0 is 3600.
	ExpiresSeconds int64 `json:"expires_seconds,omitempty"`
}

// Ceremony states.
const (
	CeremonyOpen     = "open"     // waits for approvals
	CeremonyApproved = "approved" // shares may move
	CeremonyDone     = "done"     // ended well: success, or unproven (a drill may still prove it)
	CeremonyFailed   = "failed"   // ended otherwise: failed, denied, lost, expired, void
)

// Ceremony is a recorded, signed, approved act.
type Ceremony struct {
	// ID of the ceremony.
	ID string `json:"id"`
	// Kind is "create", "provision", "reshare", "govern" or "drill".
	Kind string `json:"kind"`
	// State is "open", "approved", "done" or "failed".
	State string `json:"state"`
	// Outcome says how it ended: "success", "unproven", "failed", "denied",
	// "lost", "expired", "void".
	Outcome string `json:"outcome,omitempty"`
	// Detail says more about the outcome.
	Detail string `json:"detail,omitempty"`
	// Reason that was given.
	Reason string `json:"reason,omitempty"`
	// OpenedBy is the node that opened it, by name.
	OpenedBy string `json:"opened_by"`
	// OpenedAt and ExpiresAt by the log's time.
	OpenedAt  time.Time `json:"opened_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Open is the exact bytes that operators sign. Read what you sign from
	// these, never from the fields around them.
	Open []byte `json:"open"`
	// Needed is how many approvals it takes; 0 for a successor reshare.
	Needed int `json:"needed"`
	// Approvals that it has.
	Approvals []Approval `json:"approvals"`
	// Progress of what runs now.
	Progress *Progress `json:"progress,omitempty"`
	// Successor is the ID of the reshare that followed a provision.
	Successor string `json:"successor,omitempty"`
	// Revision grows with every change; pass it to wait for the next.
	Revision uint64 `json:"revision"`
}

// Approval is an operator's signature.
type Approval struct {
	// Operator is the fingerprint of the operator's key.
	Operator string `json:"operator"`
	// Name of the operator.
	Name string `json:"name"`
	// Signature over the Open.
	Signature []byte `json:"signature"`
	// At by the log's time.
	At time.Time `json:"at"`
}

// Progress is how far the running step is.
type Progress struct {
	// Step in words: "gathering shares", "restoring keys".
	Step string `json:"step"`
	// Done of Total; Total is 0 where it is not known.
	Done  int `json:"done"`
	Total int `json:"total"`
}

// Ceremonies is a list of ceremonies, newest first, without Open bytes.
type Ceremonies struct {
	Ceremonies []Ceremony `json:"ceremonies"`
}

// CeremonyListQuery asks for ceremonies.
type CeremonyListQuery struct {
	// Open leaves out those that have ended.
	Open bool `query:"open"`
	// Limit is how many at most, up to 1000; 0 is 100.
	Limit int `query:"limit"`
}

// CeremonyQuery asks for one ceremony.
type CeremonyQuery struct {
	// ID is an ID or a unique prefix of one.
	ID string `query:"id"`
	// After waits until its revision is greater, or WaitSeconds have passed.
	After uint64 `query:"after"`
	// WaitSeconds is at most 30.
	WaitSeconds int `query:"wait"`
}

// CeremonySignRequest approves or denies a ceremony.
type CeremonySignRequest struct {
	// ID of the ceremony, in full.
	ID string `json:"id"`
	// Operator is the fingerprint of the signing key.
	Operator string `json:"operator"`
	// Signature over the exact Open bytes, in the domain of an approval or of
	// a denial.
	Signature []byte `json:"signature"`
}
