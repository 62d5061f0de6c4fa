package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

const (
	// proposeTime bounds the commit of a key whose caller set no deadline.
	proposeTime = 30 * time.Second
	// maxKeyPage is the longest page of keys.
	maxKeyPage = 1000
)

// keyRoom makes keys and uses them. It touches a slot only while it has it
// pinned or taken.
type keyRoom struct {
	node    *Node
	contact contact
	uses    useLog
	pairs   chan struct{} // one creation at a time waits for its two slots

	mu     sync.Mutex
	flight map[fsm.RequestID]*flight  // creations under way: their objects are not orphans
	made   map[fsm.RequestID]struct{} // begun by this process, and not committed as far as it knows
}

// flight is one creation under way.
type flight struct {
	ended    chan struct{} // closed when it has ended
	arriving bool          // the state may have the key before the slot table does
}

func newKeyRoom(n *Node) (*keyRoom, error) {
	r := &keyRoom{node: n, uses: useLog{node: n}, pairs: make(chan struct{}, 1), flight: make(map[fsm.RequestID]*flight), made: make(map[fsm.RequestID]struct{})}
	r.contact.begin()
	return r, nil
}

func (r *keyRoom) start() {
	handle(r.node, methodUse, r.answerUse)
	r.node.run(r.keepContact)
	r.node.run(r.uses.keep)
}

// inFlight tells whether this process is making a key for the request.
func (r *keyRoom) inFlight(request fsm.RequestID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.flight[request]
	return ok
}

// takeOff begins a creation. Where the same request is under way already, its
// caller having hung up and come back, it waits for that one's end.
func (r *keyRoom) takeOff(ctx context.Context, request fsm.RequestID) error {
	for {
		r.mu.Lock()
		first, busy := r.flight[request]
		if !busy {
			r.flight[request] = &flight{ended: make(chan struct{})}
		}
		r.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-first.ended:
		case <-ctx.Done():
			return &OutcomeUnknownError{request, fmt.Errorf("the same request is still under way: %w", context.Cause(ctx))}
		}
	}
}

// begun and settled keep which objects without a key this process itself made.
// arrives says whether a creation's object is about to become its key's residence:
// upkeep then does not load the key from its blob beside it.
func (r *keyRoom) arrives(request fsm.RequestID, arriving bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flight[request].arriving = arriving
}

func (r *keyRoom) isArriving(request fsm.RequestID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.flight[request]
	return f != nil && f.arriving
}

func (r *keyRoom) begun(request fsm.RequestID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made[request] = struct{}{}
}

func (r *keyRoom) settled(request fsm.RequestID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.made, request)
}

func (r *keyRoom) isOwn(request fsm.RequestID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.made[request]
	return ok
}

func (r *keyRoom) landed(request fsm.RequestID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.flight[request].ended)
	delete(r.flight, request)
}

// KeySpec says what key to make.
type KeySpec struct {
	// Name, [a-z0-9][a-z0-9._/-]{0,127}; never used before.
	Name string
	Type hsm.KeyType
	// Usage restricts the key; 0 is all that its type can do.
	Usage fsm.Verbs
	// Labels for people and filters.
	Labels map[string]string
	// Copies is how many devices hold the key before it is acknowledged; 0 is
	// the cluster's policy.
	Copies int
	// Clients, where there are any, are the only ones who may use the key, in
	// the device of the node that they speak to: no node takes another's word
	// for who they are.
	Clients []dkek.Fingerprint
	// Legacy permits weak types, SHA-1 and MD5.
	Legacy bool
	// RequestID makes a repetition harmless: give the same one again after an
	// [OutcomeUnknownError]. Zero draws a new one.
	RequestID fsm.RequestID
}

// KeyInfo is a key as the state shows it.
type KeyInfo struct {
	ID       fsm.KeyID
	Name     string
	Type     hsm.KeyType
	Usage    fsm.Verbs
	Labels   map[string]string
	Copies   int // devices that must hold a version before it is acknowledged
	Clients  []dkek.Fingerprint
	Legacy   bool
	Created  time.Time // by the log's time
	Newest   uint64
	Versions []VersionInfo // the oldest first
}

// VersionInfo is one version of a key.
type VersionInfo struct {
	Number      uint64 // from 1
	State       fsm.VersionState
	Public      []byte // DER SubjectPublicKeyInfo; nil for AES
	Created     time.Time
	DeleteAfter time.Time     // zero unless its deletion is pending
	HeldBy      []dkek.NodeID // nodes whose devices hold it
	Awaiting    []dkek.NodeID // nodes whose devices have yet to confirm its destruction
	Except      []dkek.NodeID // nodes that never will, at an operator's word
	KCV         dkek.KCV      // of the DKEK that wraps its blob
}

