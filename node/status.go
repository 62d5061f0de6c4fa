package node

import (
	"context"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// status is what this node knows of the cluster and itself. It is put together
// from the local state and from what members answer within a moment: sealed and
// without a quorum too.
func (f *face) status(ctx context.Context) api.Status {
	n := f.node
	view := n.view()
	f.askMembers(ctx, view)
	health := n.health()
	s := api.Status{
		Cluster: f.cluster(view), Quorum: health.Quorum && f.canCommit(view), StateAgeSeconds: f.stateAge(false),
		Node:    api.NodeStatus{Name: n.config.Name, State: health.State, Missing: health.Missing, Version: health.Version, Time: n.now().UTC()},
		LogTime: logTime(view.Time()),
	}
	if n.Sealed() == nil {
		s.Node.ID, s.Node.Fingerprint = n.id.String(), n.Fingerprint().String()
	}
	if m := n.cluster.Load(); m != nil {
		s.Node.Applied, s.Node.Digest = view.Index(), view.Digest().String()
		if leader, ok := m.log.Leader(); ok {
			s.Leader = leader.ID
		}
	}
	at := newTimes(view)
	s.Members = f.members(view, at)
	s.DKEK = f.dkek(view, at)
	s.Devices = f.devices(view, at)
	s.Keys = f.counts.count(view)
	s.Ceremonies = openCeremonies(view)
	if cluster, ok := view.Cluster(); ok {
		s.CommandVersion = cluster.Version
		s.Operators, s.Approvals = len(cluster.Operators.Operators), cluster.Operators.Approvals
	}
	s.CanLose = f.canLose(view)
	s.Restore = f.restore(view)
	s.Warnings = f.warnings(view, s)
	return s
}

// byName are the members as people look for them: the state has them by ID.
func byName(view *fsm.View) []*fsm.Member {
	return slices.SortedFunc(view.Members(), func(x, y *fsm.Member) int { return strings.Compare(x.Name, y.Name) })
}

// cluster is what clients keep in their cluster file.
func (f *face) cluster(view *fsm.View) api.Cluster {
	c := api.Cluster{Members: []api.Endpoint{}}
	if row, ok := view.Cluster(); ok {
		c.ID, c.Name, c.Incarnation = row.ID.String(), row.Name, row.Incarnation
	} else if id := f.node.Cluster(); id != (dkek.ClusterID{}) {
		c.ID = id.String() // the state has yet to arrive
	} else if entering := f.node.belongs.Load(); entering != nil {
		c.ID = entering.String()
	}
	for _, m := range byName(view) {
		c.Members = append(c.Members, api.Endpoint{ID: m.ID.String(), Name: m.Name, Address: f.addressOf(m), Fingerprint: m.Fingerprint.String()})
	}
	return c
}

// addressOf is where a member's API answers, as far as it has said so; most
// have it on their one port.
func (f *face) addressOf(m *fsm.Member) string {
	if m.ID == f.node.id {
		return f.node.apiAddress()
	}
	if said := f.words.last(m.ID).word.API; said != "" {
		return said
	}
	return m.Addr
}

func (f *face) members(view *fsm.View, at *times) []api.Member {
	members := []api.Member{}
	leader := ""
	if joined := f.node.cluster.Load(); joined != nil {
		if peer, ok := joined.log.Leader(); ok {
			leader = peer.ID
		}
	}
	clocks := f.clocks(view)
	for _, m := range byName(view) {
		said := f.said(m.ID)
		wire := api.Member{
			ID: m.ID.String(), Name: m.Name, Address: m.Addr, APIAddress: f.addressOf(m), Fingerprint: m.Fingerprint.String(),
			Suffrage: "nonvoter", Leader: m.ID.String() == leader, Reachable: f.reachable(m.ID), State: said.State, Version: said.Version,
			ReadsTo: m.ReadsTo, ClockAheadSeconds: clocks.offSeconds(m.Name),
			Share: shareToWire(m.Share, at), JoinedAt: at.of(m.Added),
		}
		if m.Voter {
			wire.Suffrage = "voter"
		}
		members = append(members, wire)
	}
	return members
}

func shareToWire(share *fsm.ShareHealth, at *times) *api.ShareHealth {
	if share == nil {
		return nil
	}
	return &api.ShareHealth{Epoch: share.Epoch, OK: share.OK, Text: share.Text, CheckedAt: at.of(share.Index)}
}

func (f *face) devices(view *fsm.View, at *times) []api.Device {
	devices := []api.Device{}
	covered := view.Covered()
	for _, m := range byName(view) {
		if m.Device != nil {
			wire := deviceToWire(m, covered[m.ID])
			wire.Restored = (*api.Restored)(f.said(m.ID).Restored)
			devices = append(devices, wire)
		}
	}
	return devices
}

func deviceToWire(m *fsm.Member, keys int) api.Device {
	d := m.Device
	wire := api.Device{
		Node: m.ID.String(), Name: m.Name, Kind: d.Kind, Serial: d.Serial, State: d.State,
		Slots: int(d.Slots), Keys: keys, Weakness: d.Weakness, Combines: d.Combines,
	}
	if d.KCV != (dkek.KCV{}) {
		wire.KCV = d.KCV.String()
	}
	for _, keyType := range d.Types {
		wire.Types = append(wire.Types, string(keyType))
	}
	return wire
}

// times finds when a log index was, by the audit records, which carry both.
type times struct {
	view    *fsm.View
	records []instant // ascending
}

type instant struct {
	index uint64
	at    int64
}

func newTimes(view *fsm.View) *times { return &times{view: view} }

// of is the log's time at an index; zero where that is forgotten.
func (t *times) of(index uint64) time.Time {
	if t.records == nil {
		for r := range t.view.Audit(0) {
			t.records = append(t.records, instant{r.Index, r.Time})
		}
	}
	after := sort.Search(len(t.records), func(i int) bool { return t.records[i].index > index })
	if after == 0 {
		return time.Time{}
	}
	return logTime(t.records[after-1].at)
}

// logTime is a time of the log on the wire.
func logTime(milliseconds int64) time.Time {
	if milliseconds == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds).UTC()
}

func memberName(view *fsm.View, id dkek.NodeID) string {
	if m, ok := view.Member(id); ok {
		return m.Name
	}
	if gone, ok := view.Removed(id); ok {
		return gone.Name + " (removed)"
	}
	return id.String()
}
