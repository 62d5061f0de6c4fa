package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// start is the log's time at which every lab begins, Unix milliseconds.
const start = 1_700_000_000_000

// person is a node, an operator or a client: a name and a key that depends on
// the name alone.
type person struct {
	name   string
	key    ed25519.PrivateKey
	public []byte // SubjectPublicKeyInfo
	id     dkek.NodeID
}

func newPerson(name string) person {
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return person{name: name, key: key, public: public, id: dkek.NodeID(seed[:16])}
}

func (p person) fingerprint() dkek.Fingerprint { return fsm.FingerprintOf(p.public) }
func (p person) holder() dkek.Holder {
	return dkek.Holder{Node: p.id, Fingerprint: p.fingerprint()}
}
func (p person) operator() fsm.Operator { return fsm.Operator{Name: p.name, Public: p.public} }
func (p person) address() string        { return p.name + ".example:7400" }

func byID(people []person) []person {
	people = slices.Clone(people)
	slices.SortFunc(people, func(a, b person) int { return bytes.Compare(a.id[:], b.id[:]) })
	return people
}

func operators(people ...person) []fsm.Operator {
	people = slices.Clone(people)
	slices.SortFunc(people, func(a, b person) int {
		x, y := a.fingerprint(), b.fingerprint()
		return bytes.Compare(x[:], y[:])
	})
	var list []fsm.Operator
	for _, p := range people {
		list = append(list, p.operator())
	}
	return list
}

// lab drives one machine through its public door and keeps the log.
type lab struct {
	t       testing.TB
	machine *fsm.Machine
	log     [][]byte
	index   uint64
	now     int64
	serial  uint64 // of request and ceremony IDs

	nodes []person // members, in the order of joining
	alice person   // operators
	bob   person
}

var cluster = dkek.ClusterID{0xc1}

func newLab(t testing.TB) *lab {
	return &lab{t: t, machine: fsm.New(), now: start, alice: newPerson("alice"), bob: newPerson("bob")}
}

func (l *lab) requestID() fsm.RequestID {
	l.serial++
	return fsm.RequestID(binary.BigEndian.AppendUint64(make([]byte, 8), l.serial))
}

// as builds a command of who, proposed by node, one millisecond later.
func (l *lab) as(who, node person, body fsm.Body) fsm.Command {
	l.now++
	return fsm.Command{
		Header: fsm.Header{Request: l.requestID(), Time: l.now, Actor: fsm.Actor{Who: who.fingerprint(), Node: node.id}},
		Body:   body,
	}
}

// apply appends a command to the log and applies it. That Validate foresees the
// answer, and that a refusal leaves only its request behind, is checked always.
func (l *lab) apply(c fsm.Command) fsm.Result {
	l.t.Helper()
	encoded, err := fsm.Encode(c)
	if err != nil {
		l.t.Fatalf("encode: %v", err)
	}
	before := l.machine.State()
	foreseen := fsm.Validate(before, c)
	l.index += 2 // an index may be skipped: Raft has entries of its own
	l.log = append(l.log, encoded)
	result := l.machine.Apply(l.index, encoded)
	if result.Fatal != nil {
		l.t.Fatalf("apply %T: fatal: %v", c.Body, result.Fatal)
	}
	if !result.Repeated && (foreseen == nil) != (result.Err == nil) {
		l.t.Fatalf("apply %T: Validate said %v, Apply %v", c.Body, foreseen, result.Err)
	}
	if result.Err != nil && len(result.Changes) > 0 {
		l.t.Fatalf("apply %T: refused, and changed %v", c.Body, result.Changes)
	}
	return result
}

// must applies a command that has to be accepted.
func (l *lab) must(who, node person, body fsm.Body) fsm.Result {
	l.t.Helper()
	result := l.apply(l.as(who, node, body))
	if result.Err != nil {
		l.t.Fatalf("%T: %v", body, result.Err)
	}
	return result
}

