package node_test

import (
	"crypto/rand"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
	"github.com/keycustodian/keycustodian/transport"
)

// withClock starts a cluster whose member of that number has a wrong clock, and
// lets the members hear each other's.
func withClock(t *testing.T, wrong int, ahead time.Duration) *nodetest.Cluster {
	c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true, Now: func(member int) time.Time {
		if member == wrong {
			return time.Now().Add(ahead)
		}
		return time.Now()
	}})
	if !c.Members[0].Leads() {
		t.Fatal("the first member does not lead, so the log's time is not what this test wants")
	}
	time.Sleep(15 * time.Second)
	return c
}

// makeToken makes a token over a member's API, as nodectl does.
func makeToken(t *testing.T, c *nodetest.Cluster, at *nodetest.Member, seconds int64) *api.JoinToken {
	t.Helper()
	cluster, _ := at.View().Cluster()
	token := &api.JoinToken{Cluster: at.Cluster(), Address: at.Addr(), Fingerprint: at.Fingerprint(),
		Govern: cluster.Operators.Number, Operators: cluster.Operators.Digest()}
	rand.Read(token.Secret[:])
	fingerprint, err := transport.TokenFingerprint(token.Secret[:])
	if err != nil {
		t.Fatal(err)
	}
	read[api.Token](t, browse(t, c, c.Operators[0].Key).post(at, "/v1/tokens", api.TokenCreateRequest{Fingerprint: fingerprint.String(), ExpiresSeconds: seconds}))
	return token
}

// join has a new member join with a token that was just made.
func join(t *testing.T, c *nodetest.Cluster, at *nodetest.Member, seconds int64) {
	t.Helper()
	token := makeToken(t, c, at, seconds)
	m := c.NewMember()
	m.Start()
	if err := m.Join(t.Context(), token); err != nil {
		t.Fatalf("join: %v", err)
	}
	c.Eventually(m.Name+" votes", func() bool {
		row, ok := m.View().Member(m.ID())
		return ok && row.Voter
	})
}

// clockWarnings are the lines of a member's status about clocks.
func clockWarnings(t *testing.T, m *nodetest.Member) string {
	var lines []string
	for _, w := range m.StatusOnSocket(t.Context()).Warnings {
		if strings.Contains(w, "clock") {
			lines = append(lines, w)
		}
	}
	return strings.Join(lines, "\n")
}

// With the leader's clock wrong by hours everything works by its defaults, at every
// member, and every member's status names the clock that is wrong.
func TestTheLeadersClockIsWrong(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"an hour ahead": time.Hour, "two hours ahead": 2 * time.Hour, "an hour behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := withClock(t, 0, ahead)
				leader, honest := c.Members[0], c.Members[1]
				for _, m := range c.Members {
					said := clockWarnings(t, m)
					if !strings.Contains(said, "node-0's clock is "+ahead.Abs().String()+map[bool]string{true: " ahead of", false: " behind"}[ahead > 0]) ||
						strings.Contains(said, "node-1's") || strings.Contains(said, "node-2's") {
						t.Errorf("%s says: %s", m.Name, said)
					}
				}
				_, figure, _ := strings.Cut(string(browse(t, c, c.Operators[0].Key).get(leader, "/metrics").body), "\nkeycustodian_clock_ahead_seconds ")
				figure, _, _ = strings.Cut(figure, "\n")
				if seconds, err := strconv.ParseFloat(figure, 64); err != nil || math.Abs(seconds-ahead.Seconds()) > 1 {
					t.Errorf("the metrics say that it is %q ahead", figure)
				}
				join(t, c, honest, 0)
				join(t, c, leader, 0)

				opened, err := leader.OpenCreate(t.Context(), node.CeremonyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				c.Approve(opened.ID, 1)
				c.Done(opened.ID)
				target := blankDevice(c, c.Members[2])
				id := openProvision(t, honest, node.CeremonyOptions{Node: target.ID()})
				c.Approve(id, 1)
				c.Done(id)
				if opened, err = honest.OpenDrill(t.Context(), node.CeremonyOptions{Expires: fsm.MaxCeremonyTime}); err != nil {
					t.Fatal(err)
				}
				c.Approve(opened.ID, 1)
				c.Done(opened.ID)

				if _, err := honest.CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err != nil {
					t.Fatal(err)
				}
				if err := honest.DeleteKey(t.Context(), "k", time.Minute); err != nil {
					t.Fatal(err)
				}
				key, _ := honest.View().Key("k")
				time.Sleep(50 * time.Second)
				if v, _ := honest.View().Version(key.ID, 1); v.State != fsm.Pending {
					t.Errorf("before its time the version is %s", v.State)
				}
				time.Sleep(20 * time.Second)
				if v, _ := honest.View().Version(key.ID, 1); v.State != fsm.Destroyed {
					t.Errorf("after its time the version is %s", v.State)
				}
			})
		})
	}
}

