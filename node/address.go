package node

import (
	"context"
	"errors"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// announceAddress tells the cluster where this node is now, if it was elsewhere
// before. A leader that dials the old address cannot be waited for: neither this
// node's state nor its Raft knows of anybody until it is dialled. So it goes by
// whom it remembers, and asks each of those to take its word.
func (n *Node) announceAddress(ctx context.Context) {
	remembered := n.directory.learned.Load()
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		m, ok := n.view().Member(n.id)
		switch {
		case ok && m.Addr == n.config.Advertise:
			return
		case ok || remembered.moved(n.id, n.config.Advertise):
			if err := n.moveTo(ctx, n.config.Advertise, remembered); err != nil && ctx.Err() == nil {
				n.logger.Warn("members: the new address is not announced yet", "address", n.config.Advertise, "reason", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// moved tells whether a member is remembered at another address.
func (l *memberList) moved(id dkek.NodeID, addr string) bool {
	if l != nil {
		for _, m := range l.Members {
			if m.Node == id {
				return m.Addr != addr
			}
		}
	}
	return false
}

// moveTo commits this node's new address: at the leader, or by way of whichever
// remembered member leads. It is the same request everywhere.
func (n *Node) moveTo(ctx context.Context, addr string, remembered *memberList) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	command := fsm.Command{Header: fsm.Header{Request: newRequest(), Actor: n.self()}, Body: &fsm.MemberAddress{Node: n.id, Addr: addr}}
	if _, ok := n.cluster.Load().log.Leader(); ok || remembered == nil {
		_, err := n.propose(ctx, command)
		return err
	}
	encoded, err := fsm.Encode(command)
	if err != nil {
		return doing(err, "propose")
	}
	errs := []error{ErrNoLeader}
	for _, m := range remembered.Members {
		if m.Node == n.id {
			continue
		}
		ask, stop := context.WithTimeout(ctx, 2*time.Second)
		applied, err := peerLog{n}.ProposeHere(ask, Peer{ID: m.Node.String(), Addr: m.Addr}, encoded)
		stop()
		if err == nil {
			_, err = n.resultOf(ctx, applied)
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
