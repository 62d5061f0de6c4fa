package fsm_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// refusal is one illegal use of a command, and why it is illegal.
type refusal struct {
	name   string
	code   fsm.Code
	who    person
	node   person
	change func() fsm.Body
}

func (l *lab) refusals(list []refusal) {
	l.t.Helper()
	for _, r := range list {
		c := l.as(r.who, r.node, r.change())
		if result := l.apply(c); result.Err == nil || result.Err.Code != r.code {
			l.t.Errorf("%s: got %v, want %s", r.name, result.Err, r.code)
		}
	}
}

func TestInit(t *testing.T) {
	l := newLab(t)
	a, stranger := newPerson("node-a"), newPerson("stranger")
	good := func() *fsm.Init {
		return &fsm.Init{Cluster: cluster, Name: "lab", Member: newMember(a), Operators: operators(l.alice), Approvals: 1}
	}
	with := func(change func(*fsm.Init)) func() fsm.Body {
		return func() fsm.Body { b := good(); change(b); return b }
	}
	l.refusals([]refusal{
		{"before init", fsm.WrongState, a, a, func() fsm.Body { return &fsm.TokenCreate{} }},
		{"another's cluster", fsm.NotAllowed, stranger, a, func() fsm.Body { return good() }},
		{"no ID", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Cluster = dkek.ClusterID{} })},
		{"bad name", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Name = "a b" })},
		{"no operators", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Operators = nil })},
		{"zero approvals", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Approvals = 0 })},
		{"more approvals than operators", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Approvals = 2 })},
		{"operator twice", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Operators = append(b.Operators, b.Operators[0]) })},
		{"node as operator", fsm.NotAllowed, a, a, with(func(b *fsm.Init) { b.Operators = operators(a) })},
		{"bad address", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Member.Addr = "nowhere" })},
		{"bad key", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Member.Public = b.Member.Public[1:] })},
		{"bad policy", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Policy.Copies = -1 })},
		{"no policy for modern types", fsm.BadRequest, a, a, with(func(b *fsm.Init) { b.Policy.Legacy = append(b.Policy.Legacy, "ed25519") })},
		{"reads nothing", fsm.WrongState, a, a, with(func(b *fsm.Init) { b.Member.ReadsTo = 0 })},
	})
	l.self(a, good())
	l.refused(fsm.Exists, a, a, good())
	row, _ := l.machine.State().Cluster()
	m, _ := l.machine.State().Member(a.id)
	if row.Incarnation != 1 || row.Version != 1 || row.Operators.Number != 1 || !m.Voter || m.Fingerprint != a.fingerprint() {
		t.Errorf("cluster %+v, member %+v", row, m)
	}
}

func TestJoin(t *testing.T) {
	l := ready(t, 2)
	a, p := l.nodes[0], newPerson("node-x")
	good := l.joinCommand(p)
	with := func(change func(*fsm.MemberAdd)) func() fsm.Body {
		return func() fsm.Body {
			b := *good
			change(&b)
			statement := fsm.JoinStatement{Cluster: cluster, Token: b.Token, Member: b.Member}
			b.Signed = l.sign(p, fsm.DomainJoin, &statement)
			return &b
		}
	}
	l.refusals([]refusal{
		{"unknown token", fsm.NotAllowed, a, a, with(func(b *fsm.MemberAdd) { b.Token[0]++ })},
		{"by an operator", fsm.NotAllowed, l.alice, a, func() fsm.Body { return good }},
		{"by a stranger", fsm.NotAllowed, p, p, func() fsm.Body { return good }},
		{"another's ID", fsm.Exists, a, a, with(func(b *fsm.MemberAdd) { b.Member.ID = a.id })},
		{"another's name", fsm.Exists, a, a, with(func(b *fsm.MemberAdd) { b.Member.Name = a.name })},
		{"another's address", fsm.Exists, a, a, with(func(b *fsm.MemberAdd) { b.Member.Addr = a.address() })},
		{"another's key", fsm.Exists, a, a, with(func(b *fsm.MemberAdd) { b.Member.Public = a.public })},
		{"an operator's key", fsm.Exists, a, a, with(func(b *fsm.MemberAdd) { b.Member.Public = l.bob.public })},
		{"too old", fsm.WrongState, a, a, with(func(b *fsm.MemberAdd) { b.Member.ReadsTo = 0 })},
		{"signed by another", fsm.NotAllowed, a, a, func() fsm.Body {
			b := *good
			b.Signed = l.sign(a, fsm.DomainJoin, &fsm.JoinStatement{Cluster: cluster, Token: b.Token, Member: b.Member})
			return &b
		}},
		{"signed for another address", fsm.NotAllowed, a, a, func() fsm.Body {
			b := *good
			b.Member.Addr = "evil.example:7400"
			return &b
		}},
	})
	l.self(a, good)
	if m, _ := l.machine.State().Member(p.id); m.Voter {
		t.Error("a joiner is a voter at once")
	}
	l.refused(fsm.NotAllowed, a, a, good) // the token is used
	late := l.joinCommand(newPerson("node-y"))
	l.now += time.Hour.Milliseconds() + 1
	l.refused(fsm.Expired, a, a, late)
}