// refused applies a command that has to be refused with a code.
func (l *lab) refused(code fsm.Code, who, node person, body fsm.Body) {
	l.t.Helper()
	if result := l.apply(l.as(who, node, body)); result.Err == nil || result.Err.Code != code {
		l.t.Fatalf("%T: got %v, want %s", body, result.Err, code)
	}
}

func (l *lab) self(node person, body fsm.Body) fsm.Result {
	l.t.Helper()
	return l.must(node, node, body)
}

func (l *lab) init(policy fsm.Policy) person {
	l.t.Helper()
	first := newPerson("node-a")
	l.nodes = append(l.nodes, first)
	l.self(first, &fsm.Init{
		Cluster: cluster, Name: "lab", Member: newMember(first), Operators: operators(l.alice, l.bob), Approvals: 1, Policy: policy,
	})
	l.report(first, first.name+"-device")
	return first
}

func newMember(p person) fsm.NewMember {
	return fsm.NewMember{ID: p.id, Name: p.name, Public: p.public, Addr: p.address(), ReadsTo: fsm.CommandVersion}
}

func (l *lab) report(p person, serial string) {
	l.t.Helper()
	l.self(p, &fsm.MemberReport{Node: p.id, ReadsTo: fsm.CommandVersion, Device: &fsm.Device{Kind: "soft", Serial: serial}})
}

func (l *lab) joinCommand(p person) *fsm.MemberAdd {
	l.t.Helper()
	token := newPerson("token of " + p.name).fingerprint()
	if _, ok := l.machine.State().Token(token); !ok {
		l.must(l.alice, l.nodes[0], &fsm.TokenCreate{Fingerprint: token, Name: "for-" + p.name, Expires: l.now + time.Hour.Milliseconds()})
	}
	signed := l.sign(p, fsm.DomainJoin, &fsm.JoinStatement{Cluster: cluster, Token: token, Member: newMember(p)})
	return &fsm.MemberAdd{Member: newMember(p), Token: token, Signed: signed}
}

func (l *lab) join(name string) person {
	l.t.Helper()
	p := newPerson(name)
	l.self(l.nodes[0], l.joinCommand(p))
	l.self(l.nodes[0], &fsm.MemberPromote{Node: p.id})
	l.nodes = append(l.nodes, p)
	l.report(p, name+"-device")
	return p
}

func (l *lab) sign(p person, domain fsm.Domain, statement any) fsm.Signed {
	l.t.Helper()
	signed, err := fsm.SignStatement(p.key, domain, statement)
	if err != nil {
		l.t.Fatal(err)
	}
	return signed
}

// open prepares an Open of a kind; change it, then seal it with recipients.
func (l *lab) open(kind fsm.CeremonyKind, opener person) *fsm.Open {
	row, _ := l.machine.State().Cluster()
	id := fsm.CeremonyID(l.requestID())
	o := &fsm.Open{
		Format: fsm.OpenFormat, Cluster: cluster, Incarnation: row.Incarnation, Ceremony: id, Kind: kind, Purpose: "test",
		Opener: opener.holder(), Expires: l.now + time.Hour.Milliseconds(), Govern: row.Operators.Ref(),
	}
	if kind == fsm.CeremonyProvision || kind == fsm.CeremonyReshare || kind == fsm.CeremonyDrill {
		o.Source = row.Proven
	}
	return o
}

func (l *lab) addRecipients(o *fsm.Open, people ...person) {
	o.Recipients = nil
	for _, p := range byID(people) {
		o.Recipients = append(o.Recipients, l.sign(p, fsm.DomainRecipient, l.recipient(o, p)))
	}
}

