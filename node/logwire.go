package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

// Timing is how patient a node's own Raft group is. Zero values are right for a
// LAN; all members should have the same.
type Timing struct {
	// Heartbeat is how long a follower waits for a leader before it asks for
	// votes. Shorter than a machine's worst pause, leadership wanders. Default
	// 500 ms: a dead leader costs about a second.
	Heartbeat time.Duration
	// SnapshotAfter is how many entries make a snapshot due. Default 8192.
	SnapshotAfter uint64
	// TrailingLogs is how many entries are kept behind a snapshot. Default, and
	// least, 10240.
	TrailingLogs uint64
}

// maxPool is how many idle Raft streams are kept to each peer.
const maxPool = 3

// openLog starts this node's own Raft group.
func (n *Node) openLog(ctx context.Context, m *membership) (*raftLog, error) {
	if err := finishLaying(n.logFolder()); err != nil {
		return nil, fmt.Errorf("node: open log: %w", err)
	}
	carrier := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.server.Raft(), MaxPool: maxPool, Timeout: 10 * time.Second, Logger: raftLogger(n.logger),
	})
	config := raftConfig{
		ID: n.id.String(), Cluster: m.id.String(), Dir: n.logFolder(), Machine: m.state, Peers: peerLog{n}, Logger: n.logger,
		Transport: carrier,
		Stamp:     func(command []byte, now time.Time) ([]byte, error) { return n.stamp(m, command) },
		Settled: func(last uint64) error {
			n.logBefore.Store(last)
			if err := n.checkTwice(ctx); err != nil {
				return err
			}
			return n.checkRollback(ctx, last)
		},
		Meet:      n.meet,
		PeerHas:   n.marks.note,
		Fatal:     n.stop,
		Heartbeat: n.config.Timing.Heartbeat, SnapshotAfter: n.config.Timing.SnapshotAfter, TrailingLogs: n.config.Timing.TrailingLogs,
	}
	if n.config.Memory != nil {
		config.Memory = &n.config.Memory.log
	}
	log, err := openRaft(config)
	if err != nil {
		return nil, errors.Join(err, carrier.Close())
	}
	return log, nil
}

// stamp is the leader's part in a command: its time, and a first look at
// whether the state will accept it. What it refuses never reaches the log.
func (n *Node) stamp(m *membership, command []byte) ([]byte, error) {
	stamped, err := fsm.Stamp(command, n.now())
	if err != nil {
		return nil, err
	}
	decoded, err := fsm.Decode(stamped)
	if err != nil {
		return nil, err
	}
	if err := fsm.Validate(m.state.State(), decoded); err != nil {
		return nil, err
	}
	return stamped, nil
}

// Methods of peer calls that carry the log.
const (
	methodPropose   = "log.propose"
	methodReadIndex = "log.read-index"
	methodApplied   = "log.applied"
)

type proposal struct {
	Command []byte `cbor:"1,keyasint"`
}

// proposed is what became of a proposal that was applied.
type proposed struct {
	Index    uint64     `cbor:"1,keyasint"`
	Err      *fsm.Error `cbor:"2,keyasint,omitempty"`
	Value    fsm.Value  `cbor:"3,keyasint"`
	Repeated bool       `cbor:"4,keyasint,omitempty"`
}

type logIndex struct {
	Index uint64 `cbor:"1,keyasint"`
}

type nothing struct{}

// peerLog asks other members' logs.
type peerLog struct{ node *Node }

// ProposeHere implements peerCalls.
func (p peerLog) ProposeHere(ctx context.Context, leader Peer, command []byte) (appliedCommand, error) {
	var answer proposed
	err := p.ask(ctx, leader, methodPropose, proposal{command}, &answer)
	var refused *fsm.Error
	if errors.As(err, &refused) {
		return appliedCommand{}, &RefusedError{Cause: refused}
	}
	if err != nil {
		return appliedCommand{}, err
	}
	return appliedCommand{Index: answer.Index, Result: fsm.Result{
		Index: answer.Index, Err: answer.Err, Value: answer.Value, Repeated: answer.Repeated,
	}}, nil
}

// ReadIndex implements peerCalls.
func (p peerLog) ReadIndex(ctx context.Context, leader Peer) (uint64, error) {
	var at logIndex
	err := p.ask(ctx, leader, methodReadIndex, nothing{}, &at)
	return at.Index, err
}

// AppliedIndex implements peerCalls.
func (p peerLog) AppliedIndex(ctx context.Context, peer Peer) (uint64, error) {
	var at logIndex
	err := p.ask(ctx, peer, methodApplied, nothing{}, &at)
	return at.Index, err
}

func (p peerLog) ask(ctx context.Context, to Peer, method string, request, answer any) error {
	fingerprint, ok := p.node.directory.MemberAt(to.Addr)
	if !ok {
		return fmt.Errorf("%w: no member has the address %s", ErrNotAppended, to.Addr)
	}
	err := p.node.callPeer(ctx, transport.Peer{Fingerprint: fingerprint, Addr: to.Addr}, method, request, answer)
	var wrong *transport.FingerprintError
	if errors.Is(err, transport.ErrNotMember) || errors.As(err, &wrong) {
		return fmt.Errorf("%w: %w", ErrNotAppended, err) // nothing was sent
	}
	return err
}

// handleLog answers the same questions.
func (n *Node) handleLog(log replicatedLog) {
	handle(n, methodPropose, func(ctx context.Context, from *fsm.Member, q proposal) (proposed, error) {
		// A member vouches for who asked it, never for what another member says.
		command, err := fsm.Decode(q.Command)
		if err != nil {
			return proposed{}, &fsm.Error{Code: fsm.BadRequest, Message: "the command cannot be read"}
		}
		if command.Actor.Node != from.ID {
			return proposed{}, &fsm.Error{Code: fsm.NotAllowed, Message: fmt.Sprintf("node %s proposes in the name of node %s", from.ID, command.Actor.Node)}
		}
		applied, err := log.ProposeHere(ctx, q.Command)
		if err != nil {
			return proposed{}, err
		}
		result, _ := applied.Result.(fsm.Result)
		return proposed{applied.Index, result.Err, result.Value, result.Repeated}, nil
	})
	handle(n, methodReadIndex, func(ctx context.Context, _ *fsm.Member, _ nothing) (logIndex, error) {
		index, err := log.ReadIndex(ctx)
		return logIndex{index}, err
	})
	handle(n, methodApplied, func(context.Context, *fsm.Member, nothing) (logIndex, error) {
		return logIndex{log.AppliedIndex()}, nil
	})
}
