package node_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A share that is damaged on disk is found at the start, reported, kept, left out
// of the next quorum, and healed by a reshare.
func TestDamagedShare(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		victim := c.Follower()
		victim.Crash()
		content := victim.Config.Memory.Content("shares/1-1")
		damaged := bytes.Clone(content)
		damaged[len(damaged)/2] ^= 1
		victim.Config.Memory.SetContent("shares/1-1", damaged)
		victim.Start()
		c.Eventually("the damage is reported", func() bool {
			m, _ := c.Leader().View().Member(victim.ID())
			return m.Share != nil && !m.Share.OK && strings.Contains(m.Share.Text, "reshare")
		})
		if !bytes.Equal(victim.Config.Memory.Content("shares/1-1"), damaged) {
			t.Error("the damaged share was touched")
		}
		if status := victim.Shares(); len(status) != 1 || status[0].Err == nil || !status[0].Proven {
			t.Errorf("status: %+v", status)
		}
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		info, _ := c.Leader().Ceremony(t.Context(), id)
		if info.Terms.Plan.DealerIndex(victim.ID()) >= 0 {
			t.Error("a node with a damaged share was to deal it")
		}
		c.Approve(id, 1)
		c.Done(id)
		onlyShares(c, provenEverywhere(t, c, 2))
	})
}

// A provision wants t readable shares, and says who has none.
func TestTooFewShares(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		target := blankDevice(c, c.Members[2])
		for _, m := range c.Members[:2] {
			m.Config.Memory.SetContent("shares/1-1", []byte("KCSHARE\nnot any more"))
		}
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
		c.Approve(id, 1)
		c.Eventually("it says who", func() bool {
			info, err := target.Ceremony(t.Context(), id)
			return err == nil && strings.Contains(info.Trouble, c.Members[0].Name) && strings.Contains(info.Trouble, c.Members[1].Name)
		})
		if info, err := target.Device.Info(t.Context()); err != nil || info.State != hsm.Blank {
			t.Errorf("the device was initialised without t good shares: %s %v", info.State, err)
		}
	})
}

// A device with a key that is nowhere else is not initialised.
func TestDeviceWithUnknownKey(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m := c.Members[0]
		pin, soPIN := hsm.NewSecret([]byte(nodetest.PIN)), hsm.NewSecret([]byte(nodetest.SOPIN))
		device := m.Device.Unwrapped()
		if err := device.Initialise(t.Context(), hsm.InitOptions{PIN: pin, SOPIN: soPIN, Shares: 1}); err != nil {
			t.Fatal(err)
		}
		if err := device.Login(t.Context(), pin); err != nil {
			t.Fatal(err)
		}
		if _, err := device.ImportShare(t.Context(), secret.Random(hsm.ShareSize)); err != nil {
			t.Fatal(err)
		}
		if _, err := device.Generate(t.Context(), 3, hsm.ECDSAP256, hsm.Attributes{Label: "precious"}); err != nil {
			t.Fatal(err)
		}
		id := openCreate(t, c, m)
		c.Approve(id, 1)
		if row := ended(c, id); row.Outcome != fsm.OutcomeFailed || !strings.Contains(row.Detail, "precious") {
			t.Errorf("it ended as %s: %s", row.Outcome, row.Detail)
		}
		if objects, err := device.List(t.Context()); err != nil || len(objects) != 1 {
			t.Errorf("the key is gone: %v %v", objects, err)
		}
		if err := device.Delete(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		c.CreateDKEK()
	})
}
