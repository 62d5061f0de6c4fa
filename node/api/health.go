package api

// Health states.
const (
	StateOpen    = "open"    // works
	StateSealed  = "sealed"  // lacks its seal secret or PIN, or met a command that it does not know
	StateUnready = "unready" // not in a cluster yet, or without a DKEK
)

// Health is what a node says about itself to anybody. It holds nothing that
// helps an attacker.
type Health struct {
	// State is "open", "sealed" or "unready".
	State string `json:"state"`
	// Ready is true where the node can use keys.
	Ready bool `json:"ready"`
	// Quorum is true where the node hears from a majority of voters.
	Quorum bool `json:"quorum"`
	// Missing says what a sealed or unready node waits for.
	Missing string `json:"missing,omitempty"`
	// Version is the program's version.
	Version string `json:"version"`
}

// Identity is what the cluster knows about a caller.
type Identity struct {
	// Fingerprint of the caller's key; empty on the socket.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Role is "operator", "user", "auditor" or "socket".
	Role Who `json:"role"`
	// Name is what operators called it.
	Name string `json:"name,omitempty"`
	// Prefixes are the key name prefixes of a user.
	Prefixes []string `json:"prefixes,omitempty"`
	// Verbs are what a user may do under its prefixes.
	Verbs []Verb `json:"verbs,omitempty"`
}
