package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// dkek is the public state of the DKEK and of its shares.
func (f *face) dkek(view *fsm.View, at *times) api.DKEK {
	d := api.DKEK{State: "none", Holders: []api.ShareHolder{}}
	if cluster, ok := view.Cluster(); ok {
		d.ReshareDue = f.reshareDue(view, cluster)
	}
	proven, ok := view.Proven()
	if !ok {
		for s := range view.Sharings() {
			if s.Status == fsm.SharingDealing || s.Status == fsm.SharingStaged {
				d.State = string(s.Status)
			}
		}
		return d
	}
	d.State, d.Proven, d.Epoch, d.Threshold = "proven", true, proven.Plan.Epoch, proven.Plan.Threshold
	d.KCV, d.Origin = proven.KCV.String(), string(proven.Plan.Origin)
	if staged, ok := stagedAfter(view, proven); ok {
		d.Proven, d.Unproven = false, staged.Plan.Epoch
	}
	for _, h := range proven.Plan.Holders {
		holder := api.ShareHolder{Node: h.Node.String(), Name: memberName(view, h.Node)}
		if m, ok := view.Member(h.Node); ok {
			holder.Reachable, holder.Share = f.reachable(h.Node), shareToWire(m.Share, at)
		}
		d.Holders = append(d.Holders, holder)
	}
	slices.SortFunc(d.Holders, func(x, y api.ShareHolder) int { return strings.Compare(x.Name, y.Name) })
	return d
}

// stagedAfter is a sharing that all holders have and no device has proven yet,
// with no ceremony under way that may still do so.
func stagedAfter(view *fsm.View, proven *fsm.SharingRow) (*fsm.SharingRow, bool) {
	for s := range view.Sharings() {
		if s.Status != fsm.SharingStaged || s.Plan.Epoch <= proven.Plan.Epoch {
			continue
		}
		if c, ok := view.Ceremony(s.Ceremony); !ok || c.Outcome != fsm.OutcomeOpen {
			return s, true
		}
	}
	return nil, false
}

// reshareDue says why the shares should be dealt anew: what the state recorded,
// members without a share, holders that are gone, shares that cannot be read.
func (f *face) reshareDue(view *fsm.View, cluster *fsm.Cluster) string {
	proven, ok := view.Proven()
	if !ok {
		return ""
	}
	var why []string
	if cluster.ReshareDue != "" {
		why = append(why, cluster.ReshareDue)
	}
	var without, gone, broken []string
	for _, m := range byName(view) {
		if m.Voter && proven.Plan.HolderIndex(m.ID) < 0 {
			without = append(without, m.Name)
		}
	}
	for _, h := range proven.Plan.Holders {
		m, ok := view.Member(h.Node)
		switch {
		case !ok:
			gone = append(gone, memberName(view, h.Node))
		case m.Share != nil && ofSharing(m.Share, proven) && !m.Share.OK:
			broken = append(broken, m.Name)
		}
	}
	for _, part := range []struct {
		names []string
		text  string
	}{{without, "without a share: "}, {gone, "holders that are no members any more: "}, {broken, "shares that cannot be read: "}} {
		if len(part.names) > 0 {
			why = append(why, part.text+strings.Join(part.names, ", "))
		}
	}
	return strings.Join(why, "; ")
}

func ofSharing(share *fsm.ShareHealth, s *fsm.SharingRow) bool {
	return share.Epoch == s.Plan.Epoch && share.Attempt == s.Plan.Attempt
}

// healthyHolders are the holders whose last word about their share was good.
func healthyHolders(view *fsm.View, proven *fsm.SharingRow) []*fsm.Member {
	var healthy []*fsm.Member
	for _, h := range proven.Plan.Holders {
		m, ok := view.Member(h.Node)
		if ok && m.Share != nil && ofSharing(m.Share, proven) && m.Share.OK {
			healthy = append(healthy, m)
		}
	}
	return healthy
}

