package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// deviceFault is a device that fails while a DKEK is put into it.
type deviceFault struct {
	op      hsmtest.Op
	skip    int
	flavour hsmtest.Flavour
	// least is how often the device is initialised then: again after any doubt.
	least int
}

func deviceFaults() []deviceFault {
	var all []deviceFault
	for _, flavour := range []hsmtest.Flavour{hsmtest.NotDone, hsmtest.DoneButFailed} {
		all = append(all,
			deviceFault{hsmtest.OpInitialise, 0, flavour, 2},
			deviceFault{hsmtest.OpImportShare, 0, flavour, 2},
			deviceFault{hsmtest.OpImportShare, 1, flavour, 2}, // the last of two
			deviceFault{hsmtest.OpDKEK, 0, flavour, 1},        // a question is no doubt; anybody may have asked it
		)
	}
	return all
}

func (d deviceFault) String() string {
	return fmt.Sprintf("%s %d %s", d.op, d.skip+1, map[hsmtest.Flavour]string{hsmtest.NotDone: "not done", hsmtest.DoneButFailed: "done"}[d.flavour])
}

// strike has a member's device fail so in a ceremony that is about to be approved.
// The device is logged in by then, so that the imports counted are those of shares.
func (d deviceFault) strike(t *testing.T, c *nodetest.Cluster, m *nodetest.Member, id fsm.CeremonyID) {
	t.Helper()
	point := "device initialised"
	if d.op == hsmtest.OpInitialise {
		point = "gathered"
	}
	there := pauseAt(m, point)
	c.Approve(id, 1)
	there.pass(c, func() {
		if d.op != hsmtest.OpInitialise {
			if err := m.Device.Login(t.Context(), secretOf(nodetest.PIN)); err != nil {
				t.Fatal(err)
			}
		}
		m.Device.Plan(hsmtest.Plan{Op: d.op, Skip: d.skip, Flavour: d.flavour})
	})
	c.Done(id)
}

// check wants the device to have failed as planned, to have been initialised again
// after doubt, and to have the DKEK of the sharing in force and no other.
func (d deviceFault) check(t *testing.T, c *nodetest.Cluster, m *nodetest.Member) {
	t.Helper()
	if left := m.Device.Pending(); left != 0 {
		t.Errorf("the device of %s did not fail", m.Name)
	}
	if times := m.Device.Calls(hsmtest.OpInitialise); times < d.least {
		t.Errorf("the device was initialised %d times, want at least %d", times, d.least)
	}
	row, ok := c.Leader().View().Proven()
	if kcv := deviceKCV(t, m); !ok || kcv != row.KCV {
		t.Errorf("the device has the DKEK %v, want %v", kcv, row.KCV)
	}
}

// A device that fails during a create is tried again, and in the end every device
// has the one DKEK.
func TestDeviceFailsInCreate(t *testing.T) {
	for _, fault := range deviceFaults() {
		t.Run(fault.String(), func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
				m := c.Follower()
				fault.strike(t, c, m, openCreate(t, c, c.Leader()))
				fault.check(t, c, m)
				provenEverywhere(t, c, 1)
				for _, other := range c.Members {
					if deviceKCV(t, other) != deviceKCV(t, m) {
						t.Errorf("%s has another DKEK", other.Name)
					}
				}
			})
		})
	}
}

// So is one that fails during a provision, and all keys come back in it.
func TestDeviceFailsInProvision(t *testing.T) {
	for _, fault := range deviceFaults() {
		t.Run(fault.String(), func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				makeKeys(t, c.Leader(), "k", 3)
				target := blankDevice(c, c.Follower())
				fault.strike(t, c, target, openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()}))
				if fault.op == hsmtest.OpImportShare && fault.skip == 1 && fault.flavour == hsmtest.DoneButFailed {
					fault.least = 1 // the device itself says that it has the DKEK: crash point 11
				}
				fault.check(t, c, target)
				c.Eventually("every key is back", func() bool {
					p := target.RestoreProgress()
					return p.Total == 3 && p.Done == 3 && p.Failed == 0
				})
			})
		})
	}
}