func TestTokenRules(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	token := func(name string, expires int64) *fsm.TokenCreate {
		return &fsm.TokenCreate{Fingerprint: newPerson(name).fingerprint(), Name: "token", Expires: expires}
	}
	soon := l.now + time.Hour.Milliseconds()
	l.refusals([]refusal{
		{"by a node", fsm.NotAllowed, a, a, func() fsm.Body { return token("t", soon) }},
		{"expired", fsm.Expired, l.alice, a, func() fsm.Body { return token("t", start) }},
		{"for too long", fsm.BadRequest, l.alice, a, func() fsm.Body { return token("t", l.now+2*fsm.MaxTokenTime.Milliseconds()) }},
		{"unknown", fsm.NotFound, l.alice, a, func() fsm.Body { return &fsm.TokenRemove{} }},
		{"no fingerprint", fsm.BadRequest, l.alice, a, func() fsm.Body { return &fsm.TokenCreate{Name: "token", Expires: soon} }},
	})
	for i := range fsm.MaxTokens {
		l.must(l.alice, a, token(string(rune(i)), soon))
	}
	l.refused(fsm.TooMany, l.alice, a, token("one more", soon))
	l.refused(fsm.Exists, l.alice, a, token(string(rune(0)), soon))
	l.now = soon + 1
	l.must(l.alice, a, token("one more", soon+1000)) // expired ones give way
	if n := l.machine.State().Count(fsm.TableTokens); n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
}

func TestRemovedMemberNeverComesBack(t *testing.T) {
	l := ready(t, 3)
	a, c := l.nodes[0], l.nodes[2]
	key := l.createKey("k")
	ref := fsm.VersionRef{Key: key.ID, N: 1}
	l.self(c, &fsm.Cover{Node: c.id, Serial: "node-c-device", Add: []fsm.VersionRef{ref}})
	l.refused(fsm.NotAllowed, a, a, &fsm.MemberRemove{Node: c.id}) // not by another node
	l.must(l.alice, a, &fsm.MemberRemove{Node: c.id, Reason: "stolen"})
	if got := l.machine.State().Coverage(key.ID, 1); !slices.Equal(got, []dkek.NodeID{a.id}) {
		t.Errorf("coverage still names the removed node: %v", got)
	}
	l.refused(fsm.NotAllowed, c, c, &fsm.MemberAddress{Node: c.id, Addr: "x.example:1"})
	l.refused(fsm.NotFound, l.alice, a, &fsm.MemberRemove{Node: c.id})
	back := l.joinCommand(newPerson("node-c"))
	l.refused(fsm.Conflict, a, a, back)
	fresh := newPerson("node-z")
	fresh.name = "node-c" // its address is the removed one's
	l.refused(fsm.Exists, a, a, l.joinCommand(fresh))
}

func TestRemovalKeepsEnoughHolders(t *testing.T) {
	l := ready(t, 3) // t = 2
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	l.self(c, &fsm.MemberRemove{Node: c.id}) // it leaves by itself
	l.refused(fsm.WrongState, l.alice, a, &fsm.MemberRemove{Node: b.id})
	one := ready(t, 1)
	one.refused(fsm.WrongState, one.alice, one.nodes[0], &fsm.MemberRemove{Node: one.nodes[0].id})
	// A recovery may: its members are lost already.
	l.self(a, l.recoverCommand(a, 2, b.id))
	if _, ok := l.machine.State().Member(b.id); ok {
		t.Error("the lost member is still there")
	}
}