// OutcomeUnknownError says that a key may have been made, or may still be made
// durable as it should: repeat the same request under the same ID, until it is
// answered. A key for which nobody does is either whole or given up.
type OutcomeUnknownError struct {
	Request fsm.RequestID
	Cause   error
}

func (e *OutcomeUnknownError) Error() string {
	return fmt.Sprintf("node: outcome unknown, retry with request ID %s: %v", e.Request, e.Cause)
}

// Unwrap makes it an [ErrOutcomeUnknown].
func (e *OutcomeUnknownError) Unwrap() []error { return []error{ErrOutcomeUnknown, e.Cause} }

// badRequest refuses what no node would accept.
func badRequest(format string, args ...any) error {
	return &fsm.Error{Code: fsm.BadRequest, Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &fsm.Error{Code: fsm.NotFound, Message: fmt.Sprintf(format, args...)}
}

// splitVersion reads NAME or NAME@VERSION; version 0 is the newest.
func splitVersion(ref string) (name string, version uint64, err error) {
	name, number, pinned := strings.Cut(ref, "@")
	if !pinned {
		return name, 0, nil
	}
	for _, c := range []byte(number) {
		if c < '0' || c > '9' || len(number) > 6 {
			number = ""
		}
	}
	for _, c := range []byte(number) {
		version = version*10 + uint64(c-'0')
	}
	if version == 0 {
		return "", 0, badRequest("key %.140q: want NAME or NAME@VERSION", ref)
	}
	return name, version, nil
}

// find looks a key and one of its versions up.
func findVersion(view *fsm.View, ref string) (*fsm.Key, *fsm.Version, error) {
	name, number, err := splitVersion(ref)
	if err != nil {
		return nil, nil, err
	}
	key, ok := view.Key(name)
	if !ok {
		if err := fsm.CheckKeyName(name); err != nil {
			return nil, nil, err
		}
		return nil, nil, notFound("there is no key %s", name)
	}
	if number == 0 {
		number = key.Newest
	}
	version, err := versionOf(view, key, number)
	return key, version, err
}

func versionOf(view *fsm.View, key *fsm.Key, number uint64) (*fsm.Version, error) {
	if version, ok := view.Version(key.ID, number); ok {
		return version, nil
	}
	return nil, notFound("key %s has no version %d: the newest is %d", key.Name, number, key.Newest)
}

func keyInfo(view *fsm.View, key *fsm.Key) KeyInfo {
	info := KeyInfo{
		ID: key.ID, Name: key.Name, Type: key.Type, Usage: key.Usage, Labels: make(map[string]string, len(key.Labels)),
		Copies: copiesOf(view, key), Clients: slices.Clone(key.Policy.Clients), Legacy: key.Legacy,
		Created: time.UnixMilli(key.Created), Newest: key.Newest,
	}
	for _, l := range key.Labels {
		info.Labels[l.Key] = l.Value
	}
	for v := range view.Versions(key.ID) {
		version := VersionInfo{
			Number: v.N, State: v.State, Public: slices.Clone(v.Material.Public), Created: time.UnixMilli(v.Created),
			HeldBy: slices.Clone(view.Coverage(v.Key, v.N)), KCV: v.Material.KCV,
		}
		if v.State == fsm.Pending {
			version.DeleteAfter = time.UnixMilli(v.DeleteAfter)
		}
		if stone, ok := view.Tombstone(v.Key, v.N); ok {
			version.Awaiting, version.Except = slices.Clone(stone.Awaiting), slices.Clone(stone.Except)
		}
		info.Versions = append(info.Versions, version)
	}
	return info
}

// ready says why the node cannot deal with keys at all, or nil.
func (r *keyRoom) ready() error {
	if r == nil {
		return ErrSealed
	}
	if r.node.ctx.Err() != nil {
		return ErrClosed
	}
	if r.node.cluster.Load() == nil {
		return ErrNoCluster
	}
	return nil
}

// isKnownNotAppended tells whether a proposal certainly left nothing in the log.
func isKnownNotAppended(err error) bool {
	var refused *fsm.Error
	if errors.Is(err, ErrOutcomeUnknown) {
		return false
	}
	return errors.As(err, &refused) || errors.Is(err, ErrNotAppended) || errors.Is(err, ErrNoCluster)
}

// public is the version's public key as crypto knows it; nil for AES.
func publicOf(version *fsm.Version) (crypto.PublicKey, error) {
	return parsePublic(version.Material.Public)
}

// withProposeTime gives a proposal a deadline where its caller set none.
func withProposeTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, proposeTime)
}
