package dkek

import (
	"sync"
)

// Gather collects releases for one requester until t are good. It keeps them
// sealed, and opens one at a time. Safe for concurrent use.
type Gather struct {
	hidden
	sharing *Sharing
	key     *RecipientKey

	mu       sync.Mutex
	releases map[NodeID]release
	order    []NodeID // as they came: good ones only
}

// release is one good release: sealed, or the requester's own bundle.
type release struct {
	sealed Sealed
	info   []byte
	own    *Bundle
}

// NewGather starts to collect releases that are sealed to key, which stays the
// caller's to wipe. The sharing must not change meanwhile.
func NewGather(sharing *Sharing, key *RecipientKey) (*Gather, error) {
	if err := sharing.Validate(); err != nil {
		return nil, err
	}
	return &Gather{sharing: sharing, key: key, releases: make(map[NodeID]release)}, nil
}

// Add opens a release, checks all of it, wipes what it opened and keeps the
// ciphertext. A refused release changes nothing: the error names who lies, and
// that holder may send a better one.
func (g *Gather) Add(holder NodeID, sealed Sealed, info []byte) error {
	bundle, err := OpenRelease(g.key, sealed, info, g.sharing, holder)
	if err != nil {
		return err
	}
	bundle.Wipe()
	return g.keep(holder, release{sealed: sealed, info: append([]byte(nil), info...)})
}

// AddOwn lets the requester's own share be one of the t. The bundle stays the
// caller's and must not be wiped while this Gather is used.
func (g *Gather) AddOwn(bundle *Bundle) error {
	if err := bundle.Check(g.sharing); err != nil {
		return err
	}
	return g.keep(bundle.holder, release{own: bundle})
}

func (g *Gather) keep(holder NodeID, r release) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, twice := g.releases[holder]; twice {
		return &ShareError{Op: "gather", Holder: holder, Reason: Duplicate}
	}
	g.releases[holder] = r
	g.order = append(g.order, holder)
	return nil
}

// Good returns the holders whose releases are good, in the order they came.
func (g *Gather) Good() []NodeID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]NodeID(nil), g.order...)
}

// Quorum returns the first t good holders, the same at every call, or an error
// that is [TooFew].
func (g *Gather) Quorum() ([]NodeID, error) {
	good, t := g.Good(), g.sharing.Plan.Threshold
	if len(good) < t {
		return nil, tooFew("gather", len(good), t)
	}
	return good[:t], nil
}

// Partial opens the holder's release again and scales it for the quorum: the
// one of [Gather.Quorum], or any other of t good holders. Take one partial at a
// time, import it, wipe it.
func (g *Gather) Partial(quorum []NodeID, holder NodeID) (*Secret, error) {
	g.mu.Lock()
	r, good := g.releases[holder]
	g.mu.Unlock()
	if !good {
		return nil, &ShareError{Op: "gather", Holder: holder, Reason: NotHolder, Detail: "nothing good came from it"}
	}
	if r.own != nil {
		return Partial(g.sharing, quorum, r.own)
	}
	bundle, err := OpenRelease(g.key, r.sealed, r.info, g.sharing, holder)
	if err != nil {
		return nil, err
	}
	defer bundle.Wipe()
	return Partial(g.sharing, quorum, bundle)
}
