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
	// Restored is how far its device is with the keys; nil before it is open.
	Restored *restored `cbor:"6,keyasint,omitempty"`
	// Stuck: it cannot write its log, and so takes part in no change.
	Stuck bool `cbor:"7,keyasint,omitempty"`
	// Clock is what its clock said when it answered, in Unix milliseconds.
	Clock int64 `cbor:"8,keyasint"`
	// ReadsTo is the newest command version that it reads.
	ReadsTo uint64 `cbor:"9,keyasint"`
}

// restored is api.Restored.
type restored struct {
	Total  int `cbor:"1,keyasint"`
	Done   int `cbor:"2,keyasint"`
	Failed int `cbor:"3,keyasint"`
}

// words are what the members said last. They decide nothing: they are shown.
type words struct {
	mu    sync.Mutex
	heard map[dkek.NodeID]heard
}

type heard struct {
	word  word
	at    time.Time     // of the last try
	lives bool          // it answered then
	ahead time.Duration // its clock, of this node's
}

// listenToMembers answers what other members ask for their status.
func (f *face) listenToMembers() {
	// Also for one that this node's state has yet to name: a node that cannot catch
	// up is to be able to say why.
	handleEarly(f.node, "node.word", func(context.Context, dkek.Fingerprint, struct{}) (word, error) { return f.node.word(), nil })
	answerMembers(f, methodDevice, f.node.deviceDetails)
	answerMembers(f, methodAct, f.node.acts.do)
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
	w := word{Stuck: n.diskTrouble() != nil, State: health.State, Missing: health.Missing, Version: buildVersion(), API: n.apiAddress(),
		Clock: n.now().UnixMilli(), ReadsTo: n.readsTo.Load()}
	if m := n.cluster.Load(); m != nil {
		w.Applied = m.log.AppliedIndex()
	}
	if n.upkeep != nil {
		p := n.RestoreProgress()
		w.Restored = &restored{p.Total, p.Done, p.Failed}
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
				asked, began := f.node.now(), time.Now()
				err := f.node.call(ctx, id, "node.word", struct{}{}, &w)
				f.words.note(id, w, clockAhead(w.Clock, asked, time.Since(began)), err == nil || answered(err))
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

func (w *words) note(id dkek.NodeID, said word, ahead time.Duration, lives bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heard == nil {
		w.heard = map[dkek.NodeID]heard{}
	}
	last := w.heard[id]
	last.at, last.lives = time.Now(), lives
	if lives {
		last.word, last.ahead = said, ahead
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

// takesPart tells whether a member counts where something is committed: it
// answers, and can write its log.
func (f *face) takesPart(id dkek.NodeID) bool { return f.reachable(id) && !f.said(id).Stuck }

// canCommit is false where so many voters said that they cannot write that no
// majority is left, although all may hear each other.
func (f *face) canCommit(view *fsm.View) bool {
	voters, stuck := 0, 0
	for m := range view.Members() {
		if m.Voter {
			voters++
			if f.said(m.ID).Stuck {
				stuck++
			}
		}
	}
	return stuck == 0 || voters-stuck > voters/2
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
