package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

const (
	ceremonyTick    = time.Second      // how often an open ceremony is looked at, beside every change
	maxStepPause    = 30 * time.Second // between tries of a step that fails
	stepPatience    = 10 * time.Second // for one question to one node
	catchUpPatience = 2 * time.Second  // for a holder's state to come as far as the recipient's
	preparedFor     = 10 * time.Minute // how long an entry waits for its Open
	maxPrepared     = 64               // entries that wait for their Open
	expiryGrace     = 30 * time.Second // that others than the leader leave it to close what expired
	defaultOpenFor  = time.Hour
)

// ceremonyRoom opens ceremonies, runs this node's part of each, and checks what
// is asked of this node as a holder.
type ceremonyRoom struct {
	node *Node
	// reached, where a test has set it, is told at the instants of DESIGN.md's
	// table of crash points; an error ends the step there.
	reached atomic.Pointer[func(ctx context.Context, point string) error]
	// scratch makes a blank device in memory.
	scratch func() hsm.Device

	mu      sync.Mutex
	keys    map[fsm.CeremonyID]*recipientKey
	dealt   map[fsm.CeremonyID]*dkek.SubShares
	runners map[fsm.CeremonyID]*runner
}

// recipientKey is what this node can open shares with in one ceremony. It lives
// in memory only.
type recipientKey struct {
	key   *dkek.RecipientKey
	entry fsm.Signed
	node  dkek.Holder // as entry names this node
	made  time.Time
}

func newCeremonyRoom(n *Node) *ceremonyRoom {
	return &ceremonyRoom{
		node: n, keys: make(map[fsm.CeremonyID]*recipientKey), dealt: make(map[fsm.CeremonyID]*dkek.SubShares),
		runners: make(map[fsm.CeremonyID]*runner),
		scratch: func() hsm.Device { return soft.NewMemory(soft.Options{}) },
	}
}

func (c *ceremonyRoom) start() {
	handle(c.node, methodPrepare, c.answerPrepare)
	handle(c.node, methodShareState, c.answerShareState)
	handle(c.node, methodDeal, c.answerDeal)
	handle(c.node, methodRelease, c.answerRelease)
	c.patch()
	changed := c.node.watch(fsm.TableCeremonies, fsm.TableSharings, fsm.TableGoverns, fsm.TableMembers)
	c.node.run(func(ctx context.Context) { c.watch(ctx, changed) })
}

// watch gives every open ceremony a runner and wakes it at every change.
func (c *ceremonyRoom) watch(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			c.forgetAll()
			return
		case <-changed:
		}
		view := c.node.view()
		for row := range view.Ceremonies() {
			if row.Outcome == fsm.OutcomeOpen || c.successorDue(view, row) {
				c.runner(row.ID).wake()
			}
		}
		c.forgetUnopened(view)
	}
}

// runner returns the ceremony's runner, and starts one where there is none.
func (c *ceremonyRoom) runner(id fsm.CeremonyID) *runner {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.runners[id]
	if r == nil {
		r = &runner{room: c, node: c.node, id: id, woken: make(chan struct{}, 1)}
		c.runners[id] = r
		c.node.run(r.run)
	}
	return r
}

// end forgets everything of a ceremony that is over.
func (c *ceremonyRoom) end(id fsm.CeremonyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.runners, id)
	c.forget(id)
}

func (c *ceremonyRoom) forget(id fsm.CeremonyID) {
	if k := c.keys[id]; k != nil {
		k.key.Wipe()
		delete(c.keys, id)
	}
	if d := c.dealt[id]; d != nil {
		d.Wipe()
		delete(c.dealt, id)
	}
}

func (c *ceremonyRoom) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.keys {
		c.forget(id)
	}
	for id := range c.dealt {
		c.forget(id)
	}
}

// forgetUnopened drops keys that were made for a ceremony that nobody opened.
func (c *ceremonyRoom) forgetUnopened(view *fsm.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, k := range c.keys {
		if _, opened := view.Ceremony(id); !opened && c.node.now().Sub(k.made) > preparedFor {
			c.forget(id)
		}
	}
}

func (c *ceremonyRoom) key(id fsm.CeremonyID) *dkek.RecipientKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.keys[id]; k != nil {
		return k.key
	}
	return nil
}

func (c *ceremonyRoom) dealtBy(id fsm.CeremonyID) *dkek.SubShares {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dealt[id]
}

// at tells a test that an instant of the crash table was reached.
func (c *ceremonyRoom) at(ctx context.Context, point string) error {
	reach(point)
	if reached := c.reached.Load(); reached != nil {
		return (*reached)(ctx, point)
	}
	return nil
}

// ErrLost: a key or a dealt secret that a ceremony needs was in the memory of a
// process that is gone.
var ErrLost = errors.New("node: a node of this ceremony was restarted and has lost its key for it: open the ceremony again")

// failure ends a ceremony: trying again would not help.
type failure struct{ detail string }

func (f *failure) Error() string { return "node: ceremony: " + f.detail }

func hashOf(domain string, content []byte) dkek.Hash {
	return sha256.Sum256(append([]byte(domain+"\x00"), content...))
}
