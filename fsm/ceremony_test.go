package fsm_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

func (l *lab) outcome(o *fsm.Open) fsm.Outcome {
	c, ok := l.machine.State().Ceremony(o.Ceremony)
	if !ok {
		l.t.Fatalf("no ceremony %v", o.Ceremony)
	}
	return c.Outcome
}

func (l *lab) drill() *fsm.Open {
	o := l.open(fsm.CeremonyDrill, l.nodes[0])
	l.addRecipients(o, l.nodes[1])
	return o
}

func TestOpenIsCheckedWhole(t *testing.T) {
	l := ready(t, 3)
	a, b := l.nodes[0], l.nodes[1]
	with := func(change func(*fsm.Open)) func() fsm.Body {
		return func() fsm.Body { o := l.drill(); change(o); return l.openCommand(o, a) }
	}
	resigned := func(change func(*fsm.RecipientStatement)) func() fsm.Body {
		return with(func(o *fsm.Open) {
			r := l.recipient(o, b)
			change(r)
			o.Recipients = []fsm.Signed{l.sign(b, fsm.DomainRecipient, r)}
		})
	}
	l.refusals([]refusal{
		{"garbage", fsm.BadRequest, a, a, func() fsm.Body { return &fsm.CeremonyOpen{Open: []byte{0xff}} }},
		{"another format", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Format = 2 })},
		{"another cluster", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Cluster[0]++ })},
		{"another incarnation", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Incarnation++; l.addRecipients(o, b) })},
		{"no ID", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Ceremony = fsm.CeremonyID{}; l.addRecipients(o, b) })},
		{"unknown kind", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Kind = 6 })},
		{"another opener", fsm.NotAllowed, a, a, with(func(o *fsm.Open) { o.Opener = b.holder() })},
		{"signed by another", fsm.NotAllowed, a, a, func() fsm.Body { return l.openCommand(l.drill(), b) }},
		{"another domain", fsm.NotAllowed, a, a, func() fsm.Body {
			o := l.drill()
			c := l.openCommand(o, a)
			c.Signature = l.approval(o, a, fsm.DomainApproval).Signature
			return c
		}},
		{"expired", fsm.Expired, a, a, with(func(o *fsm.Open) { o.Expires = start })},
		{"open too long", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Expires = l.now + 25*time.Hour.Milliseconds() })},
		{"another operator set", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Govern.Number++ })},
		{"another sharing", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Source.Hash[0]++ })},
		{"another check value", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Source.KCV[0]++ })},
		{"control characters", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Reason = "\x1b[2J" })},
		{"no recipient", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Recipients = nil })},
		{"two recipients", fsm.BadRequest, a, a, with(func(o *fsm.Open) { l.addRecipients(o, a, b) })},
		{"recipient who is no member", fsm.NotAllowed, a, a, with(func(o *fsm.Open) { l.addRecipients(o, newPerson("stranger")) })},
		{"recipient signed by another", fsm.NotAllowed, a, a, with(func(o *fsm.Open) { o.Recipients = []fsm.Signed{l.sign(a, fsm.DomainRecipient, l.recipient(o, b))} })},
		{"recipient with a stranger's key", fsm.NotAllowed, a, a, with(func(o *fsm.Open) {
			evil := newPerson("evil")
			evil.id = b.id
			l.addRecipients(o, evil)
		})},
		{"recipient of another ceremony", fsm.NotAllowed, a, a, resigned(func(r *fsm.RecipientStatement) { r.Ceremony[0]++ })},
		{"recipient of another attempt", fsm.NotAllowed, a, a, resigned(func(r *fsm.RecipientStatement) { r.Attempt++ })},
		{"recipient of another incarnation", fsm.NotAllowed, a, a, resigned(func(r *fsm.RecipientStatement) { r.Incarnation++ })},
		{"recipient with a short key", fsm.BadRequest, a, a, resigned(func(r *fsm.RecipientStatement) { r.Key.Bytes = r.Key.Bytes[1:] })},
		{"recipient with an unknown suite", fsm.BadRequest, a, a, resigned(func(r *fsm.RecipientStatement) { r.Key.Suite.KEM = 1 })},
		{"plan in a drill", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan = l.plan(nil, 2, l.nodes...); l.addRecipients(o, b) })},
		{"successor in a drill", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Successor = &fsm.Successor{} })},
		{"citation in a drill", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Cites = &fsm.Cite{} })},
		{"proposal in a drill", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Proposal = &fsm.Proposal{} })},
		{"large sample", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Sample = fsm.MaxSample + 1 })},
	})
	o := l.drill()
	l.self(a, l.openCommand(o, a))
	l.refused(fsm.Exists, a, a, l.openCommand(o, a))
	l.refused(fsm.WrongState, a, a, with(func(*fsm.Open) {})()) // one at a time for a node
}

