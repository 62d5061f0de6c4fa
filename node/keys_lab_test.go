package node_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// keyLab is a cluster whose devices all hold one DKEK, for tests of keys. How a
// DKEK gets there is tested elsewhere: here the devices are handed one, and the
// log the statements that say so.
type keyLab struct {
	*nodetest.Cluster
	t    testing.TB
	dkek [hsm.ShareSize]byte
}

func startKeys(t testing.TB, n int, options nodetest.Options) *keyLab {
	t.Helper()
	options.Blank = true
	l := &keyLab{Cluster: nodetest.StartWith(t, n, options), t: t}
	rand.Read(l.dkek[:])
	for _, m := range l.Members {
		l.provision(m)
	}
	l.prove()
	for _, m := range l.Members {
		l.ready(m)
	}
	return l
}

// provision puts the DKEK into a member's blank device.
func (l *keyLab) provision(m *nodetest.Member) {
	l.t.Helper()
	ctx, device := l.t.Context(), m.Device.Unwrapped()
	pin, soPIN := hsm.NewSecret([]byte(nodetest.PIN)), hsm.NewSecret([]byte(nodetest.SOPIN))
	err := device.Initialise(ctx, hsm.InitOptions{Label: m.Name, PIN: pin, SOPIN: soPIN, Shares: 1, Tries: 10})
	if err == nil {
		err = device.Login(ctx, pin)
	}
	if err == nil {
		_, err = device.ImportShare(ctx, hsm.NewSecret(bytes.Clone(l.dkek[:])))
	}
	if err != nil {
		l.t.Fatalf("provision %s: %v", m.Name, err)
	}
}

// ready waits until a member's device can be used.
func (l *keyLab) ready(m *nodetest.Member) {
	l.t.Helper()
	l.Eventually(m.Name+"'s device is ready", func() bool {
		row, ok := m.View().Member(m.ID())
		return ok && row.Device != nil && row.Device.State == string(hsm.Ready) && m.ObjectsForTest().Slots > 0
	})
}

func (l *keyLab) kcv() (kcv dkek.KCV) {
	sum := sha256.Sum256(l.dkek[:])
	copy(kcv[:], sum[:])
	return kcv
}

func (l *keyLab) sign(m *nodetest.Member, domain fsm.Domain, statement any) fsm.Signed {
	l.t.Helper()
	signed, err := fsm.SignStatement(m.SignerForTest(), domain, statement)
	if err != nil {
		l.t.Fatal(err)
	}
	return signed
}

func (l *keyLab) must(m *nodetest.Member, body fsm.Body) {
	l.t.Helper()
	if err := m.DoForTest(l.t.Context(), body); err != nil {
		l.t.Fatalf("%T: %v", body, err)
	}
}

