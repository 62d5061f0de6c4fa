package node_test

import (
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// in runs a script on virtual time.
func in(t *testing.T, script func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, script)
}

// provenEverywhere wants every member to see the same proven sharing, to hold
// its share of it, and to have checked the proof.
func provenEverywhere(t *testing.T, c *nodetest.Cluster, epoch uint64) *fsm.SharingRow {
	t.Helper()
	leader := c.Leader()
	row, ok := leader.View().Proven()
	if !ok || row.Plan.Epoch != epoch {
		t.Fatalf("epoch %d is not in force: %v %+v", epoch, ok, row)
	}
	c.Eventually("every holder reports its share", func() bool {
		for _, h := range row.Plan.Holders {
			m, ok := leader.View().Member(h.Node)
			if !ok || m.Share == nil || !m.Share.OK || m.Share.Epoch != epoch {
				return false
			}
		}
		return true
	})
	return row
}

func deviceKCV(t *testing.T, m *nodetest.Member) dkek.KCV {
	t.Helper()
	status, err := m.Device.DKEK(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	return dkek.KCV(status.KCV)
}

func TestCreate(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true, Operators: 2, Approvals: 2})
		opened, err := c.Follower().OpenCreate(t.Context(), node.CeremonyOptions{Reason: "the first"})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 2)
		c.Done(opened.ID)
		row := provenEverywhere(t, c, 1)
		if row.Plan.Threshold != 2 || row.Plan.Origin != dkek.Dealt {
			t.Errorf("sharing: %+v", row.Plan)
		}
		for _, m := range c.Members {
			info, err := m.Device.Info(t.Context())
			if err != nil || info.State != hsm.Ready {
				t.Errorf("%s: device %s %v", m.Name, info.State, err)
			}
			if kcv := deviceKCV(t, m); kcv != row.KCV {
				t.Errorf("%s: KCV %v, want %v", m.Name, kcv, row.KCV)
			}
		}
	})
}
