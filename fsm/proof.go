package fsm

import (
	"bytes"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// DeviceProof records that a device combined a quorum's shares to the DKEK: a
// [ReportStatement], domain [DomainReport].
type DeviceProof struct {
	Signed Signed `cbor:"1,keyasint"`
}

// ReportStatement is a node's word for what its device found.
type ReportStatement struct {
	Cluster  dkek.ClusterID `cbor:"1,keyasint"`
	Ceremony CeremonyID     `cbor:"2,keyasint"`
	Sharing  dkek.Hash      `cbor:"3,keyasint"`
	Node     dkek.NodeID    `cbor:"4,keyasint"`
	// Quorum is the t holders whose shares were combined, ascending.
	Quorum       []dkek.NodeID `cbor:"5,keyasint"`
	KCV          dkek.KCV      `cbor:"6,keyasint"` // as the device gave it
	DeviceKind   string        `cbor:"7,keyasint"`
	DeviceSerial string        `cbor:"8,keyasint"`
	Scratch      bool          `cbor:"9,keyasint,omitempty"` // wiped afterwards
}

func (*DeviceProof) Kind() Kind { return KindDeviceProof }

func (b *DeviceProof) apply(t *txn) (Value, *Error) {
	var s ReportStatement
	if err := b.Signed.peek(&s); err != nil {
		return Value{}, err
	}
	c, err := t.liveCeremony(s.Ceremony)
	if err != nil {
		return Value{}, err
	}
	sharing, err := t.checkReport(b.Signed, &s, c)
	if err != nil {
		return Value{}, err
	}
	if reported(c.Reports, &s) {
		return Value{}, nil
	}
	if tooManyReports(c.Reports, s.Node) {
		return Value{}, refuse(TooMany, "node %v has made %d reports in this ceremony: more prove nothing", s.Node, MaxReports)
	}
	changed := *c
	changed.Reports = append(slices.Clone(c.Reports), b.Signed)
	t.put(&changed)
	if sharing.Status == SharingStaged && !reported(sharing.Reports, &s) && !tooManyReports(sharing.Reports, s.Node) {
		next := *sharing
		next.KCV = s.KCV
		next.Reports = append(slices.Clone(sharing.Reports), b.Signed)
		t.put(&next)
	}
	t.audit("device proof", c.ID.String(), s.DeviceKind+" "+s.DeviceSerial)
	return Value{}, nil
}

// reported tells whether the node has reported on this quorum before: what it says of
// its device may differ, what the report proves does not.
func reported(reports []Signed, s *ReportStatement) bool {
	return slices.ContainsFunc(reports, func(signed Signed) bool {
		var other ReportStatement
		return signed.peek(&other) == nil && other.Node == s.Node && slices.Equal(other.Quorum, s.Quorum)
	})
}

// tooManyReports bounds what one node can report, so that it takes no room from
// the others.
func tooManyReports(reports []Signed, id dkek.NodeID) bool {
	count := 0
	for _, signed := range reports {
		var s ReportStatement
		if signed.peek(&s) == nil && s.Node == id {
			count++
		}
	}
	return count >= MaxReports || len(reports) >= MaxProofs
}

func (t *txn) checkReport(signed Signed, s *ReportStatement, c *Ceremony) (*SharingRow, *Error) {
	if s.Cluster != t.cluster().ID {
		return nil, refuse(Conflict, "report of another cluster")
	}
	m, err := t.member(s.Node)
	if err != nil {
		return nil, err
	}
	if err := verify(m.Public, DomainReport, signed.Statement, signed.Signature); err != nil {
		return nil, err
	}
	if !slices.Contains(c.Recipients, s.Node) {
		return nil, refuse(NotAllowed, "node %v is no recipient of ceremony %v", s.Node, c.ID)
	}
	sharing, err := t.reportedOn(c)
	if err != nil {
		return nil, err
	}
	switch {
	case sharing.Status != SharingStaged && sharing.Status != SharingProven:
		return nil, refuse(WrongState, "sharing %d.%d is %s", sharing.Plan.Epoch, sharing.Plan.Attempt, sharing.Status)
	case s.Sharing != sharing.Hash:
		return nil, refuse(Conflict, "report about another sharing")
	case s.KCV == dkek.KCV{}, s.DeviceSerial == "":
		return nil, refuse(BadRequest, "report without a check value or a device")
	case sharing.KCV != dkek.KCV{} && s.KCV != sharing.KCV:
		return nil, refuse(Conflict, "check value %v of %s's device, and %v %s: a share, a dealing or a report is wrong", s.KCV, m.Name, sharing.KCV, t.knownBy(sharing))
	}
	for _, text := range []string{s.DeviceKind, s.DeviceSerial} {
		if err := checkText("device", text, MaxText); err != nil {
			return nil, err
		}
	}
	return sharing, checkQuorum(s.Quorum, &sharing.Plan)
}

// knownBy says whose word a sharing's check value is: at a create the first
// reporter's.
func (t *txn) knownBy(s *SharingRow) string {
	if s.Plan.KCV != (dkek.KCV{}) {
		return "is the sharing's"
	}
	for _, signed := range s.Reports {
		var r ReportStatement
		if signed.peek(&r) == nil {
			return "was reported first, by " + t.memberName(r.Node)
		}
	}
	return "is known"
}

// memberName is a member's name, or the ID of one that is none any more.
func (t *txn) memberName(id dkek.NodeID) string {
	if m, ok := t.Member(id); ok {
		return m.Name
	}
	return id.String()
}

// reportedOn is the sharing that a ceremony's reports are about.
func (t *txn) reportedOn(c *Ceremony) (*SharingRow, *Error) {
	if c.Kind == CeremonyCreate || c.Kind == CeremonyReshare {
		return t.sharingOf(c)
	}
	o, err := parseOpen(c.Open)
	if err != nil {
		return nil, err
	}
	if s, ok := t.Sharing(o.Source.Epoch, o.Source.Attempt); ok {
		return s, nil
	}
	return nil, refuse(WrongState, "a %s proves no device", c.Kind)
}

func checkQuorum(quorum []dkek.NodeID, plan *dkek.Plan) *Error {
	if len(quorum) != plan.Threshold {
		return refuse(BadRequest, "quorum of %d holders: want %d", len(quorum), plan.Threshold)
	}
	for i, id := range quorum {
		if plan.HolderIndex(id) < 0 || i > 0 && bytes.Compare(quorum[i-1][:], id[:]) >= 0 {
			return refuse(BadRequest, "quorum: want distinct holders, ascending")
		}
	}
	return nil
}

// Proves tells whether quorums that all gave the same check value prove a
// sharing: some t-1 holders are in n-t+1 of them that together hold everyone.
// Any t shares then give that value.
func Proves(plan *dkek.Plan, quorums [][]dkek.NodeID) bool {
	for _, quorum := range quorums {
		for leave := range quorum {
			core := slices.Delete(slices.Clone(quorum), leave, leave+1)
			if covers(plan, quorums, core) {
				return true
			}
		}
	}
	return false
}

func covers(plan *dkek.Plan, quorums [][]dkek.NodeID, core []dkek.NodeID) bool {
	seen := make(map[dkek.NodeID]bool, len(plan.Holders))
	for _, quorum := range quorums {
		rest := 0
		for _, id := range quorum {
			if !slices.Contains(core, id) {
				rest++
			}
		}
		if rest != 1 {
			continue
		}
		for _, id := range quorum {
			seen[id] = true
		}
	}
	for _, h := range plan.Holders {
		if !seen[h.Node] {
			return false
		}
	}
	return true
}

// VerifyReports tells a holder whether a sharing's signed reports prove it, by
// its own check of every signature: publics gives the keys of a node, of which one
// must have signed. Every holder must be among the reporters: what others say about
// the share of one that is silent may all be one member's word. It asks this before
// it erases an older share.
func VerifyReports(sharing *dkek.Sharing, kcv dkek.KCV, reports []Signed, publics func(dkek.NodeID) [][]byte) error {
	var quorums [][]dkek.NodeID
	by := make(map[dkek.NodeID]bool)
	hash := sharing.Hash()
	for _, signed := range reports {
		var s ReportStatement
		if err := signed.peek(&s); err != nil {
			return err
		}
		if !slices.ContainsFunc(publics(s.Node), func(public []byte) bool {
			return verify(public, DomainReport, signed.Statement, signed.Signature) == nil
		}) {
			return refuse(NotAllowed, "report by node %v: signature does not verify under a key of its own", s.Node)
		}
		if s.Cluster != sharing.Plan.Cluster || s.Sharing != hash || s.KCV != kcv {
			return refuse(Conflict, "report by node %v is about something else", s.Node)
		}
		if err := checkQuorum(s.Quorum, &sharing.Plan); err != nil {
			return err
		}
		quorums, by[s.Node] = append(quorums, s.Quorum), true
	}
	if !Proves(&sharing.Plan, quorums) {
		return refuse(WrongState, "the reports do not cover every holder")
	}
	for _, h := range sharing.Plan.Holders {
		if !by[h.Node] {
			return refuse(WrongState, "holder %v has not reported itself: run a drill at it", h.Node)
		}
	}
	return nil
}

// VerifyAcks tells a holder whether every holder of a sharing has signed that it has
// its share, under one of the keys that publics gives for it. Reports alone could all
// be one member's.
func VerifyAcks(sharing *dkek.Sharing, acks []Signed, publics func(dkek.NodeID) [][]byte) error {
	has := make(map[dkek.NodeID]bool)
	hash := sharing.Hash()
	for _, signed := range acks {
		var s AckStatement
		if err := signed.peek(&s); err != nil {
			return err
		}
		has[s.Holder] = has[s.Holder] || s.Cluster == sharing.Plan.Cluster && s.Sharing == hash &&
			slices.ContainsFunc(publics(s.Holder), func(public []byte) bool {
				return verify(public, DomainAck, signed.Statement, signed.Signature) == nil
			})
	}
	for _, h := range sharing.Plan.Holders {
		if !has[h.Node] {
			return refuse(WrongState, "holder %v has not acknowledged its share", h.Node)
		}
	}
	return nil
}

// proven tells whether a staged sharing's recorded reports prove it.
func (s *SharingRow) proven() bool {
	var quorums [][]dkek.NodeID
	for _, signed := range s.Reports {
		var r ReportStatement
		if signed.peek(&r) == nil {
			quorums = append(quorums, r.Quorum)
		}
	}
	return Proves(&s.Plan, quorums)
}

// reporters are the nodes whose devices reported in a ceremony.
func (c *Ceremony) reporters() map[dkek.NodeID]bool {
	nodes := make(map[dkek.NodeID]bool)
	for _, signed := range c.Reports {
		var r ReportStatement
		if signed.peek(&r) == nil {
			nodes[r.Node] = true
		}
	}
	return nodes
}
