package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

func makeKeys(t *testing.T, m *nodetest.Member, prefix string, count int) {
	t.Helper()
	for i := range count {
		if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: fmt.Sprintf("%s-%d", prefix, i), Type: hsm.ECDSAP256}); err != nil {
			t.Fatal(err)
		}
	}
}

// A data folder that was put back to a copy is refused before it votes or
// acknowledges anything, also where the copy is a handful of entries old, and
// whether the node followed or led. The others remember, also across a restart
// of their own.
func TestARolledBackFolderIsRefused(t *testing.T) {
	for _, role := range []string{"follower", "leader", "follower, and the others restarted"} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				m := c.Follower()
				if role == "leader" {
					m = c.Leader()
				}
				image := node.CopyMemory(t, m.Config.Memory)
				makeKeys(t, c.Leader(), "k", 5)
				time.Sleep(time.Second)
				m.Crash()
				others := slices.DeleteFunc(slices.Clone(c.Members), func(o *nodetest.Member) bool { return o == m })
				if strings.Contains(role, "restarted") {
					for _, o := range others {
						o.Restart()
					}
				}
				m.Config.Memory = image
				c.Network.Resume(m.Host)
				opened, err := node.Open(t.Context(), m.Config)
				var refused *node.RolledBackError
				if !errors.As(err, &refused) {
					if err == nil {
						opened.Close(t.Context())
					}
					t.Fatalf("started on an old copy: %v", err)
				}
				if !slices.ContainsFunc(others, func(o *nodetest.Member) bool { return o.Addr() == refused.Peer }) {
					t.Errorf("does not name who remembers: %+v", refused)
				}
				if last := c.Leader().LastLogIndex(); refused.Known <= refused.Last || refused.Known > last {
					t.Errorf("%+v, and the log is at %d", refused, last)
				}
			})
		})
	}
}

// A node that reaches nobody starts. What it had lost is not sent to it again before
// the sender has said what it had.
func TestARollbackIsNoticedAfterALonelyStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		m := c.Follower()
		image := node.CopyMemory(t, m.Config.Memory)
		makeKeys(t, c.Leader(), "k", 5)
		time.Sleep(time.Second)
		m.Crash()
		m.Config.Memory = image
		c.Network.Isolate(m.Host)
		m.Start()
		c.Network.HealAll()
		c.Eventually("it has stopped", func() bool { return m.Err() != nil })
		var rolledBack *node.RolledBackError
		if !errors.As(m.Err(), &rolledBack) {
			t.Errorf("it stopped for another reason: %v", m.Err())
		}
	})
}

// Often the leader alone remembers what a follower had. It is heard also where it
// answers last, or only after the start.
func TestOneMemberThatRemembersIsEnough(t *testing.T) {
	rollBack := func(t *testing.T) (*nodetest.Cluster, *nodetest.Member, *nodetest.Member) {
		c := nodetest.Start(t, 5)
		m, leader := c.Follower(), c.Leader()
		image := node.CopyMemory(t, m.Config.Memory)
		makeKeys(t, leader, "k", 2)
		time.Sleep(time.Second)
		m.Crash()
		m.Config.Memory = image
		c.Network.Resume(m.Host)
		return c, m, leader
	}
	t.Run("it answers last", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, m, leader := rollBack(t)
			c.Network.Delay(m.Host, leader.Host, 30*time.Millisecond)
			opened, err := node.Open(t.Context(), m.Config)
			var refused *node.RolledBackError
			if !errors.As(err, &refused) || refused.Peer != leader.Addr() {
				t.Errorf("started, or refused by another: %v", err)
			}
			if err == nil {
				opened.Close(t.Context())
			}
		})
	})
	t.Run("it is met after the start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, m, leader := rollBack(t)
			c.Network.Partition(m.Host, leader.Host)
			m.Start()
			c.Network.HealAll()
			c.Eventually("it has stopped", func() bool { return m.Err() != nil })
			var rolledBack *node.RolledBackError
			if !errors.As(m.Err(), &rolledBack) {
				t.Errorf("it stopped for another reason: %v", m.Err())
			}
		})
	})
}

