package api

import "time"

// Key is a key with its versions.
type Key struct {
	// Name, [a-z0-9][a-z0-9._/-]{0,127}.
	Name string `json:"name"`
	// Type, as "ecdsa-p256".
	Type string `json:"type"`
	// Usage is what the key may be used for.
	Usage []Verb `json:"usage"`
	// Labels for people and filters.
	Labels map[string]string `json:"labels,omitempty"`
	// Copies is how many devices must hold a version before it is acknowledged.
	Copies int `json:"copies"`
	// Clients are the only fingerprints that may use it; empty is all that
	// their role allows.
	Clients []string `json:"clients,omitempty"`
	// Legacy is set where weak types, SHA-1 or MD5 are permitted.
	Legacy bool `json:"legacy,omitempty"`
	// CreatedAt by the log's time.
	CreatedAt time.Time `json:"created_at"`
	// Newest is the number of the version used by default.
	Newest uint32 `json:"newest"`
	// Versions, oldest first.
	Versions []KeyVersion `json:"versions"`
}

// Version states, in the order in which a version goes through them.
const (
	VersionEnabled  = "enabled"
	VersionDisabled = "disabled"
	VersionPending  = "pending deletion"
	// VersionDestroying: the blob is gone, and devices have yet to confirm that
	// they do not hold the version.
	VersionDestroying = "destroying"
	// VersionDestroyed: the devices of all members have confirmed.
	VersionDestroyed = "destroyed"
	// VersionDestroyedExcept: all but those that an operator waived.
	VersionDestroyedExcept = "destroyed except"
)

// VersionStates are all states there are.
func VersionStates() []string {
	return []string{VersionEnabled, VersionDisabled, VersionPending, VersionDestroying, VersionDestroyed, VersionDestroyedExcept}
}

// KeyVersion is one version of a key.
type KeyVersion struct {
	// Number from 1.
	Number uint32 `json:"number"`
	// State is "enabled", "disabled", "pending deletion", "destroying" (the blob is
	// gone, devices have yet to confirm), "destroyed" (all have confirmed) or
	// "destroyed except" (all but those waived).
	State string `json:"state"`
	// Awaiting are the nodes whose devices have yet to confirm a destruction.
	Awaiting []string `json:"awaiting,omitempty"`
	// Except are the nodes whose confirmation an operator waived: the version may
	// live on in their devices.
	Except []string `json:"except,omitempty"`
	// Public is the DER SubjectPublicKeyInfo; empty for AES.
	Public []byte `json:"public,omitempty"`
	// CreatedAt by the log's time.
	CreatedAt time.Time `json:"created_at"`
	// DeleteAt is when a pending deletion falls due.
	DeleteAt *time.Time `json:"delete_at,omitempty"`
	// HeldBy are the names of the nodes whose devices hold it now.
	HeldBy []string `json:"held_by"`
	// KCV of the DKEK that wraps its blob.
	KCV string `json:"kcv"`
}

// Gone tells whether nothing brings the version back, whoever has confirmed.
func (v KeyVersion) Gone() bool {
	return v.State == VersionDestroying || v.State == VersionDestroyed || v.State == VersionDestroyedExcept
}

// Keys is a page of keys, by name.
type Keys struct {
	Keys []Key `json:"keys"`
	// Next is the After of the next page; empty at the end.
	Next string `json:"next,omitempty"`
}

// KeyListQuery asks for a page of keys.
type KeyListQuery struct {
	// Prefix of the names.
	Prefix string `query:"prefix"`
	// After is the last name of the page before.
	After string `query:"after"`
	// Limit is how many at most, up to 1000; 0 is 100.
	Limit int `query:"limit"`
	// Label filters: NAME or NAME=VALUE.
	Label string `query:"label"`
}

// KeyQuery names a key, or with NAME@2 a version of one.
type KeyQuery struct {
	// Key is NAME or NAME@VERSION.
	Key string `query:"key"`
}

// PublicKey is the public half of one version.
type PublicKey struct {
	// Key is the name.
	Key string `json:"key"`
	// Version is its number.
	Version uint32 `json:"version"`
	// Type of the key.
	Type string `json:"type"`
	// Public is the DER SubjectPublicKeyInfo.
	Public []byte `json:"public"`
}

// KeyCreateRequest makes a key.
type KeyCreateRequest struct {
	// Name, [a-z0-9][a-z0-9._/-]{0,127}; never used before.
	Name string `json:"name"`
	// Type, as "ecdsa-p256".
	Type string `json:"type"`
	// Usage restricts the key; empty is all that its type can do.
	Usage []Verb `json:"usage,omitempty"`
	// Labels for people and filters.
	Labels map[string]string `json:"labels,omitempty"`
	// Copies is how many devices must hold it first; 0 is the cluster's policy.
	Copies int `json:"copies,omitempty"`
	// Clients are the only fingerprints that may use it; empty is all that
	// their role allows.
	Clients []string `json:"clients,omitempty"`
	// Legacy permits weak types, SHA-1 and MD5.
	Legacy bool `json:"legacy,omitempty"`
}

// KeyRequest names a key for a change without further words.
type KeyRequest struct {
	// Key is NAME for all versions or NAME@VERSION for one.
	Key string `json:"key"`
}

// KeyDeleteRequest starts the wait before a deletion.
type KeyDeleteRequest struct {
	// Key is NAME for all versions or NAME@VERSION for one.
	Key string `json:"key"`
	// AfterSeconds is the wait; null is the cluster's policy, 7 days unless
	// said otherwise.
	AfterSeconds *int64 `json:"after_seconds,omitempty"`
}

// KeyLabelsRequest replaces a key's labels.
type KeyLabelsRequest struct {
	// Key is NAME.
	Key string `json:"key"`
	// Labels are all labels from now on.
	Labels map[string]string `json:"labels"`
}

// DestroyExceptRequest calls a version destroyed although some devices have
// not confirmed it.
type DestroyExceptRequest struct {
	// Key is NAME@VERSION.
	Key string `json:"key"`
	// Nodes that will not confirm: names, IDs or unique prefixes.
	Nodes []string `json:"nodes"`
}
