package node_test

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// wordAbout is what an operator signs to have a member do something to its
// device.
func wordAbout(t *testing.T, m *nodetest.Member, act fsm.DeviceAct) *fsm.DeviceStatement {
	t.Helper()
	info, err := m.Device.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cluster, _ := m.View().Cluster()
	s := &fsm.DeviceStatement{
		Cluster: cluster.ID, Incarnation: cluster.Incarnation, Expires: time.Now().Add(15 * time.Minute).UnixMilli(),
		Node: m.ID(), DeviceKind: info.Kind, DeviceSerial: info.Serial, Act: act,
	}
	rand.Read(s.Request[:])
	return s
}

// signWord is such a word as nodectl sends it.
func signWord(t *testing.T, o *nodetest.Operator, s *fsm.DeviceStatement) api.OperatorWord {
	t.Helper()
	signed, err := fsm.SignStatement(o.Key, fsm.DomainDevice, s)
	if err != nil {
		t.Fatal(err)
	}
	return api.OperatorWord{Statement: signed.Statement, Operator: o.Public().Fingerprint().String(), Signature: signed.Signature}
}

// wipeRequest is a request to erase a member's device, signed by an operator.
func wipeRequest(t *testing.T, o *nodetest.Operator, m *nodetest.Member) api.WipeRequest {
	t.Helper()
	s := wordAbout(t, m, fsm.ActWipe)
	return api.WipeRequest{Node: m.Name, Serial: s.DeviceSerial, OperatorWord: signWord(t, o, s)}
}

// A member that passes on what no operator has signed for just this device, now
// and for the first time, changes nothing; nor does it matter what it leads the
// others to believe about who the operators are.
func TestForgedWordsAboutADevice(t *testing.T) {
	if underRace {
		t.Skip("forges the state of running nodes: see underRace")
	}
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 2, Approvals: 2})
		thief, victim := c.Leader(), c.Follower()
		operator, stranger := c.Operators[1], nodetest.NewOperator("stranger")
		for _, m := range c.Members {
			cluster, _ := m.View().Cluster()
			cluster.Operators.Operators = append(cluster.Operators.Operators, stranger.Public())
		}
		other := others(c, victim)[0]
		if other == thief {
			other = others(c, victim)[1]
		}
		plain := func(s *fsm.DeviceStatement) {}
		for name, forge := range map[string]struct {
			by     *nodetest.Operator
			domain fsm.Domain
			change func(s *fsm.DeviceStatement)
			want   fsm.Code
		}{
			"an operator whom only the log names": {stranger, fsm.DomainDevice, plain, fsm.NotAllowed},
			"a signature for something else":      {operator, fsm.DomainApproval, plain, fsm.NotAllowed},
			"another cluster":                     {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Cluster[0] ^= 1 }, fsm.Conflict},
			"another incarnation":                 {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Incarnation++ }, fsm.Conflict},
			"another node":                        {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Node = other.ID() }, fsm.Conflict},
			"another device":                      {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.DeviceSerial += "x" }, fsm.Conflict},
			"an object of another device":         {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Act, s.DeviceSerial = fsm.ActDelete, "x" }, fsm.Conflict},
			"a delete under a name":               {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Act, s.Name = fsm.ActDelete, "x" }, fsm.BadRequest},
			"a device of another kind":            {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.DeviceKind = "pkcs11" }, fsm.Conflict},
			"expired":                             {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Expires = time.Now().UnixMilli() }, fsm.Expired},
			"too long":                            {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Expires += time.Hour.Milliseconds() }, fsm.BadRequest},
			"an unknown act":                      {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Act = "format" }, fsm.BadRequest},
			"a wipe of a slot":                    {operator, fsm.DomainDevice, func(s *fsm.DeviceStatement) { s.Slot = 1 }, fsm.BadRequest},
		} {
			s := wordAbout(t, victim, fsm.ActWipe)
			forge.change(s)
			signed, err := fsm.SignStatement(forge.by.Key, forge.domain, s)
			if err != nil {
				t.Fatal(err)
			}
			by := fsm.Approval{Operator: forge.by.Public().Fingerprint(), Signature: signed.Signature}
			if err := thief.PassOn(t.Context(), victim.ID(), signed.Statement, by); !errors.Is(err, forge.want) {
				t.Errorf("%s: %v, want %s", name, err, forge.want)
			}
			if info, err := victim.Device.Info(t.Context()); err != nil || info.State != hsm.Ready {
				t.Fatalf("%s: the device is %s %v", name, info.State, err)
			}
		}
	})
}