func TestMembersSpeakForThemselvesOnly(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	l.refusals([]refusal{
		{"report", fsm.NotAllowed, a, a, func() fsm.Body { return &fsm.MemberReport{Node: b.id, ReadsTo: 1} }},
		{"report through another", fsm.NotAllowed, b, a, func() fsm.Body { return &fsm.MemberReport{Node: b.id, ReadsTo: 1} }},
		{"address", fsm.NotAllowed, a, a, func() fsm.Body { return &fsm.MemberAddress{Node: b.id, Addr: "x.example:1"} }},
		{"address taken", fsm.Exists, b, b, func() fsm.Body { return &fsm.MemberAddress{Node: b.id, Addr: a.address()} }},
		{"cover", fsm.NotAllowed, a, a, func() fsm.Body { return &fsm.Cover{Node: b.id} }},
		{"wipe", fsm.NotAllowed, l.alice, b, func() fsm.Body { return &fsm.CoverReset{Node: b.id, Serial: "node-b-device"} }},
		{"abort", fsm.NotAllowed, a, a, func() fsm.Body { return &fsm.Abort{Request: fsm.RequestID{9}, Incarnation: 1, Node: b.id} }},
		{"device without a serial", fsm.BadRequest, b, b, func() fsm.Body { return &fsm.MemberReport{Node: b.id, ReadsTo: 1, Device: &fsm.Device{Kind: "soft"}} }},
		{"older than the cluster", fsm.WrongState, b, b, func() fsm.Body { return &fsm.MemberReport{Node: b.id} }},
	})
}

func TestReportsKeepAndReplace(t *testing.T) {
	l := ready(t, 2)
	b := l.nodes[1]
	key := l.createKey("k")
	l.self(b, &fsm.Cover{Node: b.id, Serial: "node-b-device", Add: []fsm.VersionRef{{Key: key.ID, N: 1}}})
	weak, strong := "on the same disk", ""
	l.self(b, &fsm.MemberReport{Node: b.id, ReadsTo: 2, SealKept: &weak})
	l.self(b, &fsm.MemberReport{Node: b.id, ReadsTo: 2, Share: &fsm.ShareHealth{Epoch: 1, Attempt: 1, OK: true}})
	m, _ := l.machine.State().Member(b.id)
	if m.SealKept != weak || m.Device == nil || m.Share == nil || m.ReadsTo != 2 {
		t.Errorf("got %+v", m)
	}
	l.self(b, &fsm.MemberReport{Node: b.id, ReadsTo: 2, SealKept: &strong})
	if m, _ := l.machine.State().Member(b.id); m.SealKept != strong {
		t.Errorf("a seal secret that is kept well now: %q", m.SealKept)
	}
	if n := l.machine.State().Covered()[b.id]; n != 1 {
		t.Fatalf("covers %d", n)
	}
	l.report(b, "replacement")
	if n := l.machine.State().Covered()[b.id]; n != 0 {
		t.Errorf("a new device covers %d", n)
	}
	l.refused(fsm.Conflict, b, b, &fsm.Cover{Node: b.id, Serial: "node-b-device", Add: []fsm.VersionRef{{Key: key.ID, N: 1}}})
}

func TestVersionIsRaisedOnlyWhenAllReadIt(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	l.self(a, &fsm.MemberReport{Node: a.id, ReadsTo: 2})
	l.refused(fsm.WrongState, a, a, &fsm.VersionRaise{Version: 2})
	l.self(b, &fsm.MemberReport{Node: b.id, ReadsTo: 2})
	l.refused(fsm.WrongState, a, a, &fsm.VersionRaise{Version: 1})
	l.self(a, &fsm.VersionRaise{Version: 2})
	// This build reads version 1 only: it refuses the snapshot.
	if err := fsm.New().Restore(reader(written(t, l.machine))); !isUnknown(err) {
		t.Errorf("got %v", err)
	}
}

// A member's word for what it reads must not raise the version to one that no
// build will ever read.
func TestVersionIsRaisedByOne(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	l.self(a, &fsm.MemberReport{Node: a.id, ReadsTo: math.MaxUint64})
	l.refused(fsm.WrongState, a, a, &fsm.VersionRaise{Version: math.MaxUint64})
	l.refused(fsm.WrongState, a, a, &fsm.VersionRaise{Version: 3})
}

func TestRotateKey(t *testing.T) {
	l := ready(t, 3)
	a, b := l.nodes[0], l.nodes[1]
	next := newPerson("next")
	good := l.rotateCommand(b, next)
	l.refusals([]refusal{
		{"by another", fsm.NotAllowed, a, a, func() fsm.Body { return good }},
		{"signed by the new key alone", fsm.NotAllowed, b, b, func() fsm.Body {
			forged := *good
			forged.Signed = l.sign(next, fsm.DomainRotate, &fsm.RotateStatement{Cluster: cluster, Node: b.id, Old: b.fingerprint(), Public: next.public})
			return &forged
		}},
		{"without possession", fsm.NotAllowed, b, b, func() fsm.Body { return &fsm.MemberRotateKey{Signed: good.Signed, Possession: good.Signed.Signature} }},
		{"to an operator's key", fsm.Exists, b, b, func() fsm.Body { return l.rotateCommand(b, l.alice) }},
	})
	open := l.open(fsm.CeremonyDrill, a)
	l.addRecipients(open, a)
	l.self(a, l.openCommand(open, a))
	l.refused(fsm.WrongState, b, b, good)
	l.self(a, l.close(open, a, fsm.OutcomeFailed))
	l.self(b, good)
	var last *fsm.MemberChange
	for c := range l.machine.State().MemberChanges(0) {
		last = c
	}
	s, err := fsm.VerifyRotation(b.public, *last.Signed)
	if err != nil || fsm.FingerprintOf(s.Public) != next.fingerprint() || last.Action != fsm.ChangeRotate {
		t.Errorf("chain ends in %+v: %v", last, err)
	}
	if _, err := fsm.VerifyRotation(a.public, *last.Signed); err == nil {
		t.Error("the rotation verifies under another key")
	}
	l.self(b, &fsm.MemberAddress{Node: b.id, Addr: "10.1.1.1:1"}) // proposed before, committed after
	l.refused(fsm.NotAllowed, b, a, &fsm.MemberAddress{Node: b.id, Addr: "10.1.1.2:1"})
	if l.machine.State().May(b.fingerprint(), fsm.List, "key") == nil {
		t.Error("the old key may act")
	}
}