func TestCreateIsCheckedWhole(t *testing.T) {
	l := newLab(t)
	l.init(fsm.Policy{})
	for _, name := range []string{"node-b", "node-c"} {
		l.join(name)
	}
	a := l.nodes[0]
	with := func(change func(*fsm.Open)) func() fsm.Body {
		return func() fsm.Body {
			o := l.open(fsm.CeremonyCreate, a)
			o.Plan = l.plan(nil, 2, l.nodes...)
			change(o)
			if o.Recipients == nil {
				l.addRecipients(o, l.nodes...)
			}
			return l.openCommand(o, a)
		}
	}
	l.refusals([]refusal{
		{"no plan", fsm.BadRequest, a, a, func() fsm.Body { return l.openCommand(l.open(fsm.CeremonyCreate, a), a) }},
		{"threshold under a majority", fsm.NotAllowed, a, a, with(func(o *fsm.Open) { o.Plan.Threshold, o.Plan.Origin = 1, dkek.Single })},
		{"threshold over the holders", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.Threshold = 4 })},
		{"another cluster", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Plan.Cluster[0]++ })},
		{"a dealer missing", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.Dealers = o.Plan.Dealers[1:] })},
		{"a holder who is no member", fsm.NotAllowed, a, a, with(func(o *fsm.Open) {
			holders := []person{a, l.nodes[1], newPerson("stranger")}
			*o.Plan = *l.plan(nil, 2, holders...)
			l.addRecipients(o, holders...)
		})},
		{"a recipient too many", fsm.BadRequest, a, a, with(func(o *fsm.Open) { l.addRecipients(o, append(l.nodes[:3:3], newPerson("stranger"))...) })},
		{"a recipient under another key", fsm.BadRequest, a, a, with(func(o *fsm.Open) {
			double := newPerson("double")
			double.id = l.nodes[2].id
			l.addRecipients(o, a, l.nodes[1], double)
		})},
		{"a recipient missing", fsm.BadRequest, a, a, with(func(o *fsm.Open) { l.addRecipients(o, l.nodes[:2]...) })},
		{"a source", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Source.Epoch = 1 })},
		{"provision of nothing", fsm.Conflict, a, a, func() fsm.Body {
			o := l.open(fsm.CeremonyProvision, a)
			l.addRecipients(o, a)
			return l.openCommand(o, a)
		}},
		{"reshare of nothing", fsm.WrongState, a, a, with(func(o *fsm.Open) { o.Kind = fsm.CeremonyReshare })},
	})
	// Opening takes no approval: one Open must not use up all numbers there are.
	l.refusals([]refusal{
		{"the last epoch", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Plan.Epoch = math.MaxUint64 })},
		{"the last attempt", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Plan.Attempt = math.MaxUint64 })},
		{"an epoch left out", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Plan.Epoch = 2 })},
		{"an attempt left out", fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Plan.Attempt = 2 })},
	})
	// An attempt that fails uses its numbers up.
	first := l.open(fsm.CeremonyCreate, a)
	first.Plan = l.plan(nil, 2, l.nodes...)
	l.addRecipients(first, l.nodes...)
	l.self(a, l.openCommand(first, a))
	l.refused(fsm.WrongState, a, a, with(func(*fsm.Open) {})()) // one at a time
	l.self(a, l.close(first, a, fsm.OutcomeFailed))
	l.refused(fsm.Conflict, a, a, with(func(o *fsm.Open) { o.Plan.Epoch = 1 })())
	l.self(a, with(func(o *fsm.Open) { o.Plan.Epoch, o.Plan.Attempt = 1, 2 })())
	if s, _ := l.machine.State().Sharing(1, 1); s.Status != fsm.SharingDropped {
		t.Errorf("the failed attempt is %s", s.Status)
	}
}

