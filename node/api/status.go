package api

import "time"

// Status is what one node knows about the cluster and itself. It is answered
// without a quorum too.
type Status struct {
	Cluster Cluster `json:"cluster"`
	// Node is the node that answers.
	Node NodeStatus `json:"node"`
	// Leader is the leader's node ID; empty where none is known.
	Leader string `json:"leader,omitempty"`
	// Quorum is true where the node hears from a majority of voters, and no
	// majority has said that it cannot write.
	Quorum bool `json:"quorum"`
	// StateAgeSeconds is how long ago that was last so; -1 if never.
	StateAgeSeconds float64 `json:"state_age_seconds"`
	// LogTime is the newest command's time, by the clock of the leader of then: it
	// never goes back, and what expires does so by it.
	LogTime time.Time `json:"log_time"`
	// CommandVersion is the newest version of commands that may be written. It is
	// raised when every member reads the next one.
	CommandVersion uint64   `json:"command_version"`
	Members        []Member `json:"members"`
	DKEK           DKEK     `json:"dkek"`
	Devices        []Device `json:"devices"`
	// Operators is how many operators there are.
	Operators int `json:"operators"`
	// Approvals is how many of them must approve a ceremony.
	Approvals int `json:"approvals"`
	// Keys counts keys and their state.
	Keys KeyCounts `json:"keys"`
	// Ceremonies are the open ones.
	Ceremonies []Ceremony `json:"ceremonies,omitempty"`
	// CanLose says how much more can be lost before a key may not come back.
	CanLose CanLose `json:"can_lose"`
	// Restore says whether a blank device could be filled now.
	Restore Restore `json:"restore"`
	// Warnings are things that an operator should know, most urgent first:
	// "one disk is the DKEK", "unproven: run a drill".
	Warnings []string `json:"warnings,omitempty"`
}

// NodeStatus is a node's word about itself.
type NodeStatus struct {
	// ID of the node; empty before it is in a cluster.
	ID string `json:"id,omitempty"`
	// Name of the node.
	Name string `json:"name"`
	// State is "open", "sealed" or "unready".
	State string `json:"state"`
	// Missing says what a sealed or unready node waits for.
	Missing string `json:"missing,omitempty"`
	// Version is the program's version.
	Version string `json:"version"`
	// Time is the node's clock.
	Time time.Time `json:"time"`
	// Applied is the last log index applied.
	Applied uint64 `json:"applied"`
	// Digest of the state after that, 64 hexadecimal digits: nodes that have
	// applied the same have the same. Empty without a cluster.
	Digest string `json:"digest,omitempty"`
	// Fingerprint of the node's key; empty while sealed.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// KeyCounts counts keys.
type KeyCounts struct {
	// Keys is how many names there are.
	Keys int `json:"keys"`
	// Versions is how many versions are not destroyed.
	Versions int `json:"versions"`
	// Pending is how many versions wait for their deletion.
	Pending int `json:"pending"`
	// Short is how many versions are on fewer devices than their policy wants.
	Short int `json:"short"`
}

// CanLose counts what can still be lost, each by itself, with every key coming
// back.
type CanLose struct {
	// Voters until there is no majority.
	Voters int `json:"voters"`
	// Shares of the proven epoch until fewer than its threshold are left.
	Shares int `json:"shares"`
	// Operators' keys until no ceremony can be approved.
	Operators int `json:"operators"`
	// Nodes is the least of voters and shares.
	Nodes int `json:"nodes"`
}

// Restore says whether a blank device could be filled now.
type Restore struct {
	// Possible is true where enough holders answer with readable shares.
	Possible bool `json:"possible"`
	// Holders that could release now, by node name.
	Holders []string `json:"holders"`
	// Needed is how many of them it takes.
	Needed int `json:"needed"`
	// Approvals is how many operators must approve.
	Approvals int `json:"approvals"`
	// Why says what stands in the way; empty where it is possible.
	Why string `json:"why,omitempty"`
}
