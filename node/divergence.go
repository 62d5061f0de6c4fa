package node

import (
	"context"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

const (
	methodDigest = "state.digest"
	// digestEvery is how often a node compares its state with the others'.
	digestEvery = 30 * time.Second
)

type digestAnswer struct {
	Known  bool      `cbor:"1,keyasint,omitempty"` // that index is remembered here
	Digest dkek.Hash `cbor:"2,keyasint"`
}

// compareStates compares the digest of this node's state with the other
// members', at the same log index. A node that differs from a majority of all
// members stops: what it would answer, or sign into a snapshot, is not what was
// agreed. The comparison is between nodes and not a command, so that a member
// that lies about its digest stops nobody.
func (n *Node) compareStates() {
	state := n.cluster.Load().state
	handle(n, methodDigest, func(_ context.Context, _ *fsm.Member, q logIndex) (digestAnswer, error) {
		digest, known := state.DigestAt(q.Index)
		return digestAnswer{known, digest}, nil
	})
	n.run(func(ctx context.Context) {
		for sleep(ctx, digestEvery) {
			n.compareOnce(ctx, state)
		}
	})
}

func (n *Node) compareOnce(ctx context.Context, state *state) {
	view := state.State()
	index := view.Index()
	own, known := state.DigestAt(index)
	if !known {
		return
	}
	members, differ := 0, 0
	for m := range view.Members() {
		members++
		if m.ID == n.id {
			continue
		}
		var answer digestAnswer
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := n.call(call, m.ID, methodDigest, logIndex{index}, &answer)
		cancel()
		if err == nil && answer.Known && answer.Digest != own {
			differ++
			n.logger.Error("state differs between nodes", "index", index, "here", own.String(), "peer", m.Name, "there", answer.Digest.String())
		}
	}
	if differ > members/2 {
		n.stop(fmt.Errorf("node: the state at log index %d differs from that of %d of %d members: this node must not go on; remove it, keep its data folder for a report, and join again with an empty one", index, differ, members))
	}
}
