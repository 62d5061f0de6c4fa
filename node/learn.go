package node

import (
	"bytes"
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
	// hearsayTime is how long members are believed in that are not in the state.
	hearsayTime = time.Minute
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
// that it does know who is a member now. What a majority of those says is
// believed for hearsayTime, in which its own log can come as far; a single
// member that lies is not. If fewer are left, it must join again by token.
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
			if heard := n.askMembers(ctx); len(heard) > 0 {
				n.directory.heard.Store(&heard)
				n.run(func(ctx context.Context) { n.forgetHearsay(ctx, &heard) })
			}
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

// askMembers returns those that a majority of the other members names and that
// this node's state does not know.
func (n *Node) askMembers(ctx context.Context) []memberIdentity {
	view := n.view()
	asked, named := 0, map[memberIdentity]int{}
	for m := range view.Members() {
		if m.ID == n.id {
			continue
		}
		asked++
		var list memberList
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := n.call(call, m.ID, methodMembers, nothing{}, &list)
		cancel()
		if err != nil || len(list.Members) > fsm.MaxVoters+fsm.MaxNonvoters {
			continue
		}
		slices.SortFunc(list.Members, func(a, b memberIdentity) int { return bytes.Compare(a.Node[:], b.Node[:]) })
		for _, one := range slices.Compact(list.Members) {
			named[one]++
		}
	}
	var heard []memberIdentity
	for one, times := range named {
		if _, known := view.MemberByFingerprint(one.Fingerprint); !known && times > asked/2 {
			heard = append(heard, one)
		}
	}
	return heard
}

// forgetHearsay ends what was believed without being in the state, and the
// connections that stood on it.
func (n *Node) forgetHearsay(ctx context.Context, heard *[]memberIdentity) {
	if !sleep(ctx, hearsayTime) {
		return
	}
	n.directory.heard.CompareAndSwap(heard, nil)
	view := n.view()
	for _, one := range *heard {
		if _, ok := view.MemberByFingerprint(one.Fingerprint); !ok {
			n.server.Cut(transport.Fingerprint(one.Fingerprint))
		}
	}
}

// learnt is the member of this fingerprint or address among those that this node
// remembers, as long as its own state is behind, or has just heard of.
func (d *directory) learnt(is func(memberIdentity) bool) (memberIdentity, bool) {
	if heard := d.heard.Load(); heard != nil {
		if i := slices.IndexFunc(*heard, is); i >= 0 {
			return (*heard)[i], true
		}
	}
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