// A short token counts from the leader's clock, also where nothing was committed
// for longer than it lasts.
func TestTokenAfterASilence(t *testing.T) {
	in(t, func(t *testing.T) {
		c := withClock(t, 0, 2*time.Hour)
		time.Sleep(5 * time.Minute)
		join(t, c, c.Members[1], 60)
	})
}

// A holder whose clock is ahead is named by every status, and its refusal says by
// whose time the ceremony is over.
func TestAHoldersClockIsWrong(t *testing.T) {
	in(t, func(t *testing.T) {
		c := withClock(t, 2, 2*time.Hour)
		opened, err := c.Members[1].OpenCreate(t.Context(), node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		time.Sleep(5 * time.Second)
		_, err = c.Members[1].Ask(t.Context(), c.Members[2].ID(), "share.deal", opened.ID)
		for _, part := range []string{"expired 1h0m", "by the clock of node-2", "by the log's time it has ", "node-2's clock is 2h0m0s ahead of", "set it"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("want %q in: %v", part, err)
			}
		}
		for _, m := range c.Members {
			if said := clockWarnings(t, m); !strings.Contains(said, "node-2's clock is 2h0m0s ahead of") || strings.Contains(said, "log's time") {
				t.Errorf("%s says: %s", m.Name, said)
			}
		}
	})
}

// Where a wrong clock led, the log's time stays ahead when it was set right, and
// status says until when; an expiry that it ended says so too.
func TestTheLogsTimeIsAhead(t *testing.T) {
	in(t, func(t *testing.T) {
		var ahead atomic.Int64
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true, Now: func(member int) time.Time {
			if member == 0 {
				return time.Now().Add(time.Duration(ahead.Load()))
			}
			return time.Now()
		}})
		time.Sleep(15 * time.Second)
		if said := clockWarnings(t, c.Members[1]); said != "" {
			t.Errorf("with all clocks right: %s", said)
		}
		opened, err := c.Members[1].OpenCreate(t.Context(), node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		token := makeToken(t, c, c.Members[1], 0)
		ahead.Store(int64(3 * time.Hour))
		time.Sleep(15 * time.Second)
		const why = "node-0's clock is 3h0m0s ahead of"
		if row := ended(c, opened.ID); row.Outcome != fsm.OutcomeExpired || !strings.Contains(row.Detail, why) {
			t.Errorf("what a wrong clock ended: %s: %s", row.Outcome, row.Detail)
		}
		late := c.NewMember()
		late.Start()
		if err := late.Join(t.Context(), token); err == nil || !strings.Contains(err.Error(), "has expired") || !strings.Contains(err.Error(), why) {
			t.Errorf("a token that a wrong clock ended: %v", err)
		}
		join(t, c, c.Members[1], 60)
		ahead.Store(0)
		time.Sleep(15 * time.Second)
		said := clockWarnings(t, c.Members[1])
		if !strings.HasPrefix(said, "the log's time is 2h59m") || strings.Contains(said, "node-0's") {
			t.Errorf("after it was set right: %s", said)
		}
	})
}

// Of two clocks nobody knows which is wrong.
func TestTwoClocksDiffer(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 2, nodetest.Options{Blank: true, Now: func(member int) time.Time {
			return time.Now().Add(time.Duration(member) * -time.Minute)
		}})
		time.Sleep(15 * time.Second)
		said := clockWarnings(t, c.Members[0])
		if !strings.Contains(said, "no majority of them agrees") || !strings.Contains(said, "node-0 0s, node-1 -1m0s") {
			t.Errorf("says: %s", said)
		}
	})
}