// A key whose only client is a member's own program stays that program's.
func TestRotationKeepsWhatPoliciesName(t *testing.T) {
	l := ready(t, 3)
	b := l.nodes[1]
	command := l.keyCreate("k")
	command.Material = l.material(b)
	command.Policy.Clients = []dkek.Fingerprint{b.fingerprint()}
	l.self(b, command)
	next := newPerson("next")
	for range 2 {
		rotation := l.rotateCommand(b, next)
		l.self(b, rotation)
		next.id, b, next = b.id, next, newPerson("after next")
		b.id = l.nodes[1].id
	}
	view := l.machine.State()
	if err := view.May(b.fingerprint(), fsm.Sign, "k"); err != nil {
		t.Errorf("after two rotations: %v", err)
	}
	for _, other := range []person{l.nodes[0], l.nodes[1]} {
		if view.May(other.fingerprint(), fsm.Sign, "k") == nil {
			t.Errorf("%s may use it", other.name)
		}
	}
}

// The reshare that follows a provision names holders under the keys that were
// approved: these must not change before it.
func TestRotationWaitsForTheSuccessor(t *testing.T) {
	l := ready(t, 3)
	a, b := l.nodes[0], l.nodes[1]
	source, _ := l.machine.State().Proven()
	provision := l.open(fsm.CeremonyProvision, a)
	provision.Successor = &fsm.Successor{Holders: l.plan(source, 2, l.nodes...).Holders, Threshold: 2}
	l.addRecipients(provision, a)
	l.openApproved(provision)
	l.self(a, l.proof(provision, source, a, dkek.ProofQuorums(&source.Plan)[0], labKCV))
	l.self(a, l.close(provision, a, fsm.OutcomeSuccess))
	rotation := l.rotateCommand(b, newPerson("next"))
	l.refused(fsm.WrongState, b, b, rotation)
	o := l.open(fsm.CeremonyReshare, a)
	row, _ := l.machine.State().Ceremony(provision.Ceremony)
	o.Plan, o.Expires = l.plan(source, 2, l.nodes...), provision.Expires
	o.Cites = &fsm.Cite{Ceremony: provision.Ceremony, Hash: row.Hash}
	l.addRecipients(o, l.nodes...)
	l.self(a, l.openCommand(o, a))
	l.refused(fsm.WrongState, b, b, rotation)
	l.self(a, l.close(o, a, fsm.OutcomeFailed))
	l.self(b, rotation)
}

// The signed steps of a key's past must not be of use again: after a member
// went from A to B and came back to A, anyone could take it to B once more.
func TestFormerKeysAreNotTakenAgain(t *testing.T) {
	l := ready(t, 3)
	a, first := l.nodes[0], l.nodes[1]
	away := l.rotateCommand(first, newPerson("second"))
	l.self(first, away)
	second := newPerson("second")
	second.id = first.id
	l.refused(fsm.Exists, second, second, l.rotateCommand(second, first))
	third := newPerson("third")
	third.id = first.id
	l.self(second, l.rotateCommand(second, third))
	l.refused(fsm.Exists, third, third, l.rotateCommand(third, second)) // older ones neither

	l.refused(fsm.Exists, a, a, l.rotateCommand(a, first)) // nor by anyone else
	joiner := newPerson("node-b")
	joiner.id, joiner.name = dkek.NodeID{7}, "node-x"
	l.refused(fsm.Exists, a, a, l.joinCommand(joiner))
	l.refused(fsm.Exists, l.alice, a, &fsm.ClientAdd{Name: "app", Fingerprint: first.fingerprint(), Role: fsm.RoleAuditor})
}
