package api

// Policy is what holds for all keys and sharings where they do not say
// themselves. It changes by a govern ceremony.
type Policy struct {
	// Copies is how many devices hold a key before it is acknowledged, at least 1.
	Copies int `json:"copies"`
	// StaleForSeconds is how long a node without quorum goes on using keys under
	// what it saw last; 0 is not at all.
	StaleForSeconds int64 `json:"stale_for_seconds"`
	// DeleteAfterSeconds is how long a deletion waits that does not say itself,
	// at least 1.
	DeleteAfterSeconds int64 `json:"delete_after_seconds"`
	// Threshold is the least t of later sharings; 0 is the majority.
	Threshold int `json:"threshold"`
	// Legacy are the legacy key types that may be made: rsa-1024, ecdsa-p192.
	Legacy []string `json:"legacy"`
}