// A member whose process is not running is not waited for to the end, where a
// majority of the others answers.
func TestAStartDoesNotWaitForWhoIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 5)
		down := c.Follower()
		down.Crash()
		m := c.Follower()
		m.Crash()
		began := time.Now()
		m.Start()
		if took := time.Since(began); took >= 2*time.Second {
			t.Errorf("it started after %v", took)
		}
		down.Start()
		time.Sleep(5 * time.Second)
		running(t, c)
	})
}

// A start asks, and is never refused for what was lawful.
func TestNoFalseAlarmOfARollback(t *testing.T) {
	t.Run("restarts under load", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 3)
			for round, m := range slices.Concat(c.Members, c.Members) {
				var load sync.WaitGroup
				c.Leader()
				for _, o := range c.Members {
					load.Go(func() {
						for i := range 5 { // what fails, fails
							_, _ = o.CreateKey(t.Context(), node.KeySpec{Name: fmt.Sprintf("%d-%s-%d", round, o.Name, i), Type: hsm.ECDSAP256})
						}
					})
					if o == m {
						load.Wait()
					}
				}
				m.Crash()
				load.Wait()
				m.Start()
			}
			time.Sleep(10 * time.Second)
			running(t, c)
		})
	})
	t.Run("an uncommitted tail is cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 5)
			time.Sleep(5 * time.Second)
			leader, follower := c.Leader(), c.Follower()
			before := leader.LastLogIndex()
			rest := slices.DeleteFunc(slices.Clone(c.Members), func(o *nodetest.Member) bool { return o == leader || o == follower })
			for _, o := range rest {
				c.Network.Partition(leader.Host, o.Host)
				c.Network.Partition(follower.Host, o.Host)
			}
			var proposals sync.WaitGroup
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for i := range 40 { // the follower has them as well
				proposals.Go(func() {
					body := &fsm.TokenCreate{Fingerprint: dkek.Fingerprint{byte(i + 1)}, Name: "lost", Expires: leader.Now().Add(time.Hour).UnixMilli()}
					_ = leader.ProposeAs(short, c.Operators[0].Public().Fingerprint(), body)
				})
			}
			proposals.Wait()
			c.Eventually("another leads", func() bool { return slices.ContainsFunc(rest, func(o *nodetest.Member) bool { return o.Leads() }) })
			tail := follower.LastLogIndex()
			follower.Crash()
			c.Network.HealAll()
			c.Eventually("the tail is cut", func() bool { return leader.LastLogIndex() < tail })
			follower.Start()
			t.Logf("committed up to about %d, tail up to %d, now at %d", before, tail, leader.LastLogIndex())
			time.Sleep(10 * time.Second)
			leader.Restart()
			follower.Restart()
			time.Sleep(10 * time.Second)
			running(t, c)
		})
	})
	t.Run("cold start of all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 3)
			makeKeys(t, c.Leader(), "k", 3)
			time.Sleep(2 * time.Second)
			for _, m := range c.Members {
				m.Crash()
			}
			began := time.Now()
			var starts sync.WaitGroup
			for _, m := range c.Members {
				starts.Go(m.Start)
			}
			starts.Wait()
			if took := time.Since(began); took >= 3*time.Second {
				t.Errorf("they waited for each other: %v", took)
			}
			c.Leader()
			time.Sleep(10 * time.Second)
			running(t, c)
		})
	})
	t.Run("without the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 3)
			makeKeys(t, c.Leader(), "k", 3)
			for _, m := range c.Members {
				m.Crash()
			}
			began := time.Now()
			c.Members[1].Start()
			if took := time.Since(began); took < 3*time.Second || took > 4*time.Second {
				t.Errorf("alone, it started after %v", took)
			}
			c.Members[2].Start()
			makeKeys(t, c.Leader(), "after", 1)
			c.Members[0].Start()
			time.Sleep(10 * time.Second)
			running(t, c)
		})
	})
	t.Run("the only member", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 1)
			began := time.Now()
			c.Members[0].Restart()
			if took := time.Since(began); took > time.Second {
				t.Errorf("it waited %v for nobody", took)
			}
			c.Leader()
			running(t, c)
		})
	})
}

func running(t *testing.T, c *nodetest.Cluster) {
	t.Helper()
	for _, m := range c.Members {
		if err := m.Err(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}
