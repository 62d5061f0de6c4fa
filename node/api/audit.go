package api

import "time"

// AuditRecord is one accepted change. Signatures and decryptions are in each
// node's own log instead.
type AuditRecord struct {
	// Seq counts records from 1.
	Seq uint64 `json:"seq"`
	// Index in the log.
	Index uint64 `json:"index"`
	// At by the log's time.
	At time.Time `json:"at"`
	// Actor is the fingerprint of who asked; empty for a node's own act.
	Actor string `json:"actor,omitempty"`
	// Node that proposed it, by ID.
	Node string `json:"node"`
	// Action, as "key.create".
	Action string `json:"action"`
	// Target of the action: a key's name, a node's ID.
	Target string `json:"target,omitempty"`
	// Detail for people.
	Detail string `json:"detail,omitempty"`
	// Hash of the chain up to here, 64 hexadecimal digits.
	Hash string `json:"hash"`
}

// Audit is a page of audit records, oldest first.
type Audit struct {
	Records []AuditRecord `json:"records"`
	// Next is the After of the next page; 0 at the end.
	Next uint64 `json:"next,omitempty"`
	// Head is the hash of the newest record.
	Head string `json:"head"`
}

// AuditQuery asks for a page of audit records.
type AuditQuery struct {
	// After is the Seq of the last record of the page before.
	After uint64 `query:"after"`
	// Limit is how many at most, up to 1000; 0 is 100.
	Limit int `query:"limit"`
}
