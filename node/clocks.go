package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

const (
	// clocksEvery is how often a node asks the others for their clocks.
	clocksEvery = 10 * time.Second
	// clocksApart is how far a clock may be from the others' before anybody is
	// told: far more than an answer takes, far less than what expires.
	clocksApart = 10 * time.Second
	// clockLimit bounds what a member can say about its clock, so that sums of
	// times stay times.
	clockLimit = 100 * 365 * 24 * time.Hour
)

// memberClock is a member's clock, as far as it is ahead of this node's.
type memberClock struct {
	name  string
	leads bool
	ahead time.Duration
}

// clocks are those of the members that answer. They decide nothing but what an
// expiry counts from: holders go by the log's time and their own clock.
type clocks struct {
	at     []memberClock // by name, this node's among them
	now    time.Time     // by this node's clock
	median time.Duration // ahead of this node's clock
	agree  bool          // more than half of them are near the median
	log    time.Duration // the log's time, ahead of the median
}

// compareClocks keeps asking, so that what is opened between two looks at the
// status counts from the right time.
func (n *Node) compareClocks() {
	n.run(func(ctx context.Context) {
		ticker := time.NewTicker(clocksEvery)
		defer ticker.Stop()
		for {
			n.face.askMembers(ctx, n.view())
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
}

// clockAhead is how far a clock that was asked is ahead of this node's: half of
// the round trip is taken for the way back.
func clockAhead(said int64, asked time.Time, trip time.Duration) time.Duration {
	ahead := time.UnixMilli(said).Sub(asked.Add(trip / 2))
	return min(max(ahead, -clockLimit), clockLimit)
}

// clocks are the members' clocks as last heard.
func (f *face) clocks(view *fsm.View) clocks {
	c := clocks{now: f.node.now()}
	leader := ""
	if m := f.node.cluster.Load(); m != nil {
		if peer, ok := m.log.Leader(); ok {
			leader = peer.ID
		}
	}
	for _, m := range byName(view) {
		clock := memberClock{name: m.Name, leads: m.ID.String() == leader}
		if m.ID != f.node.id {
			last := f.words.last(m.ID)
			if !last.lives || last.word.Clock == 0 {
				continue
			}
			clock.ahead = last.ahead
		}
		c.at = append(c.at, clock)
	}
	c.compare(view.Time())
	return c
}

func (c *clocks) compare(logTime int64) {
	if len(c.at) == 0 {
		c.at = []memberClock{{}} // no member yet: its own clock alone
	}
	byTime := slices.SortedFunc(slices.Values(c.at), func(x, y memberClock) int { return cmp.Compare(x.ahead, y.ahead) })
	half := len(byTime) / 2
	c.median = byTime[half].ahead
	if len(byTime)%2 == 0 {
		c.median = (byTime[half-1].ahead + byTime[half].ahead) / 2
	}
	near := 0
	for _, m := range c.at {
		if c.off(m).Abs() <= clocksApart {
			near++
		}
	}
	c.agree = near > len(c.at)/2
	if logTime != 0 {
		c.log = time.UnixMilli(logTime).Sub(c.now.Add(c.median))
	}
}

// off is how far a clock is ahead of the median.
func (c *clocks) off(m memberClock) time.Duration { return m.ahead - c.median }

// offSeconds is off of a member by its name, or nil.
func (c *clocks) offSeconds(name string) *float64 {
	for _, m := range c.at {
		if m.name == name {
			seconds := c.off(m).Seconds()
			return &seconds
		}
	}
	return nil
}

// wrong says which clocks are wrong, by how much, and what to do about it.
func (c *clocks) wrong() []string {
	var said, spread []string
	leads := time.Duration(0) // how far the leader's clock takes the log's time
	for _, m := range c.at {
		if m.leads {
			leads = max(c.off(m), 0)
		}
		spread = append(spread, m.name+" "+signed(m.ahead))
		if off := c.off(m); c.agree && off.Abs() > clocksApart {
			follows := ""
			if m.leads {
				follows = ", and it leads, so that the log's time follows it"
			}
			said = append(said, fmt.Sprintf("%s's clock is %s most members' clocks%s: set it, and see on %s why its time synchronisation does not (timedatectl)", m.name, apart(off), follows, m.name))
		}
	}
	if !c.agree {
		said = append(said, fmt.Sprintf("the members' clocks differ, and no majority of them agrees (by that of the node that answers: %s): set the wrong ones, and see why their time synchronisation does not (timedatectl)", strings.Join(spread, ", ")))
	}
	if c.log-leads > clocksApart {
		until := c.now.Add(c.median + c.log).UTC().Format(time.RFC3339)
		said = append(said, fmt.Sprintf("the log's time is %s most members' clocks, and never goes back: until these reach it, at %s, what is opened now lasts that much longer (docs/operations.md, Clocks)", apart(c.log), until))
	}
	return said
}

// apart is a difference in words: "1h0m0s ahead of", "20s behind".
func apart(d time.Duration) string {
	if d < 0 {
		return (-d).Round(time.Second).String() + " behind"
	}
	return d.Round(time.Second).String() + " ahead of"
}

func signed(d time.Duration) string {
	if d = d.Round(time.Second); d > 0 {
		return "+" + d.String()
	}
	return d.String()
}