func (l *lab) recipient(o *fsm.Open, p person) *fsm.RecipientStatement {
	epoch, attempt := o.Source.Epoch, o.Source.Attempt
	if o.Plan != nil {
		epoch, attempt = o.Plan.Epoch, o.Plan.Attempt
	}
	key := sha256.Sum256(append(o.Ceremony[:], p.id[:]...))
	return &fsm.RecipientStatement{
		Cluster: o.Cluster, Incarnation: o.Incarnation, Ceremony: o.Ceremony, Epoch: epoch, Attempt: attempt,
		Node: p.holder(), Public: p.public, DeviceKind: "soft", DeviceSerial: p.name + "-device",
		Key: dkek.PublicKey{Suite: dkek.X25519(), Bytes: key[:]},
	}
}

func (l *lab) openCommand(o *fsm.Open, opener person) *fsm.CeremonyOpen {
	l.t.Helper()
	command, err := fsm.SignOpen(opener.key, o)
	if err != nil {
		l.t.Fatal(err)
	}
	return command
}

func (l *lab) approval(o *fsm.Open, operator person, domain fsm.Domain) fsm.Approval {
	l.t.Helper()
	encoded, err := fsm.EncodeOpen(o)
	if err != nil {
		l.t.Fatal(err)
	}
	signature, err := fsm.SignMessage(operator.key, domain, encoded)
	if err != nil {
		l.t.Fatal(err)
	}
	return fsm.Approval{Operator: operator.fingerprint(), Signature: signature}
}

func (l *lab) approve(o *fsm.Open, operator person) {
	l.t.Helper()
	l.must(operator, l.nodes[0], &fsm.CeremonyApprove{Ceremony: o.Ceremony, Approval: l.approval(o, operator, fsm.DomainApproval)})
}

// openApproved opens a ceremony by the first node and approves it.
func (l *lab) openApproved(o *fsm.Open) {
	l.t.Helper()
	l.self(l.nodes[0], l.openCommand(o, l.nodes[0]))
	l.approve(o, l.alice)
}

func (l *lab) close(o *fsm.Open, p person, outcome fsm.Outcome) *fsm.CeremonyClose {
	return &fsm.CeremonyClose{Signed: l.sign(p, fsm.DomainClose, &fsm.CloseStatement{Cluster: cluster, Ceremony: o.Ceremony, Node: p.id, Outcome: outcome})}
}

var labKCV = dkek.KCV{1, 2, 3, 4, 5, 6, 7, 8}

// plan is a sharing of holders; source nil: the first one.
func (l *lab) plan(source *fsm.SharingRow, t int, holders ...person) *dkek.Plan {
	row, _ := l.machine.State().Cluster()
	plan := &dkek.Plan{Cluster: cluster, Epoch: row.Epoch + 1, Attempt: 1, Threshold: t, Origin: dkek.Dealt}
	if t == 1 {
		plan.Origin = dkek.Single
	}
	for _, p := range byID(holders) {
		plan.Holders = append(plan.Holders, p.holder())
	}
	plan.Dealers = plan.Holders
	if source != nil {
		old := source.Sharing()
		plan.Previous, plan.KCV, plan.Dealers = old.Hash(), source.KCV, source.Plan.Holders[:source.Plan.Threshold]
		if source.Plan.Origin == dkek.Single {
			plan.Origin = dkek.Single
		}
	}
	return plan
}

func (l *lab) person(id dkek.NodeID) person {
	l.t.Helper()
	for _, p := range l.nodes {
		if p.id == id {
			return p
		}
	}
	l.t.Fatalf("no person %v", id)
	return person{}
}

func dealing(plan *dkek.Plan, dealer dkek.NodeID) dkek.Dealing {
	d := dkek.Dealing{Dealer: dealer}
	for j, h := range plan.Holders {
		d.X = append(d.X, byte(j+1))
		d.Commitments = append(d.Commitments, sha256.Sum256(append(dealer[:], h.Node[:]...)))
	}
	return d
}

