package node

import (
	"context"
	"slices"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

const (
	methodMembers = "member.list"
	// learnEvery bounds how often strangers make this node ask who they are.
	learnEvery = 2 * time.Second
)

// memberList is who is a member as of a log index.
type memberList struct {
	Index   uint64           `cbor:"1,keyasint"`
	Members []memberIdentity `cbor:"2,keyasint"`
}

type memberIdentity struct {
	Node        dkek.NodeID      `cbor:"1,keyasint"`
	Fingerprint dkek.Fingerprint `cbor:"2,keyasint"`
	Addr        string           `cbor:"3,keyasint"`
}

// learnMembers keeps a node that was away long from being left alone: when a
// fingerprint that it does not know wants to speak to it, it asks the members
// that it does know who is a member now, and believes them until its own state
// has come as far. If none of them is left, it must join again by token.
func (n *Node) learnMembers() {
	handle(n, methodMembers, func(context.Context, *fsm.Member, nothing) (memberList, error) {
		return memberListOf(n.view()), nil
	})
	n.run(func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-n.directory.stranger:
			}
			n.askMembers(ctx)
			if !sleep(ctx, learnEvery) {
				return
			}
		}
	})
}

func memberListOf(view *fsm.View) memberList {
	list := memberList{Index: view.Index()}
	for m := range view.Members() {
		list.Members = append(list.Members, memberIdentity{m.ID, m.Fingerprint, m.Addr})
	}
	return list
}

func (n *Node) askMembers(ctx context.Context) {
	view := n.view()
	for m := range view.Members() {
		if m.ID == n.id {
			continue
		}
		var list memberList
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := n.call(call, m.ID, methodMembers, nothing{}, &list)
		cancel()
		if err == nil && list.Index > view.Index() && len(list.Members) <= fsm.MaxVoters+fsm.MaxNonvoters {
			n.logger.Info("learned who is a member now", "from", m.Name, "index", list.Index, "members", len(list.Members))
			n.directory.learned.Store(&list)
			return
		}
	}
}

// learnt is the member of this fingerprint or address among those that others
// told this node about, as long as its own state is behind.
func (d *directory) learnt(is func(memberIdentity) bool) (memberIdentity, bool) {
	list := d.learned.Load()
	if list == nil {
		return memberIdentity{}, false
	}
	if d.node.view().Index() >= list.Index {
		d.learned.Store(nil)
		return memberIdentity{}, false
	}
	i := slices.IndexFunc(list.Members, is)
	if i < 0 {
		return memberIdentity{}, false
	}
	return list.Members[i], true
}

// meet notes that somebody unknown was here.
func (d *directory) meet() {
	select {
	case d.stranger <- struct{}{}:
	default:
	}
}

func (d *directory) knows(f transport.Fingerprint) bool {
	_, ok := d.learnt(func(m memberIdentity) bool { return m.Fingerprint == dkek.Fingerprint(f) })
	return ok
}
