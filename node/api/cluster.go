package api

import "time"

// Cluster is what a client keeps about a cluster in its cluster file.
type Cluster struct {
	// ID of the cluster.
	ID string `json:"id"`
	// Name that was given at init.
	Name string `json:"name"`
	// Incarnation is 1 at first, and goes up with each recovery and restore.
	Incarnation uint64 `json:"incarnation"`
	// Members and where their API answers.
	Members []Endpoint `json:"members"`
}

// Endpoint is a member as a client reaches it.
type Endpoint struct {
	// ID of the node.
	ID string `json:"id"`
	// Name of the node.
	Name string `json:"name"`
	// Address of its API, host:port.
	Address string `json:"address"`
	// Fingerprint of its key.
	Fingerprint string `json:"fingerprint"`
}

// InitRequest makes a cluster of the one node that is asked.
type InitRequest struct {
	// Name of the cluster, [a-z0-9][a-z0-9-]{0,62}.
	Name string `json:"name"`
	// Operators are the first operator set.
	Operators []OperatorKey `json:"operators"`
	// Approvals is how many operators must approve a ceremony, 1 to the
	// number of operators; 0 is 1.
	Approvals int `json:"approvals,omitempty"`
}

// InitResponse is a new cluster.
type InitResponse struct {
	Cluster Cluster `json:"cluster"`
	// Operators is the set that was pinned.
	Operators OperatorSet `json:"operators"`
}

// JoinRequest makes the node that is asked join a cluster. The token's text
// holds its secret: this goes over the unix socket only.
type JoinRequest struct {
	// Token as cluster token printed it.
	Token string `json:"token"`
}

// JoinResponse is a cluster that was joined, as a non-voter at first.
type JoinResponse struct {
	Cluster Cluster `json:"cluster"`
	// Node is the ID of the node that joined.
	Node string `json:"node"`
	// Before: it was a member already, and the token was not used.
	Before bool `json:"before"`
}

// Member is a node of the cluster.
type Member struct {
	// ID of the node, for ever.
	ID string `json:"id"`
	// Name of the node, unique among members.
	Name string `json:"name"`
	// Address for other members, host:port.
	Address string `json:"address"`
	// APIAddress is where its API answers, host:port.
	APIAddress string `json:"api_address"`
	// Fingerprint of its key.
	Fingerprint string `json:"fingerprint"`
	// Suffrage is "voter" or "nonvoter".
	Suffrage string `json:"suffrage"`
	// Leader is set for the leader as the answering node knows it.
	Leader bool `json:"leader,omitempty"`
	// Reachable is what gossip says; a hint.
	Reachable bool `json:"reachable"`
	// State is "open", "sealed" or "unready", as last heard; empty if never.
	State string `json:"state,omitempty"`
	// Version of the program that it runs, as last reported.
	Version string `json:"version,omitempty"`
	// ReadsTo is the newest command version that it reads, as last reported.
	ReadsTo uint64 `json:"reads_to"`
	// ClockAheadSeconds is how far its clock was ahead of the median of the
	// members' clocks, negative behind; absent where it did not answer.
	ClockAheadSeconds *float64 `json:"clock_ahead_seconds,omitempty"`
	// Share is the health of the share that it holds.
	Share *ShareHealth `json:"share,omitempty"`
	// JoinedAt is when it joined.
	JoinedAt time.Time `json:"joined_at"`
}

// Members is the list of members.
type Members struct {
	Members []Member `json:"members"`
}

// MemberRemoveRequest removes a member.
type MemberRemoveRequest struct {
	// Node is a name, an ID, or a unique prefix of one: of an ID 4 characters
	// at least.
	Node string `json:"node"`
}

// RotateNodeKeyRequest gives the node that is asked a new key.
type RotateNodeKeyRequest struct {
	// Node, if set, is the ID or name that this node must have.
	Node string `json:"node,omitempty"`
}

// RotateNodeKeyResponse is the new key.
type RotateNodeKeyResponse struct {
	Fingerprint string `json:"fingerprint"`
}

// MemberLeaveRequest makes the node that is asked leave.
type MemberLeaveRequest struct {
	// Node is the ID of the node that is asked; another one refuses with
	// bad_request, so that a request gone astray does no harm.
	Node string `json:"node"`
}

// Token is a join token as the cluster knows it: never its secret.
type Token struct {
	// Fingerprint of the token's public key.
	Fingerprint string `json:"fingerprint"`
	// Name for people.
	Name string `json:"name,omitempty"`
	// ExpiresAt is when it stops working.
	ExpiresAt time.Time `json:"expires_at"`
	// Used is set once a node has joined with it.
	Used bool `json:"used,omitempty"`
}

// Tokens is the list of join tokens.
type Tokens struct {
	Tokens []Token `json:"tokens"`
}

// TokenCreateRequest registers a token that nodectl has drawn.
type TokenCreateRequest struct {
	// Fingerprint of the token's public key.
	Fingerprint string `json:"fingerprint"`
	// Name for people.
	Name string `json:"name,omitempty"`
	// ExpiresSeconds is how long it works, 60 to 2592000; 0 is 3600.
	ExpiresSeconds int64 `json:"expires_seconds,omitempty"`
}

// TokenRemoveRequest makes a token useless.
type TokenRemoveRequest struct {
	// Fingerprint of the token's public key, or a unique prefix of it.
	Fingerprint string `json:"fingerprint"`
}