func TestCreateStepByStep(t *testing.T) {
	l := newLab(t)
	a := l.init(fsm.Policy{})
	b, c := l.join("node-b"), l.join("node-c")
	o := l.open(fsm.CeremonyCreate, a)
	o.Plan = l.plan(nil, 2, l.nodes...)
	l.addRecipients(o, l.nodes...)
	l.self(a, l.openCommand(o, a))
	key := l.recipient(o, b).KeyHash()
	deal := &fsm.Release{Ceremony: o.Ceremony, Holder: a.id, Recipient: b.id, Purpose: fsm.ReleaseDeal, Key: key}
	l.refused(fsm.WrongState, a, a, deal) // not approved
	l.refused(fsm.WrongState, a, a, l.dealingRecord(o, a))
	l.approve(o, l.bob)
	l.self(a, deal)
	gather := *deal
	gather.Purpose = fsm.ReleaseGather
	l.refused(fsm.WrongState, a, a, &gather) // nothing to gather yet
	l.self(a, l.dealingRecord(o, a))
	l.self(a, l.dealingRecord(o, a)) // once more is no change
	other := dealing(o.Plan, a.id)
	other.Commitments[0][0]++
	l.refused(fsm.Conflict, a, a, &fsm.DealingRecord{Signed: l.sign(a, fsm.DomainDealing, &fsm.DealingStatement{Cluster: cluster, Ceremony: o.Ceremony, Plan: o.Plan.Hash(), Dealing: other})})
	other = dealing(o.Plan, b.id)
	other.X[0] = 0
	l.refused(fsm.BadRequest, b, b, &fsm.DealingRecord{Signed: l.sign(b, fsm.DomainDealing, &fsm.DealingStatement{Cluster: cluster, Ceremony: o.Ceremony, Plan: o.Plan.Hash(), Dealing: other})})
	l.refused(fsm.NotAllowed, a, a, &fsm.DealingRecord{Signed: l.sign(a, fsm.DomainDealing, &fsm.DealingStatement{Cluster: cluster, Ceremony: o.Ceremony, Plan: o.Plan.Hash(), Dealing: dealing(o.Plan, b.id)})})
	l.self(c, l.dealingRecord(o, c))
	l.refused(fsm.Conflict, a, a, l.ack(o, a)) // not all have dealt
	l.self(b, l.dealingRecord(o, b))
	l.self(a, l.ack(o, a))
	l.self(b, l.ack(o, b))
	s, _ := l.machine.State().Sharing(1, 1)
	quorums := dkek.ProofQuorums(o.Plan)
	l.refused(fsm.WrongState, a, a, l.proof(o, s, a, quorums[0], labKCV)) // not all have acknowledged
	l.self(c, l.ack(o, c))
	l.self(a, &gather)
	l.refused(fsm.WrongState, a, a, l.close(o, a, fsm.OutcomeSuccess))
	l.self(a, l.proof(o, s, a, quorums[0], labKCV))
	l.refusals([]refusal{
		{"another check value", fsm.Conflict, b, b, func() fsm.Body { return l.proof(o, s, b, quorums[0], dkek.KCV{9}) }},
		{"no check value", fsm.BadRequest, b, b, func() fsm.Body { return l.proof(o, s, b, quorums[0], dkek.KCV{}) }},
		{"small quorum", fsm.BadRequest, b, b, func() fsm.Body { return l.proof(o, s, b, quorums[0][:1], labKCV) }},
		{"holder twice", fsm.BadRequest, b, b, func() fsm.Body { return l.proof(o, s, b, []dkek.NodeID{a.id, a.id}, labKCV) }},
		{"stranger in the quorum", fsm.BadRequest, b, b, func() fsm.Body { return l.proof(o, s, b, []dkek.NodeID{a.id, {0xff}}, labKCV) }},
	})
	l.self(b, l.proof(o, s, b, quorums[0], labKCV))
	l.self(c, l.proof(o, s, c, quorums[0], labKCV))
	l.refused(fsm.WrongState, a, a, l.close(o, a, fsm.OutcomeSuccess)) // one holder is in no quorum
	l.self(c, l.proof(o, s, c, quorums[1], labKCV))
	l.self(b, l.close(o, b, fsm.OutcomeSuccess)) // any member may say it
	row, _ := l.machine.State().Cluster()
	proven, ok := l.machine.State().Proven()
	if !ok || proven.KCV != labKCV || row.Proven != proven.Ref() || row.ReshareDue != "" {
		t.Errorf("proven %v %+v, cluster %+v", ok, proven, row)
	}
	whole := proven.Sharing()
	public := func(id dkek.NodeID) [][]byte { return [][]byte{l.person(id).public} }
	if err := fsm.VerifyReports(&whole, labKCV, proven.Reports, public); err != nil {
		t.Errorf("the reports as a holder checks them: %v", err)
	}
	if err := fsm.VerifyReports(&whole, labKCV, proven.Reports[:2], public); err == nil {
		t.Error("half of the reports are enough")
	}
	if err := fsm.VerifyReports(&whole, labKCV, proven.Reports, func(dkek.NodeID) [][]byte { return [][]byte{a.public} }); err == nil {
		t.Error("reports by another verify")
	}
	l.refused(fsm.WrongState, a, a, l.dealingRecord(o, a)) // it is closed
}