// releasing are the healthy holders that answer, are not sealed and can record a
// release.
func (f *face) releasing(view *fsm.View, proven *fsm.SharingRow) []*fsm.Member {
	var able []*fsm.Member
	for _, m := range healthyHolders(view, proven) {
		sealed := f.words.last(m.ID).word.State == api.StateSealed
		if m.ID == f.node.id {
			sealed = f.node.Sealed() != nil
		}
		if f.takesPart(m.ID) && !sealed {
			able = append(able, m)
		}
	}
	return able
}

// canLose counts what can still go, of what is there now: a member that does
// not answer, or cannot write, counts as gone already.
func (f *face) canLose(view *fsm.View) api.CanLose {
	var lose api.CanLose
	cluster, ok := view.Cluster()
	if !ok {
		return lose
	}
	voters, able := 0, 0
	for _, m := range byName(view) {
		if m.Voter {
			voters++
			if f.takesPart(m.ID) {
				able++
			}
		}
	}
	lose.Voters = max(0, able-(voters/2+1))
	lose.Operators = len(cluster.Operators.Operators) - cluster.Operators.Approvals
	if proven, ok := view.Proven(); ok {
		lose.Shares = max(0, len(f.releasing(view, proven))-proven.Plan.Threshold)
	}
	lose.Nodes = min(lose.Voters, lose.Shares)
	return lose
}

// restore says whether a blank device could be filled now, and by whom.
func (f *face) restore(view *fsm.View) api.Restore {
	r := api.Restore{Holders: []string{}}
	cluster, ok := view.Cluster()
	if !ok {
		r.Why = f.blind()
		return r
	}
	r.Approvals = cluster.Operators.Approvals
	proven, ok := view.Proven()
	if !ok {
		r.Why = "the cluster has no DKEK yet"
		return r
	}
	r.Needed = proven.Plan.Threshold
	for _, m := range f.releasing(view, proven) {
		r.Holders = append(r.Holders, m.Name)
	}
	slices.Sort(r.Holders)
	r.Possible = len(r.Holders) >= r.Needed
	switch {
	case !r.Possible:
		r.Why = fmt.Sprintf("%d holders answer with a readable share and %d are needed; missing: %s",
			len(r.Holders), r.Needed, strings.Join(f.notReleasing(view, proven, r.Holders), ", "))
	case !f.node.hasQuorum() || !f.canCommit(view):
		r.Possible = false
		r.Why = "there is no quorum to record a release"
	}
	return r
}

// blind says why this node can tell nothing about a cluster.
func (f *face) blind() string {
	switch {
	case f.node.Sealed() != nil:
		return "this node is sealed and cannot tell"
	case f.node.cluster.Load() != nil || f.node.belongs.Load() != nil:
		return "the cluster's state has yet to reach this node, which cannot tell"
	}
	return "this node is in no cluster"
}

// notReleasing names the other holders and why they do not count.
func (f *face) notReleasing(view *fsm.View, proven *fsm.SharingRow, able []string) []string {
	var missing []string
	for _, h := range proven.Plan.Holders {
		name, why := memberName(view, h.Node), f.whyNot(view, proven, h.Node)
		if why != "" {
			missing = append(missing, name+" ("+why+")")
		}
	}
	slices.Sort(missing)
	return missing
}

func (f *face) whyNot(view *fsm.View, proven *fsm.SharingRow, id dkek.NodeID) string {
	m, ok := view.Member(id)
	switch {
	case !ok:
		return "no member"
	case !f.reachable(id):
		return "does not answer"
	case !f.takesPart(id):
		return "cannot write on its disk"
	case m.Share == nil || !ofSharing(m.Share, proven):
		return "has not reported its share"
	case !m.Share.OK:
		return m.Share.Text
	case f.words.last(id).word.State == api.StateSealed:
		return "sealed"
	}
	return ""
}
