package fsm_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// story is a life of a cluster that uses every kind of command.
func story(t testing.TB) *lab {
	l := ready(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	l.must(l.alice, a, &fsm.TokenCreate{Fingerprint: newPerson("spare").fingerprint(), Name: "spare", Expires: l.now + 1000})
	l.must(l.alice, a, &fsm.TokenRemove{Fingerprint: newPerson("spare").fingerprint()})
	user := newPerson("user")
	l.must(l.alice, a, &fsm.ClientAdd{Name: "user", Fingerprint: user.fingerprint(), Role: fsm.RoleUser, Prefixes: []string{"app/"}, Verbs: fsm.Create | fsm.Sign | fsm.Manage | fsm.Rotate})
	l.must(user, a, l.keyCreate("app/one"))
	l.must(user, a, &fsm.KeyRotate{Name: "app/one", Material: l.material(a)})
	l.must(user, b, &fsm.KeyLabels{Name: "app/one", Labels: []fsm.Label{{Key: "env", Value: "test"}}})
	l.must(user, b, &fsm.KeyState{Name: "app/one", Version: 1, Disable: true})
	key, _ := l.machine.State().Key("app/one")
	ref := fsm.VersionRef{Key: key.ID, N: 1}
	l.self(b, &fsm.Cover{Node: b.id, Serial: "node-b-device", Add: []fsm.VersionRef{ref, {Key: key.ID, N: 2}}})
	l.must(user, b, &fsm.KeyDelete{Name: "app/one", Version: 1, After: 1000})
	l.must(user, b, &fsm.KeyUndelete{Name: "app/one", Version: 1})
	l.must(user, b, &fsm.KeyDelete{Name: "app/one", Version: 1, After: 1000})
	l.now += 1000
	l.self(c, &fsm.Destroy{Items: []fsm.VersionRef{ref}})
	l.self(b, &fsm.DestroyConfirm{Node: b.id, Serial: "node-b-device", Items: []fsm.VersionRef{ref}})
	l.self(a, &fsm.DestroyConfirm{Node: a.id, Serial: "node-a-device", Items: []fsm.VersionRef{ref}})
	l.must(l.bob, a, &fsm.DestroyExcept{Items: []fsm.VersionRef{ref}, Nodes: []dkek.NodeID{c.id}, Reason: "lost"})
	l.self(b, &fsm.CoverReset{Node: b.id, Serial: "node-b-device"})
	lost := l.requestID()
	l.self(b, &fsm.Abort{Request: lost, Incarnation: 1, Index: l.index, Node: b.id})
	l.self(b, &fsm.AbortConfirm{Request: lost, Node: b.id})
	l.self(c, &fsm.MemberAddress{Node: c.id, Addr: "moved.example:7400"})
	l.provisionAndReshare()
	l.must(l.alice, a, &fsm.ClientRemove{Fingerprint: user.fingerprint()})
	l.govern(2, l.alice, l.bob)
	l.rotateKey(c, "node-c-new")
	l.self(a, l.recoverCommand(a, 2))
	denied := l.open(fsm.CeremonyDrill, a)
	l.addRecipients(denied, a)
	l.self(a, l.openCommand(denied, a))
	l.must(l.bob, a, &fsm.CeremonyDeny{Ceremony: denied.Ceremony, Denial: l.approval(denied, l.bob, fsm.DomainDeny)})
	return l
}

// provisionAndReshare lets a fourth node in, gives it the DKEK, reshares to all
// but the second by the successor that the provision named, and removes that.
func (l *lab) provisionAndReshare() {
	l.t.Helper()
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	d := l.join("node-d")
	source, _ := l.machine.State().Proven()
	provision := l.open(fsm.CeremonyProvision, a)
	next := l.plan(source, 2, a, c, d)
	provision.Successor = &fsm.Successor{Holders: next.Holders, Threshold: 2, Replaced: b.id}
	l.addRecipients(provision, d)
	l.openApproved(provision)
	keyHash := l.recipient(provision, d).KeyHash()
	for _, p := range []person{a, c} {
		l.self(p, &fsm.Release{Ceremony: provision.Ceremony, Holder: p.id, Recipient: d.id, Purpose: fsm.ReleaseGather, Key: keyHash})
	}
	quorum := []dkek.NodeID{a.id, c.id}
	slices.SortFunc(quorum, func(x, y dkek.NodeID) int { return bytes.Compare(x[:], y[:]) })
	l.self(d, l.proof(provision, source, d, quorum, labKCV))
	l.self(d, l.close(provision, d, fsm.OutcomeSuccess))

	reshare := l.open(fsm.CeremonyReshare, a)
	reshare.Plan, reshare.Expires = next, provision.Expires
	row, _ := l.machine.State().Ceremony(provision.Ceremony)
	reshare.Cites = &fsm.Cite{Ceremony: provision.Ceremony, Hash: row.Hash}
	l.addRecipients(reshare, a, c, d)
	l.self(a, l.openCommand(reshare, a))
	l.deal(reshare)
	l.prove(reshare)
	l.self(a, l.close(reshare, a, fsm.OutcomeSuccess))
	l.self(b, &fsm.OldShareErased{Node: b.id, Epoch: source.Plan.Epoch, Attempt: source.Plan.Attempt})
	l.must(l.alice, a, &fsm.MemberRemove{Node: b.id, Reason: "replaced"})
	l.nodes = []person{a, c, d}
}

func (l *lab) govern(k int, people ...person) *fsm.Open {
	l.t.Helper()
	o := l.open(fsm.CeremonyGovern, l.nodes[0])
	o.Proposal = &fsm.Proposal{Operators: operators(people...), Approvals: k}
	l.openApproved(o)
	return o
}

func (l *lab) rotateCommand(p person, next person) *fsm.MemberRotateKey {
	l.t.Helper()
	signed := l.sign(p, fsm.DomainRotate, &fsm.RotateStatement{Cluster: cluster, Node: p.id, Old: p.fingerprint(), Public: next.public})
	possession, err := fsm.SignMessage(next.key, fsm.DomainRotate, signed.Statement)
	if err != nil {
		l.t.Fatal(err)
	}
	return &fsm.MemberRotateKey{Signed: signed, Possession: possession}
}

func (l *lab) rotateKey(p person, name string) {
	l.t.Helper()
	next := newPerson(name)
	l.self(p, l.rotateCommand(p, next))
	for i := range l.nodes {
		if l.nodes[i].id == p.id {
			next.id, next.name = p.id, p.name
			l.nodes[i] = next
		}
	}
}

// For every prefix of the log: a machine restored from the snapshot there, fed
// the rest, is where the machine is that applied everything.
func TestReplayLaw(t *testing.T) {
	l := story(t)
	want := l.machine.Digest()
	prefix := fsm.New()
	index := uint64(0)
	for i := 0; ; i++ {
		var snapshot bytes.Buffer
		if _, err := prefix.Snapshot().WriteTo(&snapshot); err != nil {
			t.Fatal(err)
		}
		restored := fsm.New()
		if err := restored.Restore(&snapshot); err != nil {
			t.Fatalf("prefix %d: %v", i, err)
		}
		if restored.Digest() != prefix.Digest() || restored.AppliedIndex() != prefix.AppliedIndex() {
			t.Fatalf("prefix %d: restored state differs", i)
		}
		tail := index
		for _, command := range l.log[i:] {
			tail += 2
			if result := restored.Apply(tail, command); result.Fatal != nil {
				t.Fatalf("prefix %d: %v", i, result.Fatal)
			}
		}
		if got := restored.Digest(); got != want {
			t.Fatalf("prefix %d: restored and replayed is %v, applied is %v", i, got, want)
		}
		if i == len(l.log) {
			return
		}
		index += 2
		prefix.Apply(index, l.log[i])
	}
}

// Every command of the story once more: each gets its first answer, and nothing
// changes but the index.
func TestRepeatedRequestsChangeNothing(t *testing.T) {
	l := story(t)
	before := l.machine.Digest()
	for _, command := range l.log {
		l.index++
		restamped, err := fsm.Stamp(command, time.UnixMilli(l.now+int64(l.index)))
		if err != nil {
			t.Fatal(err)
		}
		result := l.machine.Apply(l.index, restamped)
		if !result.Repeated || result.Err != nil || len(result.Changes) > 0 {
			t.Fatalf("kind %d: %+v", command[1], result)
		}
	}
	if l.machine.Digest() != before {
		t.Fatal("a repeated request changed the state")
	}
}

func TestStoryUsesEveryKind(t *testing.T) {
	seen := map[fsm.Kind]bool{}
	for _, command := range story(t).log {
		seen[fsm.Kind(command[1])] = true
	}
	for kind := range 256 {
		encoded := []byte{fsm.EnvelopeFormat, byte(kind)}
		_, err := fsm.Decode(encoded)
		if known := !isUnknown(err); known && !seen[fsm.Kind(kind)] && fsm.Kind(kind) != fsm.KindVersionRaise {
			t.Errorf("the story does not use kind %d", kind)
		}
	}
}

func TestAuditChainOfTheStory(t *testing.T) {
	v := story(t).machine.State()
	seq, head := v.AuditHead()
	got, err := fsm.VerifyAudit(dkek.Hash{}, v.Audit(0))
	if err != nil || got != head || seq == 0 {
		t.Fatalf("chain of %d ends in %v, %v: head is %v", seq, got, err, head)
	}
	records := slices.Collect(v.Audit(0))
	changed := *records[3]
	changed.Target = "something else"
	records[3] = &changed
	if _, err := fsm.VerifyAudit(dkek.Hash{}, slices.Values(records)); err == nil {
		t.Error("a changed record passed")
	}
	if _, err := fsm.VerifyAudit(dkek.Hash{}, slices.Values(slices.Delete(slices.Collect(v.Audit(0)), 3, 4))); err == nil {
		t.Error("a missing record passed")
	}
}