func TestReleaseIsLegalOnlyWhileApproved(t *testing.T) {
	l := ready(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	o := l.drill() // recipient b
	release := func(change func(*fsm.Release)) func() fsm.Body {
		return func() fsm.Body {
			r := &fsm.Release{Ceremony: o.Ceremony, Holder: c.id, Recipient: b.id, Purpose: fsm.ReleaseGather, Key: l.recipient(o, b).KeyHash()}
			change(r)
			return r
		}
	}
	good := release(func(*fsm.Release) {})
	l.refused(fsm.NotFound, c, c, good())
	l.self(a, l.openCommand(o, a))
	l.refused(fsm.WrongState, c, c, good())
	l.refused(fsm.NotAllowed, l.alice, a, &fsm.CeremonyApprove{Ceremony: o.Ceremony, Approval: l.approval(o, newPerson("mallory"), fsm.DomainApproval)})
	forged := l.approval(o, newPerson("mallory"), fsm.DomainApproval)
	forged.Operator = l.alice.fingerprint()
	l.refused(fsm.NotAllowed, l.alice, a, &fsm.CeremonyApprove{Ceremony: o.Ceremony, Approval: forged})
	l.refused(fsm.NotAllowed, l.alice, a, &fsm.CeremonyApprove{Ceremony: o.Ceremony, Approval: l.approval(o, l.alice, fsm.DomainDeny)})
	changed := *o
	changed.Reason = "another"
	l.refused(fsm.NotAllowed, l.alice, a, &fsm.CeremonyApprove{Ceremony: o.Ceremony, Approval: l.approval(&changed, l.alice, fsm.DomainApproval)})
	l.approve(o, l.alice)
	l.refusals([]refusal{
		{"for another holder", fsm.NotAllowed, a, a, good},
		{"by an operator", fsm.NotAllowed, l.alice, c, good},
		{"to another node", fsm.NotAllowed, c, c, release(func(r *fsm.Release) { r.Recipient = a.id })},
		{"to another key", fsm.NotAllowed, c, c, release(func(r *fsm.Release) { r.Key[0]++ })},
		{"to deal", fsm.NotAllowed, c, c, release(func(r *fsm.Release) { r.Purpose = fsm.ReleaseDeal })},
		{"for nothing", fsm.BadRequest, c, c, release(func(r *fsm.Release) { r.Purpose = "" })},
	})
	first := l.self(c, good())
	again := l.self(c, good())
	if first.Value.Number == 0 || again.Value != first.Value || len(again.Changes) != 0 {
		t.Errorf("first %+v, again %+v", first, again)
	}
	if row, _ := l.machine.State().Ceremony(o.Ceremony); len(row.Releases) != 1 || !row.Live(l.now) {
		t.Errorf("releases %+v", row.Releases)
	}
	l.now = o.Expires
	l.refused(fsm.Expired, a, a, release(func(r *fsm.Release) { r.Holder = a.id })())
	l.refused(fsm.Expired, b, b, l.close(o, b, fsm.OutcomeSuccess))
	l.self(c, l.close(o, c, fsm.OutcomeExpired))
	l.refused(fsm.WrongState, a, a, release(func(r *fsm.Release) { r.Holder = a.id })())
	if row, _ := l.machine.State().Cluster(); row.ReshareDue == "" {
		t.Error("a share was released, the ceremony failed, and no reshare is due")
	}
}

func TestWhoMayCloseAndHow(t *testing.T) {
	l := ready(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	o := l.drill()
	l.openApproved(o)
	l.refusals([]refusal{
		{"success without a proof", fsm.WrongState, b, b, func() fsm.Body { return l.close(o, b, fsm.OutcomeSuccess) }},
		{"expired too early", fsm.WrongState, a, a, func() fsm.Body { return l.close(o, a, fsm.OutcomeExpired) }},
		{"failed, by one who has no part", fsm.NotAllowed, c, c, func() fsm.Body { return l.close(o, c, fsm.OutcomeFailed) }},
		{"unproven drill", fsm.WrongState, a, a, func() fsm.Body { return l.close(o, a, fsm.OutcomeUnproven) }},
		{"denied by a node", fsm.BadRequest, a, a, func() fsm.Body { return l.close(o, a, fsm.OutcomeDenied) }},
		{"opened again", fsm.BadRequest, a, a, func() fsm.Body { return l.close(o, a, fsm.OutcomeOpen) }},
		{"signed by another", fsm.NotAllowed, a, a, func() fsm.Body {
			return &fsm.CeremonyClose{Signed: l.sign(c, fsm.DomainClose, &fsm.CloseStatement{Cluster: cluster, Ceremony: o.Ceremony, Node: a.id, Outcome: fsm.OutcomeFailed})}
		}},
	})
	source, _ := l.machine.State().Proven()
	l.refused(fsm.NotAllowed, c, c, l.proof(o, source, c, dkek.ProofQuorums(&source.Plan)[0], labKCV)) // no recipient
	l.self(b, l.proof(o, source, b, dkek.ProofQuorums(&source.Plan)[0], labKCV))
	l.self(b, l.close(o, b, fsm.OutcomeSuccess))
	lost := l.drill()
	l.openApproved(lost)
	l.self(b, l.close(lost, b, fsm.OutcomeLost))
	denied := l.drill()
	l.openApproved(denied)
	l.must(l.bob, a, &fsm.CeremonyDeny{Ceremony: denied.Ceremony, Denial: l.approval(denied, l.bob, fsm.DomainDeny), Reason: "not by me"})
	if l.outcome(o) != fsm.OutcomeSuccess || l.outcome(lost) != fsm.OutcomeLost || l.outcome(denied) != fsm.OutcomeDenied {
		t.Errorf("outcomes %s, %s, %s", l.outcome(o), l.outcome(lost), l.outcome(denied))
	}
	l.refused(fsm.WrongState, l.alice, a, &fsm.CeremonyApprove{Ceremony: denied.Ceremony, Approval: l.approval(denied, l.alice, fsm.DomainApproval)})
}

// reshareOpen is a reshare to the lab's nodes, without recipients.
func (l *lab) reshareOpen(t int) *fsm.Open {
	source, _ := l.machine.State().Proven()
	o := l.open(fsm.CeremonyReshare, l.nodes[0])
	o.Plan = l.plan(source, t, l.nodes...)
	return o
}

func TestReshareStaysStagedUntilADrillProvesIt(t *testing.T) {
	l := ready(t, 3)
	a, b := l.nodes[0], l.nodes[1]
	before, _ := l.machine.State().Proven()
	o := l.reshareOpen(2)
	l.addRecipients(o, l.nodes...)
	l.openApproved(o)
	l.refused(fsm.WrongState, a, a, l.close(o, a, fsm.OutcomeUnproven))
	l.deal(o)
	l.refused(fsm.WrongState, a, a, &fsm.OldShareErased{Node: a.id, Epoch: before.Plan.Epoch, Attempt: before.Plan.Attempt})
	l.self(a, l.close(o, a, fsm.OutcomeUnproven))
	if now, _ := l.machine.State().Proven(); now.Ref() != before.Ref() {
		t.Fatal("an unproven sharing is in force")
	}
	staged, _ := l.machine.State().Sharing(o.Plan.Epoch, 1)
	drill := l.open(fsm.CeremonyDrill, a)
	drill.Source = staged.Ref()
	l.addRecipients(drill, b)
	l.openApproved(drill)
	for _, quorum := range dkek.ProofQuorums(o.Plan) {
		l.self(b, l.proof(drill, staged, b, quorum, labKCV))
	}
	l.self(b, l.close(drill, b, fsm.OutcomeSuccess))
	now, _ := l.machine.State().Proven()
	if now.Plan.Epoch != o.Plan.Epoch {
		t.Fatalf("epoch %d is in force", now.Plan.Epoch)
	}
	l.self(a, &fsm.OldShareErased{Node: a.id, Epoch: before.Plan.Epoch, Attempt: before.Plan.Attempt})
	old, _ := l.machine.State().Sharing(before.Plan.Epoch, before.Plan.Attempt)
	if old.Status != fsm.SharingSuperseded || !slices.Equal(old.Erased, []dkek.NodeID{a.id}) {
		t.Errorf("old sharing: %s, erased by %v", old.Status, old.Erased)
	}
	l.refused(fsm.WrongState, a, a, &fsm.OldShareErased{Node: a.id, Epoch: now.Plan.Epoch, Attempt: 1})
}

// A holder whose key was rotated since deals under the key that it has now, and
// under no other.
func TestDealerWithARotatedKey(t *testing.T) {
	l := ready(t, 4)
	source, _ := l.machine.State().Proven()
	dealer := source.Plan.Holders[0].Node
	l.rotateKey(l.person(dealer), "rotated")
	stay := slices.DeleteFunc(slices.Clone(l.nodes), func(p person) bool { return p.id == dealer })
	opener := stay[0]
	o := l.open(fsm.CeremonyReshare, opener)
	o.Plan = l.plan(source, 2, stay...)
	l.addRecipients(o, stay...)
	l.refused(fsm.NotAllowed, opener, opener, l.openCommand(o, opener))
	o.Plan.Dealers = slices.Clone(o.Plan.Dealers)
	o.Plan.Dealers[0] = l.person(dealer).holder()
	l.self(opener, l.openCommand(o, opener))
}

func TestBadDealerLeavesTheOldEpoch(t *testing.T) {
	l := ready(t, 3)
	a := l.nodes[0]
	before, _ := l.machine.State().Proven()
	o := l.reshareOpen(2)
	l.addRecipients(o, l.nodes...)
	l.openApproved(o)
	dealer := l.person(o.Plan.Dealers[0].Node)
	l.self(dealer, &fsm.Release{Ceremony: o.Ceremony, Holder: dealer.id, Recipient: a.id, Purpose: fsm.ReleaseDeal, Key: l.recipient(o, a).KeyHash()})
	l.deal(o)
	s, _ := l.machine.State().Sharing(o.Plan.Epoch, 1)
	l.refused(fsm.Conflict, a, a, l.proof(o, s, a, dkek.ProofQuorums(o.Plan)[0], dkek.KCV{0xbd}))
	l.refused(fsm.WrongState, a, a, l.close(o, a, fsm.OutcomeSuccess))
	l.self(a, l.close(o, a, fsm.OutcomeFailed))
	if now, _ := l.machine.State().Proven(); now.Ref() != before.Ref() {
		t.Error("a failed reshare changed the sharing in force")
	}
	if s, _ = l.machine.State().Sharing(o.Plan.Epoch, 1); s.Status != fsm.SharingDropped {
		t.Errorf("failed reshare is %s", s.Status)
	}
}

func TestReshareIsCheckedWhole(t *testing.T) {
	l := ready(t, 3)
	a := l.nodes[0]
	with := func(change func(*fsm.Open)) func() fsm.Body {
		return func() fsm.Body {
			o := l.reshareOpen(2)
			change(o)
			l.addRecipients(o, l.nodes...)
			return l.openCommand(o, a)
		}
	}
	l.refusals([]refusal{
		{"another check value", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.KCV[0]++ })},
		{"another sharing before", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.Previous[0]++ })},
		{"too few dealers", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.Dealers = o.Plan.Dealers[:1] })},
		{"claims more than was", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.Origin = dkek.Imported })},
		{"the same epoch", fsm.BadRequest, a, a, with(func(o *fsm.Open) { o.Plan.Epoch = 1 })},
		{"a create", fsm.WrongState, a, a, func() fsm.Body {
			o := l.open(fsm.CeremonyCreate, a)
			o.Plan = l.plan(nil, 2, l.nodes...)
			l.addRecipients(o, l.nodes...)
			return l.openCommand(o, a)
		}},
		{"cites nothing", fsm.NotFound, a, a, with(func(o *fsm.Open) { o.Cites = &fsm.Cite{} })},
	})
}

