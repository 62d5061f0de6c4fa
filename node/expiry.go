package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

// leaderMargin is what the leader's clock may differ from what this node makes of
// its last word.
const leaderMargin = time.Second

// expiryOf is when something that begins now and lasts for d is over, in the log's
// time. It counts from the latest of the times by which somebody may find it
// expired: the log's, which follows the leader's clock, this node's clock, and that
// of most members. The state refuses what lasts longer than most, by its own time.
func (n *Node) expiryOf(view *fsm.View, d, most time.Duration) int64 {
	c := n.face.clocks(view)
	logTime, known := time.UnixMilli(view.Time()), false
	for _, m := range c.at {
		if m.leads {
			known = true
			logTime = later(logTime, c.now.Add(m.ahead))
		}
	}
	end := later(later(c.now, logTime), c.now.Add(c.median)).Add(d)
	if limit := logTime.Add(most - leaderMargin); known && end.After(limit) {
		end = limit
	}
	return end.UnixMilli()
}

func later(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

// withClocks adds to an error about an expiry which clocks are wrong: whoever set
// the time that is over may have done so by one of them.
func (n *Node) withClocks(refused *fsm.Error) *fsm.Error {
	if refused.Code != fsm.Expired {
		return refused
	}
	wrong := n.wrongClocks()
	if wrong == "" {
		return refused
	}
	return &fsm.Error{Code: fsm.Expired, Message: refused.Message + ": " + wrong}
}

// refusal is withClocks after a look at them: one may have been set just now.
func (n *Node) refusal(ctx context.Context, refused *fsm.Error) error {
	if refused.Code == fsm.Expired {
		n.face.askMembers(ctx, n.view())
	}
	return n.withClocks(refused)
}

// wrongClocks says which clocks are wrong in one line; empty where none is.
func (n *Node) wrongClocks() string {
	clocks := n.face.clocks(n.view())
	return strings.Join(clocks.wrong(), "; ")
}

// expired says by whose time something is over: the log's, this node's own, or both.
func (n *Node) expired(view *fsm.View, what string, expires int64) error {
	late := func(now int64) time.Duration {
		return (time.Duration(now-expires) * time.Millisecond).Round(time.Second)
	}
	own, log := late(n.now().UnixMilli()), late(view.Time())
	said := fmt.Sprintf("%s expired %v ago by the clock of %s, and %v ago by the log's time", what, own, n.config.Name, log)
	switch {
	case log <= 0:
		said = fmt.Sprintf("%s expired %v ago by the clock of %s; by the log's time it has %v left", what, own, n.config.Name, -log)
	case own <= 0:
		said = fmt.Sprintf("%s expired %v ago by the log's time; by the clock of %s it has %v left", what, log, n.config.Name, -own)
	}
	return n.withClocks(&fsm.Error{Code: fsm.Expired, Message: said})
}
