package node_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// What is in a device and belongs to no key is kept until an operator decides:
// adopted it is a key with the same public half, deleted it is gone.
func TestAsideIsDecidedByAnOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		b, m := browse(t, c, c.Operators[0].Key), c.Members[1]
		var public ed25519.PublicKey
		for slot := hsm.Slot(100000); slot < 100002; slot++ {
			object, err := m.Device.Generate(t.Context(), slot, hsm.Ed25519, hsm.Attributes{Label: "stranger"})
			if err != nil {
				t.Fatal(err)
			}
			if public == nil {
				public = object.Public.(ed25519.PublicKey)
			}
		}
		m.Restart()
		aside := func() []api.AsideObject {
			r := b.get(c.Leader(), "/v1/device?node="+m.Name)
			return read[api.DeviceDetails](t, r).Aside
		}
		c.Eventually("both are kept aside", func() bool { return b.get(c.Leader(), "/v1/device?node="+m.Name).status == 200 && len(aside()) == 2 })
		time.Sleep(5 * time.Minute)
		if len(aside()) != 2 {
			t.Fatalf("aside: %+v", aside())
		}

		decide := func(act fsm.DeviceAct, slot uint32, name string) reply {
			s := wordAbout(t, m, act)
			s.Slot, s.Name = slot, name
			return b.post(c.Leader(), "/v1/device/aside", api.AsideRequest{Node: m.Name, OperatorWord: signWord(t, c.Operators[0], s)})
		}
		wantCode(t, decide(fsm.ActDelete, 7, ""), api.CodeNotFound)
		wantCode(t, decide(fsm.ActAdopt, 100000, ""), api.CodeBadRequest)
		read[api.Ack](t, decide(fsm.ActAdopt, 100000, "found"))
		read[api.Ack](t, decide(fsm.ActAdopt, 100000, "found")) // the answer was lost
		read[api.Ack](t, decide(fsm.ActDelete, 100001, ""))
		if left := aside(); len(left) != 0 {
			t.Errorf("still aside: %+v", left)
		}
		got := read[api.PublicKey](t, b.get(c.Leader(), "/v1/key/public?key=found"))
		parsed, err := x509.ParsePKIXPublicKey(got.Public)
		if err != nil || !public.Equal(parsed) {
			t.Errorf("the adopted key is another one: %v", err)
		}
		for _, member := range c.Members {
			c.Eventually(member.Name+" signs with it", func() bool { return signs(t.Context(), member, "found", public) })
		}
	})
}

func signs(ctx context.Context, m *nodetest.Member, name string, public ed25519.PublicKey) bool {
	used, err := m.UseKey(ctx, m.Self(), node.KeyUse{Key: name, Verb: fsm.Sign, Input: []byte("x")})
	return err == nil && ed25519.Verify(public, []byte("x"), used.Output)
}

// A device is wiped only by its serial and only where no key would be lost; then
// it waits for a provision.
func TestWipeLosesNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		b, m := browse(t, c, c.Operators[0].Key), c.Members[2]
		read[api.Key](t, b.post(m, "/v1/keys", api.KeyCreateRequest{Name: "kept", Type: "ecdsa-p256"}))
		wipe := func() reply {
			return b.post(c.Members[0], "/v1/device/wipe", wipeRequest(t, c.Operators[0], m))
		}
		if _, err := m.Device.Generate(t.Context(), 100000, hsm.Ed25519, hsm.Attributes{Label: "only here"}); err != nil {
			t.Fatal(err)
		}
		if r := wipe(); r.status == 200 {
			t.Fatal("a device with a key that is nowhere else was wiped")
		}
		if err := m.Device.Delete(t.Context(), 100000); err != nil {
			t.Fatal(err)
		}
		read[api.Ack](t, wipe())
		c.Eventually("it waits for a provision", func() bool {
			list := read[api.Devices](t, b.get(c.Leader(), "/v1/devices"))
			for _, d := range list.Devices {
				if d.Name == m.Name {
					return d.KCV == "" && d.Keys == 0
				}
			}
			return false
		})
		if key := read[api.Key](t, b.get(c.Leader(), "/v1/key?key=kept")); key.Versions[0].State != api.VersionEnabled {
			t.Errorf("%+v", key)
		}
	})
}