// A provision's approvals cover one reshare, the one that it names, once.
func TestSuccessorMatchesExactly(t *testing.T) {
	l := ready(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	source, _ := l.machine.State().Proven()
	next := l.plan(source, 2, a, c)
	provision := l.open(fsm.CeremonyProvision, a)
	provision.Successor = &fsm.Successor{Holders: next.Holders, Threshold: 2, Replaced: b.id}
	l.addRecipients(provision, c)
	l.self(a, l.openCommand(provision, a))
	row, _ := l.machine.State().Ceremony(provision.Ceremony)
	reshare := func(change func(*fsm.Open), people ...person) func() fsm.Body {
		return func() fsm.Body {
			o := l.open(fsm.CeremonyReshare, a)
			o.Plan, o.Expires = l.plan(source, 2, people...), provision.Expires
			o.Cites = &fsm.Cite{Ceremony: provision.Ceremony, Hash: row.Hash}
			change(o)
			l.addRecipients(o, people...)
			return l.openCommand(o, a)
		}
	}
	same := func(*fsm.Open) {}
	l.refused(fsm.NotAllowed, a, a, reshare(same, a, c)()) // not approved yet
	l.approve(provision, l.alice)
	l.refusals([]refusal{
		{"other holders", fsm.NotAllowed, a, a, reshare(same, a, b, c)},
		{"another hash", fsm.NotFound, a, a, reshare(func(o *fsm.Open) { o.Cites.Hash[0]++ }, a, c)},
		{"later expiry", fsm.Expired, a, a, reshare(func(o *fsm.Open) { o.Expires++ }, a, c)},
	})
	good := reshare(same, a, c)().(*fsm.CeremonyOpen)
	l.self(a, good)
	opened, _ := fsm.ParseOpen(good.Open)
	if c, _ := l.machine.State().Ceremony(opened.Ceremony); !c.Cited || c.Approved == 0 {
		t.Errorf("the successor is not approved: %+v", c)
	}
	l.self(a, l.close(opened, a, fsm.OutcomeFailed))
	l.refused(fsm.NotAllowed, a, a, reshare(same, a, c)()) // once
}

func TestProves(t *testing.T) {
	people := byID([]person{newPerson("1"), newPerson("2"), newPerson("3"), newPerson("4"), newPerson("5")})
	plan := &dkek.Plan{Threshold: 3}
	var ids []dkek.NodeID
	for _, p := range people {
		plan.Holders = append(plan.Holders, p.holder())
		ids = append(ids, p.id)
	}
	q := func(n ...int) []dkek.NodeID {
		var quorum []dkek.NodeID
		for _, i := range n {
			quorum = append(quorum, ids[i])
		}
		return quorum
	}
	for _, test := range []struct {
		name    string
		quorums [][]dkek.NodeID
		want    bool
	}{
		{"none", nil, false},
		{"the canonical ones", dkek.ProofQuorums(plan), true},
		{"one missing", dkek.ProofQuorums(plan)[1:], false},
		{"another core", [][]dkek.NodeID{q(0, 3, 4), q(1, 3, 4), q(2, 3, 4)}, true},
		{"everyone in one, without a core", [][]dkek.NodeID{q(0, 1, 2), q(2, 3, 4)}, false},
		{"with one beside", [][]dkek.NodeID{q(0, 1, 2), q(0, 1, 3), q(2, 3, 4), q(0, 1, 4)}, true},
	} {
		if got := fsm.Proves(plan, test.quorums); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// At a create the first report fixes the check value, so one that lies can spoil
// the attempt: whoever looks into it must see who said what.
func TestSpoiledCreateNamesBothReporters(t *testing.T) {
	l := newLab(t)
	l.init(fsm.Policy{})
	l.join("node-b")
	l.join("node-c")
	a, b := l.nodes[0], l.nodes[1]
	o := l.open(fsm.CeremonyCreate, a)
	o.Plan = l.plan(nil, 2, l.nodes...)
	l.addRecipients(o, l.nodes...)
	l.openApproved(o)
	l.deal(o)
	s, _ := l.machine.State().Sharing(1, 1)
	quorum := dkek.ProofQuorums(o.Plan)[0]
	wrong := dkek.KCV{0xee}
	l.self(b, l.proof(o, s, b, quorum, wrong))
	result := l.apply(l.as(a, a, l.proof(o, s, a, quorum, labKCV)))
	if result.Err == nil || result.Err.Code != fsm.Conflict {
		t.Fatalf("got %v", result.Err)
	}
	l.self(a, l.close(o, a, fsm.OutcomeFailed))
	row, _ := l.machine.State().Ceremony(o.Ceremony)
	for _, part := range []string{"node-a", "node-b", wrong.String()} {
		if !strings.Contains(result.Err.Message, part) {
			t.Errorf("the refusal %q does not tell %s", result.Err.Message, part)
		}
		if !strings.Contains(row.Detail, part) {
			t.Errorf("the outcome %q does not tell %s", row.Detail, part)
		}
	}
	if !strings.Contains(result.Err.Message, labKCV.String()) {
		t.Errorf("the refusal %q does not tell %v", result.Err.Message, labKCV)
	}
}