// An operator's word counts once, also after a restart, until it has expired.
func TestWordAboutADeviceCountsOnce(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		b, front, victim := browse(t, c, c.Operators[0].Key), c.Leader(), c.Follower()
		request := wipeRequest(t, c.Operators[0], victim)
		read[api.Ack](t, b.post(front, "/v1/device/wipe", request))
		if info, err := victim.Device.Info(t.Context()); err != nil || info.State == hsm.Ready {
			t.Fatalf("the device was not wiped: %s %v", info.State, err)
		}
		id := openProvision(t, victim, node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		wantCode(t, b.post(front, "/v1/device/wipe", request), api.CodeExists)
		victim.Restart()
		c.Eventually("it is back", func() bool { return b.get(front, "/v1/device?node="+victim.Name).status == 200 })
		wantCode(t, b.post(front, "/v1/device/wipe", request), api.CodeExists)
		time.Sleep(20 * time.Minute)
		wantCode(t, b.post(front, "/v1/device/wipe", request), api.CodeExpired)
		if info, err := victim.Device.Info(t.Context()); err != nil || info.State != hsm.Ready {
			t.Errorf("the device is %s %v", info.State, err)
		}
		// What has expired is forgotten by the next word.
		read[api.Ack](t, b.post(front, "/v1/device/wipe", wipeRequest(t, c.Operators[0], victim)))
		wantCode(t, b.post(front, "/v1/device/wipe", request), api.CodeExpired)
	})
}

// A device is erased only while it could be filled again, or others have all that it
// has: here it is the only one, and then the share is damaged that would fill it.
func TestTheLastDeviceIsNotWipedWithoutShares(t *testing.T) {
	in(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m, b := l.Members[0], browse(t, l.Cluster, l.Operators[0].Key)
		l.create(m, "k", hsm.ECDSAP256)
		good := m.Config.Memory.Content("shares/1-1")
		restart := func(share []byte, ok bool) {
			m.Close()
			m.Config.Memory.SetContent("shares/1-1", share)
			m.Start()
			l.Leader()
			l.Eventually("its share is reported", func() bool {
				row, _ := m.View().Member(m.ID())
				return row.Share != nil && row.Share.OK == ok
			})
		}
		restart(good[:len(good)/2], false)
		wantCode(t, b.post(m, "/v1/device/wipe", wipeRequest(t, l.Operators[0], m)), api.CodeWrongState)
		l.signs(m, "k")

		restart(good, true)
		read[api.Ack](t, b.post(m, "/v1/device/wipe", wipeRequest(t, l.Operators[0], m)))
		l.provision(m)
		l.signs(m, "k")
	})
}

// An operator's own connection is not enough either: the state that says whose
// it is could be made up.
func TestDeviceWantsASignature(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 1)
		b, m := browse(t, c, c.Operators[0].Key), c.Members[0]
		s := wordAbout(t, m, fsm.ActWipe)
		wantCode(t, b.post(m, "/v1/device/wipe", api.WipeRequest{Node: m.Name, Serial: s.DeviceSerial}), api.CodeBadRequest)
		wantCode(t, b.post(m, "/v1/device/aside", api.AsideRequest{Node: m.Name}), api.CodeBadRequest)
	})
}