// prove walks a create ceremony through the log.
func (l *keyLab) prove() {
	l.t.Helper()
	leader := l.Leader()
	row, _ := leader.View().Cluster()
	members := slices.SortedFunc(slices.Values(l.Members), func(a, b *nodetest.Member) int {
		x, y := a.ID(), b.ID()
		return bytes.Compare(x[:], y[:])
	})
	o := &fsm.Open{
		Format: fsm.OpenFormat, Cluster: row.ID, Incarnation: row.Incarnation, Kind: fsm.CeremonyCreate, Purpose: "test",
		Opener:  dkek.Holder{Node: leader.ID(), Fingerprint: leader.Fingerprint()},
		Expires: leader.Now().UnixMilli() + 3600_000, Govern: row.Operators.Ref(),
		Plan: &dkek.Plan{Cluster: row.ID, Epoch: row.Epoch + 1, Attempt: 1, Threshold: len(members)/2 + 1, Origin: dkek.Dealt},
	}
	rand.Read(o.Ceremony[:])
	if len(members) == 1 {
		o.Plan.Origin = dkek.Single
	}
	for _, m := range members {
		o.Plan.Holders = append(o.Plan.Holders, dkek.Holder{Node: m.ID(), Fingerprint: m.Fingerprint()})
	}
	o.Plan.Dealers = o.Plan.Holders
	for _, m := range members {
		public, _ := x509.MarshalPKIXPublicKey(m.SignerForTest().Public())
		key := make([]byte, 32)
		rand.Read(key)
		o.Recipients = append(o.Recipients, l.sign(m, fsm.DomainRecipient, &fsm.RecipientStatement{
			Cluster: o.Cluster, Incarnation: o.Incarnation, Ceremony: o.Ceremony, Epoch: o.Plan.Epoch, Attempt: o.Plan.Attempt,
			Node: dkek.Holder{Node: m.ID(), Fingerprint: m.Fingerprint()}, Public: public, DeviceKind: "soft", DeviceSerial: "test",
			Key: dkek.PublicKey{Suite: dkek.X25519(), Bytes: key},
		}))
	}
	open, err := fsm.SignOpen(leader.SignerForTest(), o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.must(leader, open)
	signature, err := fsm.SignMessage(l.Operators[0].Key, fsm.DomainApproval, open.Open)
	if err != nil {
		l.t.Fatal(err)
	}
	operator := l.Operators[0].Public().Fingerprint()
	l.must(leader, &fsm.CeremonyApprove{Ceremony: o.Ceremony, Approval: fsm.Approval{Operator: operator, Signature: signature}})
	for _, m := range members {
		dealt, err := dkek.Deal(o.Plan, m.ID(), nil)
		if err != nil {
			l.t.Fatal(err)
		}
		l.must(m, &fsm.DealingRecord{Signed: l.sign(m, fsm.DomainDealing, &fsm.DealingStatement{
			Cluster: o.Cluster, Ceremony: o.Ceremony, Plan: o.Plan.Hash(), Dealing: dealt.Public(),
		})})
		dealt.Wipe()
	}
	sharing, _ := leader.View().Sharing(o.Plan.Epoch, o.Plan.Attempt)
	for _, m := range members {
		l.must(m, &fsm.ShareAck{Signed: l.sign(m, fsm.DomainAck, &fsm.AckStatement{Cluster: o.Cluster, Ceremony: o.Ceremony, Sharing: sharing.Hash, Holder: m.ID()})})
	}
	quorums := dkek.ProofQuorums(o.Plan)
	for i, m := range members {
		l.must(m, &fsm.DeviceProof{Signed: l.sign(m, fsm.DomainReport, &fsm.ReportStatement{
			Cluster: o.Cluster, Ceremony: o.Ceremony, Sharing: sharing.Hash, Node: m.ID(), Quorum: quorums[i%len(quorums)], KCV: l.kcv(),
			DeviceKind: "soft", DeviceSerial: "test",
		})})
	}
	l.must(leader, &fsm.CeremonyClose{Signed: l.sign(leader, fsm.DomainClose, &fsm.CloseStatement{
		Cluster: o.Cluster, Ceremony: o.Ceremony, Node: leader.ID(), Outcome: fsm.OutcomeSuccess,
	})})
}

// create makes a key on a member.
func (l *keyLab) create(m *nodetest.Member, name string, keyType hsm.KeyType) *node.Key {
	l.t.Helper()
	key, err := m.CreateKey(l.t.Context(), node.KeySpec{Name: name, Type: keyType})
	if err != nil {
		l.t.Fatalf("create %s: %v", name, err)
	}
	return key
}

// objects lists what is really in a member's device.
func (l *keyLab) objects(m *nodetest.Member) []hsm.Object {
	l.t.Helper()
	pin := hsm.NewSecret([]byte(nodetest.PIN))
	if err := m.Device.Unwrapped().Login(l.t.Context(), pin); err != nil {
		l.t.Fatal(err)
	}
	objects, err := m.Device.Unwrapped().List(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return objects
}
