package node

import (
	"context"
	"math"
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
// member that lies is not, unless there is no other. If fewer are left, it must
// join again by token.
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
			if heard := n.askMembers(ctx); len(heard.Members) > 0 {
				n.directory.heard.Store(&heard)
				n.run(func(ctx context.Context) {
					if sleep(ctx, hearsayTime) {
						n.directory.heard.CompareAndSwap(&heard, nil)
					}
				})
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
// this node's state does not know, as of the oldest answer: when the state has
// come as far, it knows better.
func (n *Node) askMembers(ctx context.Context) memberList {
	view := n.view()
	asked, named, oldest := 0, map[memberIdentity]int{}, uint64(math.MaxUint64)
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
		oldest = min(oldest, list.Index)
		once := map[memberIdentity]bool{} // however often it repeats itself
		for _, one := range list.Members {
			if !once[one] {
				once[one] = true
				named[one]++
			}
		}
	}
	heard := memberList{Index: oldest}
	for one, times := range named {
		if _, known := view.MemberByFingerprint(one.Fingerprint); !known && times > asked/2 {
			heard.Members = append(heard.Members, one)
		}
	}
	return heard
}

// learnt is the member of this fingerprint or address among those that this node
// remembers, as long as its own state is behind, or has just heard of.
func (d *directory) learnt(is func(memberIdentity) bool) (memberIdentity, bool) {
	for _, list := range []*memberList{d.heard.Load(), d.behind()} {
		if list == nil || d.node.view().Index() >= list.Index {
			continue
		}
		if i := slices.IndexFunc(list.Members, is); i >= 0 {
			return list.Members[i], true
		}
	}
	return memberIdentity{}, false
}

// behind is what this node has written down, as long as its state has not come as
// far as it had then; else nil.
func (d *directory) behind() *memberList {
	list := d.learned.Load()
	if list != nil && d.node.view().Index() >= list.Index {
		d.learned.CompareAndSwap(list, nil)
		return nil
	}
	return list
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
