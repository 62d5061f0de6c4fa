package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// Leave takes this node out of its cluster, for good. It stops soon after, see
// [Node.Done]. Refused where those that answer would be too few without it.
func (n *Node) Leave(ctx context.Context, reason string) error {
	if n.cluster.Load() == nil {
		return ErrNoCluster
	}
	view, err := n.consistent(ctx)
	if err != nil {
		return err
	}
	if err := n.face.canSpare(ctx, view, n.id); err != nil {
		return err
	}
	_, err = n.do(ctx, &fsm.MemberRemove{Node: n.id, Reason: reason})
	return err
}

// canSpare refuses the removal of a member that is needed by those that answer
// now: for a majority, or to put the DKEK together. The state counts rows and not
// who is there, so that the node that is asked looks, before it proposes. A
// member that does not answer is not missed.
func (f *face) canSpare(ctx context.Context, view *fsm.View, id dkek.NodeID) error {
	f.askMembers(ctx, view)
	if gone, ok := view.Member(id); ok && gone.Voter {
		if err := f.canSpareVoter(view, gone); err != nil {
			return err
		}
	}
	return f.canSpareShare(view, id)
}

func (f *face) canSpareVoter(view *fsm.View, gone *fsm.Member) error {
	voters, able := 0, 0
	var silent []string
	for _, m := range byName(view) {
		switch {
		case !m.Voter || m.ID == gone.ID:
		case f.takesPart(m.ID):
			able++
			voters++
		default:
			silent = append(silent, m.Name)
			voters++
		}
	}
	if voters == 0 || able > voters/2 || !f.takesPart(gone.ID) {
		return nil
	}
	return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("without %s there is no quorum: of %d voters only %d take part (not %.80s); bring those back, or remove them first: nodectl cluster remove",
		gone.Name, voters, able, strings.Join(silent, ", "))}
}

func (f *face) canSpareShare(view *fsm.View, id dkek.NodeID) error {
	proven, ok := view.Proven()
	if !ok {
		return nil
	}
	left, gives := 0, false
	var names []string
	for _, m := range f.releasing(view, proven) {
		if m.ID == id {
			gives = true
			continue
		}
		left++
		names = append(names, m.Name)
	}
	if !gives || left >= proven.Plan.Threshold {
		return nil
	}
	return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("without %s no device could be filled: %d holders answer with a readable share and %d are needed (not %.100s); bring those back, or nodectl dkek reshare among others first",
		memberName(view, id), left, proven.Plan.Threshold, strings.Join(f.notReleasing(view, proven, names), ", "))}
}
