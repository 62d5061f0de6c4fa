package node

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

const (
	wordFor      = 300 * time.Millisecond // a word younger than this is not asked for again
	wordPatience = time.Second
)

// word is what a member says about itself to another one.
type word struct {
	State   string `cbor:"1,keyasint"` // of api.Health
	Version string `cbor:"2,keyasint"`
	API     string `cbor:"3,keyasint"` // where its API answers
	Applied uint64 `cbor:"4,keyasint"`
	Missing string `cbor:"5,keyasint,omitempty"` // of api.Health
}

// words are what the members said last. They decide nothing: they are shown.
type words struct {
	mu    sync.Mutex
	heard map[dkek.NodeID]heard
}

type heard struct {
	word  word
	at    time.Time // of the last try
	lives bool      // it answered then
}

// listenToMembers answers what other members ask for their status.
func (f *face) listenToMembers() {
	handle(f.node, "node.word", func(context.Context, *fsm.Member, struct{}) (word, error) { return f.node.word(), nil })
	answerMembers(f, methodDevice, f.node.deviceDetails)
	answerMembers(f, methodAside, f.node.asideForMember)
	answerMembers(f, methodWipe, f.node.wipeForMember)
}

// answerMembers answers what a member was asked over its API and this node has to
// do. An error keeps the code that the API has for it.
func answerMembers[Q, A any](f *face, method string, answer func(ctx context.Context, q Q) (A, error)) {
	handle(f.node, method, func(ctx context.Context, _ *fsm.Member, q Q) (A, error) {
		a, err := answer(ctx, q)
		if err != nil {
			said := f.explain(err)
			err = &peerError{code: string(said.Code), text: said.Message}
		}
		return a, err
	})
}

func (n *Node) word() word {
	health := n.health()
	w := word{State: health.State, Missing: health.Missing, Version: buildVersion(), API: n.apiAddress()}
	if m := n.cluster.Load(); m != nil {
		w.Applied = m.log.AppliedIndex()
	}
	return w
}

// apiAddress is where this node's API answers.
func (n *Node) apiAddress() string {
	if n.config.APIListen != "" {
		return n.config.APIListen
	}
	return n.config.Advertise
}

// buildVersion is what the build recorded about the program.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// ask asks all members that were not asked lately, and waits a moment.
func (f *face) askMembers(ctx context.Context, view *fsm.View) {
	ctx, cancel := context.WithTimeout(ctx, wordPatience)
	defer cancel()
	var asking sync.WaitGroup
	for m := range view.Members() {
		if id := m.ID; id != f.node.id && f.words.old(id) {
			asking.Go(func() {
				var w word
				err := f.node.call(ctx, id, "node.word", struct{}{}, &w)
				f.words.note(id, w, err == nil || answered(err))
			})
		}
	}
	asking.Wait()
}

// answered tells whether an error is a member's answer: one that has yet to catch
// up knows nobody.
func answered(err error) bool {
	var said *peerError
	return errors.As(err, &said)
}

func (w *words) old(id dkek.NodeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, ok := w.heard[id]
	return !ok || time.Since(last.at) > wordFor
}

func (w *words) note(id dkek.NodeID, said word, lives bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heard == nil {
		w.heard = map[dkek.NodeID]heard{}
	}
	last := w.heard[id]
	last.at, last.lives = time.Now(), lives
	if lives {
		last.word = said
	}
	w.heard[id] = last
}

func (w *words) last(id dkek.NodeID) heard {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heard[id]
}

// said is what a member said about itself last.
func (f *face) said(id dkek.NodeID) word {
	if id == f.node.id {
		return f.node.word()
	}
	return f.words.last(id).word
}

// reachable tells whether a member answered when it was last asked, and before
// it was ever asked what gossip believes.
func (f *face) reachable(id dkek.NodeID) bool {
	if id == f.node.id {
		return true
	}
	if last := f.words.last(id); !last.at.IsZero() {
		return last.lives
	}
	return f.node.neighbours.answers(id)
}