// A scratch device that fails in a drill gives way to another one. The drill does
// not touch the node's own device, and so does not need it.
func TestDeviceFailsInDrill(t *testing.T) {
	for _, fault := range deviceFaults() {
		t.Run(fault.String(), func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				makeKeys(t, c.Leader(), "k", 3)
				m := c.Follower()
				var scratch []*hsmtest.Faulty
				m.Scratch(func(blank hsm.Device) hsm.Device {
					d := hsmtest.Fault(blank)
					if len(scratch) < 2 {
						d.Plan(hsmtest.Plan{Op: fault.op, Skip: fault.skip, Flavour: fault.flavour})
					}
					scratch = append(scratch, d)
					return d
				})
				own := m.Device.Calls(hsmtest.OpInitialise) + m.Device.Calls(hsmtest.OpImportShare)
				opened, err := m.OpenDrill(t.Context(), node.CeremonyOptions{Node: m.ID(), Sample: 3})
				if err != nil {
					t.Fatal(err)
				}
				c.Approve(opened.ID, 1)
				row := ended(c, opened.ID)
				if row.Outcome != fsm.OutcomeSuccess || !strings.Contains(row.Detail, "3 of 3") {
					t.Errorf("it ended as %s: %s", row.Outcome, row.Detail)
				}
				if len(scratch) != 3 {
					t.Errorf("%d scratch devices were used, want two that fail and one that works", len(scratch))
				}
				for i, d := range scratch {
					if d.Pending() != 0 || i < 2 && d.Calls(hsmtest.OpUnwrap) > 0 {
						t.Errorf("scratch device %d did not fail, or was used after that", i)
					}
				}
				if now := m.Device.Calls(hsmtest.OpInitialise) + m.Device.Calls(hsmtest.OpImportShare); now != own {
					t.Error("a drill touched the node's own device")
				}
			})
		})
	}
}

// A device that goes on failing keeps a provision open, with its reason to be
// read, until it expires; and a ceremony after that, with a device that works,
// finishes.
func TestDeviceThatNeverTakesTheDKEK(t *testing.T) {
	for _, op := range []hsmtest.Op{hsmtest.OpInitialise, hsmtest.OpImportShare, hsmtest.OpDKEK} {
		t.Run(string(op), func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				makeKeys(t, c.Leader(), "k", 1)
				target := blankDevice(c, c.Follower())
				id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID(), Expires: 10 * time.Minute})
				target.Device.Plan(hsmtest.Plan{Op: op, Times: -1, Flavour: hsmtest.DoneButFailed})
				c.Approve(id, 1)
				c.Eventually("it says why", func() bool {
					info, err := target.Ceremony(t.Context(), id)
					return err == nil && strings.Contains(info.Trouble, hsmtest.ErrInjected.Error())
				})
				time.Sleep(10 * time.Minute)
				if row := ended(c, id); row.Outcome != fsm.OutcomeExpired {
					t.Errorf("it ended as %s: %s", row.Outcome, row.Detail)
				}
				target.Device.Heal()
				if op != hsmtest.OpDKEK { // which it has, and only could not say so
					id = openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
					c.Approve(id, 1)
					c.Done(id)
				}
				deviceFault{least: 2}.check(t, c, target)
				c.Eventually("the key is back", func() bool { return target.RestoreProgress().Done == 1 })
			})
		})
	}
}

// A device that can combine is given one partial after the other, at create and
// provision: its host never has their sum.
func TestTheDeviceCombines(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		target := blankDevice(c, c.Follower())
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID()})
		c.Approve(id, 1)
		c.Done(id)
		row, _ := c.Leader().View().Proven()
		for _, m := range c.Members {
			status, err := m.Device.DKEK(t.Context())
			imported := m.Device.Calls(hsmtest.OpImportShare) // one of them perhaps before it was logged in
			if err != nil || row.Plan.Threshold != 2 || status.Shares != 2 || imported < 2 || !m.Device.Capabilities().Combines {
				t.Errorf("%s: %d imports, %+v: want one for each of %d partials: %v", m.Name, imported, status, row.Plan.Threshold, err)
			}
		}
	})
}