// deal records dealings and acknowledgements: the sharing is staged then.
func (l *lab) deal(o *fsm.Open) {
	l.t.Helper()
	for _, dealer := range slices.Backward(o.Plan.Dealers) { // any order will do
		p := l.person(dealer.Node)
		l.self(p, l.dealingRecord(o, p))
	}
	for _, h := range o.Plan.Holders {
		p := l.person(h.Node)
		l.self(p, l.ack(o, p))
	}
}

func (l *lab) dealingRecord(o *fsm.Open, p person) *fsm.DealingRecord {
	return &fsm.DealingRecord{Signed: l.sign(p, fsm.DomainDealing, &fsm.DealingStatement{
		Cluster: cluster, Ceremony: o.Ceremony, Plan: o.Plan.Hash(), Dealing: dealing(o.Plan, p.id),
	})}
}

func (l *lab) ack(o *fsm.Open, p person) *fsm.ShareAck {
	s, _ := l.machine.State().Sharing(o.Plan.Epoch, o.Plan.Attempt)
	return &fsm.ShareAck{Signed: l.sign(p, fsm.DomainAck, &fsm.AckStatement{Cluster: cluster, Ceremony: o.Ceremony, Sharing: s.Hash, Holder: p.id})}
}

func (l *lab) proof(o *fsm.Open, s *fsm.SharingRow, p person, quorum []dkek.NodeID, kcv dkek.KCV) *fsm.DeviceProof {
	return &fsm.DeviceProof{Signed: l.sign(p, fsm.DomainReport, &fsm.ReportStatement{
		Cluster: cluster, Ceremony: o.Ceremony, Sharing: s.Hash, Node: p.id, Quorum: quorum, KCV: kcv,
		DeviceKind: "soft", DeviceSerial: p.name + "-device",
	})}
}

// prove has every recipient report a quorum, all of them together every holder.
func (l *lab) prove(o *fsm.Open) {
	l.t.Helper()
	s, _ := l.machine.State().Sharing(o.Plan.Epoch, o.Plan.Attempt)
	quorums := dkek.ProofQuorums(o.Plan)
	for i, h := range o.Plan.Holders {
		p := l.person(h.Node)
		l.self(p, l.proof(o, s, p, quorums[i%len(quorums)], labKCV))
	}
}

// createDKEK deals the first DKEK to all nodes.
func (l *lab) createDKEK(t int) *fsm.Open {
	l.t.Helper()
	o := l.open(fsm.CeremonyCreate, l.nodes[0])
	o.Plan = l.plan(nil, t, l.nodes...)
	l.addRecipients(o, l.nodes...)
	l.openApproved(o)
	l.deal(o)
	l.prove(o)
	l.self(l.nodes[0], l.close(o, l.nodes[0], fsm.OutcomeSuccess))
	return o
}

// ready is a lab of n nodes with a DKEK.
func ready(t testing.TB, n int) *lab {
	t.Helper()
	l := newLab(t)
	l.init(fsm.Policy{})
	for _, name := range []string{"node-b", "node-c", "node-d", "node-e", "node-f", "node-g"}[:n-1] {
		l.join(name)
	}
	l.createDKEK(n/2 + 1)
	return l
}

func (l *lab) material(maker person) fsm.Material {
	key := newPerson("key " + maker.name)
	row, _ := l.machine.State().Cluster()
	return fsm.Material{
		Public: key.public, Blob: []byte("wrapped"), BlobKind: hsm.BlobSmartCardHSM, KCV: labKCV,
		Maker: maker.id, Serial: maker.name + "-device", Incarnation: row.Incarnation,
	}
}

func (l *lab) keyCreate(name string) *fsm.KeyCreate {
	return &fsm.KeyCreate{Name: name, Type: hsm.Ed25519, Usage: fsm.Sign | fsm.Verify, Material: l.material(l.nodes[0])}
}

func (l *lab) createKey(name string) *fsm.Key {
	l.t.Helper()
	l.self(l.nodes[0], l.keyCreate(name))
	key, ok := l.machine.State().Key(name)
	if !ok {
		l.t.Fatalf("no key %s", name)
	}
	return key
}
