package node_test

import (
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

const nextVersion = fsm.CommandVersion + 1

func upgrade(t *testing.T, m *nodetest.Member) {
	t.Helper()
	if err := m.ReadForTest(t.Context(), nextVersion); err != nil {
		t.Fatal(err)
	}
}

// stays wants the command version unchanged for a while.
func stays(t *testing.T, c *nodetest.Cluster, when string) {
	t.Helper()
	time.Sleep(time.Minute)
	if cluster, _ := c.Leader().View().Cluster(); cluster.Version != fsm.CommandVersion {
		t.Fatalf("%s the command version is %d", when, cluster.Version)
	}
}

// The leader raises the command version when the last member, voter or not, reads
// the next one, and is there to say so.
func TestTheVersionIsRaisedAfterTheLast(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		upgrade(t, c.Members[0])
		upgrade(t, c.Members[2])
		stays(t, c, "with one member that does not read it")
		status := c.Members[1].StatusOnSocket(t.Context())
		if status.CommandVersion != fsm.CommandVersion {
			t.Errorf("status says command version %d", status.CommandVersion)
		}
		for _, m := range status.Members {
			if want := map[bool]uint64{true: fsm.CommandVersion, false: nextVersion}[m.Name == "node-1"]; m.ReadsTo != want {
				t.Errorf("status says that %s reads to %d", m.Name, m.ReadsTo)
			}
		}

		// One that came up with the new build goes, and the old build is put back.
		c.Members[2].Crash()
		upgrade(t, c.Members[1])
		if s := c.Leader().StatusOnSocket(t.Context()); !reads(s, "node-1", nextVersion) || !reads(s, "node-2", nextVersion) {
			t.Fatal("not all have reported: this test shows nothing")
		}
		stays(t, c, "with a member that is away")
		c.Members[2].Start()
		c.Eventually("it says what it reads now", func() bool {
			return reads(c.Leader().StatusOnSocket(t.Context()), "node-2", fsm.CommandVersion)
		})
		stays(t, c, "with a member that was put back")

		upgrade(t, c.Members[2])
		raised := 0
		c.Eventually("the version is raised", func() bool {
			for _, m := range c.Members {
				if cluster, _ := m.View().Cluster(); cluster.Version == nextVersion {
					for r := range m.View().Audit(0) {
						if r.Action == "version raise" {
							raised++
						}
					}
					return true
				}
			}
			return false
		})
		if raised != 1 {
			t.Errorf("%d audit records of it", raised)
		}
	})
}

func reads(s api.Status, name string, version uint64) bool {
	for _, m := range s.Members {
		if m.Name == name {
			return m.ReadsTo == version
		}
	}
	return false
}

// A member that does not vote has to read what is written all the same.
func TestTheVersionWaitsForNonvoters(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		m := c.NewMember()
		m.Start()
		if err := m.Join(t.Context(), c.Token()); err != nil {
			t.Fatal(err)
		}
		id := m.ID()
		m.Crash()
		for _, m := range c.Members[:3] {
			upgrade(t, m)
		}
		stays(t, c, "with a non-voter that does not read it")
		if row, ok := c.Leader().View().Member(id); !ok || row.Voter {
			t.Errorf("the member that joined last votes, or is none: %+v", row)
		}
		c.Members = c.Members[:3]
		if err := c.Leader().ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), &fsm.MemberRemove{Node: id}); err != nil {
			t.Fatal(err)
		}
		c.Eventually("without it the version is raised", func() bool {
			for _, m := range c.Members {
				if cluster, _ := m.View().Cluster(); cluster.Version == nextVersion {
					return true
				}
			}
			return false
		})
	})
}
