package node

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keycustodian/keycustodian/node/api"
)

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

// errNothingYet: a member that has just started reads its log only once a leader
// has told it how much of it is committed. Until then its state is empty.
var errNothingYet = fmt.Errorf("node: nothing of the cluster is known here since the start: %w", ErrNoLeader)

// errCatchingUp: a leader is heard from, and what it sends has yet to come.
var errCatchingUp = errors.New("node: the cluster's state has yet to arrive here since the start: it comes by itself")

// errStarting: the node has not yet read what it is.
var errStarting = fmt.Errorf("%w: it is starting", ErrSealed)

// doing wraps err by what was being done, under one package name, whatever it
// went through on its way.
func doing(err error, what string, args ...any) error {
	return &failedOperation{fmt.Sprintf(what, args...), err}
}

type failedOperation struct {
	what string
	err  error
}

func (e *failedOperation) Error() string {
	// A device, or a step, may have named the operation already.
	return "node: " + e.what + ": " + strings.TrimPrefix(api.Plain(e.err.Error()), e.what+": ")
}

func (e *failedOperation) Unwrap() error { return e.err }
