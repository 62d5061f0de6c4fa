package api

import "time"

// DKEK is the public state of the DKEK.
type DKEK struct {
	// State is "none", "dealing", "staged" or "proven".
	State string `json:"state"`
	// KCV is its key check value, 16 upper-case hexadecimal digits.
	KCV string `json:"kcv,omitempty"`
	// Origin is "dealt", "imported" or "single".
	Origin string `json:"origin,omitempty"`
	// Epoch of the newest proven sharing; 0 before there is one.
	Epoch uint64 `json:"epoch"`
	// Proven is true where enough quorums of the newest sharing gave the KCV.
	Proven bool `json:"proven"`
	// Unproven is the epoch of a staged sharing that no drill has proven yet.
	Unproven uint64 `json:"unproven,omitempty"`
	// Threshold is how many holders it takes.
	Threshold int `json:"threshold"`
	// Holders of the proven sharing.
	Holders []ShareHolder `json:"holders"`
	// ReshareDue says why a reshare is due; empty where none is.
	ReshareDue string `json:"reshare_due,omitempty"`
}

// ShareHolder is a holder as the answering node sees it.
type ShareHolder struct {
	// Node is the holder's ID.
	Node string `json:"node"`
	// Name of the node.
	Name string `json:"name"`
	// Reachable is what gossip says; a hint.
	Reachable bool `json:"reachable"`
	// Share is the health that the holder reported last.
	Share *ShareHealth `json:"share,omitempty"`
}

// ShareHealth is a holder's word about its share.
type ShareHealth struct {
	// Epoch of the share.
	Epoch uint64 `json:"epoch"`
	// OK is true where it was unsealed and matched its commitments.
	OK bool `json:"ok"`
	// Text says what is wrong; empty where nothing is.
	Text string `json:"text,omitempty"`
	// CheckedAt is when.
	CheckedAt time.Time `json:"checked_at"`
}

// CreateDKEKRequest opens a create ceremony over all members.
type CreateDKEKRequest struct {
	// Threshold is how many holders it takes; 0 is the majority.
	Threshold int `json:"threshold,omitempty"`
	CeremonyTerms
}

// ReshareRequest opens a reshare ceremony.
type ReshareRequest struct {
	// Holders are names, IDs or unique prefixes; empty is all members.
	Holders []string `json:"holders,omitempty"`
	// Threshold is how many holders it takes; 0 is the majority.
	Threshold int `json:"threshold,omitempty"`
	CeremonyTerms
}

// DrillRequest opens a drill: a scratch device is provisioned, the shares and a
// sample of the blobs proven, and the device wiped.
type DrillRequest struct {
	// Node whose scratch device is used: name, ID or unique prefix; empty is
	// the node that is asked.
	Node string `json:"node,omitempty"`
	// Sample is how many blobs are proven; 0 is 10.
	Sample int `json:"sample,omitempty"`
	CeremonyTerms
}
