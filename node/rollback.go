package node

import (
	"context"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

const (
	methodMark = "member.mark"
	// markEvery is how often a node looks whether its mark is worth reporting.
	markEvery = 10 * time.Second
	// markStep is how many entries a mark advances before it is reported again:
	// a folder rolled back by less is not noticed by peers.
	markStep = 512
)

// RolledBackError says that this node's data folder is older than what the node
// once had: somebody restored a copy of it.
type RolledBackError struct {
	Last  uint64 // the newest log index in the folder
	Known uint64 // what this node told its peers that it had applied
	Peer  string // who remembers
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("node: data folder was rolled back: its log ends at index %d, and this node told %s that it had applied %d: a copy of a data folder must not be started; remove this node and join again with an empty one", e.Last, e.Peer, e.Known)
}

// guardRollback asks the peers what this node had, until a majority of them has
// answered, and stops the node where its folder has less. Meanwhile it reports
// its own mark.
func (n *Node) guardRollback(last uint64) {
	handle(n, methodMark, func(_ context.Context, from *fsm.Member, _ nothing) (logIndex, error) {
		return logIndex{from.Mark}, nil
	})
	n.run(func(ctx context.Context) {
		if last > 0 {
			n.askMarks(ctx, last)
		}
		n.reportMark(ctx)
	})
}

func (n *Node) askMarks(ctx context.Context, last uint64) {
	asked := make(map[[16]byte]bool)
	for ctx.Err() == nil {
		others := 0
		for m := range n.view().Members() {
			if m.ID == n.id {
				continue
			}
			others++
			if asked[m.ID] {
				continue
			}
			var answer logIndex
			call, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := n.call(call, m.ID, methodMark, nothing{}, &answer)
			cancel()
			if err != nil {
				continue
			}
			asked[m.ID] = true
			if answer.Index > last {
				n.stop(&RolledBackError{Last: last, Known: answer.Index, Peer: m.Name})
				return
			}
		}
		if len(asked) > others/2 || others == 0 {
			return
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

// reportMark tells the cluster from time to time how far this node has come.
func (n *Node) reportMark(ctx context.Context) {
	log := n.cluster.Load().log
	for sleep(ctx, markEvery) {
		row, ok := n.view().Member(n.id)
		applied := log.AppliedIndex()
		if !ok || applied < row.Mark+markStep {
			continue
		}
		if log.SyncMark(applied) != nil {
			continue // a mark that is not on disk is none
		}
		report := &fsm.MemberReport{Node: n.id, ReadsTo: fsm.CommandVersion, SealKept: row.SealKept, Mark: applied}
		if _, err := n.do(ctx, report); err != nil && ctx.Err() == nil {
			n.logger.Debug("mark not reported", "reason", err)
		}
	}
}
