package node

import "errors"

// What a caller of this package can act on, tested with errors.Is; the log's
// own are in log.go. What the replicated state refuses is a *fsm.Error, what a
// device refuses an *hsm.Error.
var (
	// ErrSealed: the node lacks its seal secret or PIN; it answers health and
	// status and nothing else.
	ErrSealed = errors.New("node: sealed")
	// ErrNoCluster: the node is in no cluster yet.
	ErrNoCluster = errors.New("node: in no cluster yet: init one, or join one by token")
	// ErrHasCluster: the node is in a cluster already.
	ErrHasCluster = errors.New("node: in a cluster already: a node joins another one only with an empty data folder")
	// ErrStale: no contact to a quorum for longer than the policy allows.
	ErrStale = errors.New("node: no contact to a quorum for longer than the policy allows")
	// ErrNoDKEK: the cluster has no proven DKEK yet.
	ErrNoDKEK = errors.New("node: the cluster has no DKEK yet: run dkek create")
	// ErrNotHere: the key cannot be used on this node and no other was reached.
	ErrNotHere = errors.New("node: no device that holds this key was reached")
	// ErrForbidden: the caller's role does not allow this.
	ErrForbidden = errors.New("node: not allowed")
)
