package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

const (
	loadClients = 4
	// loadStay is for how many acts a client keeps its connections.
	loadStay = 50
	// loadKeys bounds how many versions one load makes.
	loadKeys = 1500
	// loadTries is how often a client asks for the same change before it goes
	// away without knowing what became of it, and hasty how long one waits that
	// hangs up early.
	loadTries = 4
	hasty     = 20 * time.Millisecond
)

// ledger is what the clients of a load were told, and what the cluster must
// stand by.
type ledger struct {
	t testing.TB

	creates int                     // so many acts make a key, to 88 others
	typ     func(*rand.Rand) string // of a new key

	mu      sync.Mutex
	may     int         // versions that may be made
	acts    map[act]int // that were acknowledged, by their kind
	acked   []*ackedKey
	keys    []*ownKey       // those that were acknowledged
	unknown map[string]bool // versions that were asked for and never answered
	refused map[string]int  // refusals by their code
	excuses []api.Code      // that nodes may have beside those of one that is down
	made    int
	signed  int
	slowest time.Duration // use that succeeded
}

// ackedKey is one version that was acknowledged.
type ackedKey struct {
	ref    string // NAME@VERSION
	name   string
	typ    string
	public []byte // DER SubjectPublicKeyInfo; nil for AES
	mac    []byte // of AES: the first answer to macMessage
	key    *ownKey
}

// ownKey is a name that one client alone changes.
type ownKey struct {
	name, typ string
	versions  int
	doubtful  bool // its maker does not know what became of a change: it stays as it is
	// may be its state, and that of its versions, one to each bit: see stateBits.
	may     atomic.Uint32
	touched atomic.Bool // it was not enabled all the time
}

// stateBits number the states that a version can be in.
var stateBits = map[string]uint32{api.VersionEnabled: 1, api.VersionDisabled: 2, api.VersionPending: 4, api.VersionDestroying: 8, api.VersionDestroyed: 8}

var macMessage = []byte("what this key answers, first and last")

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, creates: 12, typ: loadType, may: loadKeys, acts: map[act]int{}, unknown: map[string]bool{}, refused: map[string]int{}}
}

// run is one client: it makes, changes and uses keys until ctx ends. It connects anew now
// and then: a client stays with the node that answered last, and in the end all would
// with a few.
func (l *ledger) run(ctx context.Context, worker int, connect func(*rand.Rand) (*client.Client, error), rng *rand.Rand) {
	var own []*ownKey
	var c *client.Client
	for n := 0; ctx.Err() == nil; n++ {
		if n%loadStay == 0 {
			if c != nil {
				c.Close()
			}
			var err error
			if c, err = connect(rng); err != nil {
				l.t.Errorf("client %d: %v", worker, err)
				return
			}
		}
		var old *ownKey
		if len(own) > 0 {
			old = own[rng.IntN(len(own))]
		}
		switch dice := rng.IntN(88+l.creates) - l.creates; {
		case dice < 0 || old == nil:
			if !l.mayMake() {
				l.wait(ctx) // or it would only use keys, and leave the nodes no time for anything else
				continue
			}
			name, typ := fmt.Sprintf("load/%d-%05d", worker, n), l.typ(rng)
			if key := l.create(ctx, rng, c, name, typ); key != nil {
				own = append(own, key)
			}
		case 0 <= dice && dice < 3 && old != nil:
			l.rotate(ctx, rng, c, old)
		case 3 <= dice && dice < 10 && old != nil:
			l.turn(ctx, rng, c, old)
		case dice == 10 && old != nil:
			l.list(ctx, c, fmt.Sprintf("load/%d-", worker), own)
		default:
			if used := l.any(rng); used != nil {
				l.use(ctx, c, used)
			} else {
				l.wait(ctx)
			}
		}
	}
}

func (l *ledger) create(ctx context.Context, rng *rand.Rand, c *client.Client, name, typ string) *ownKey {
	made := l.change(ctx, rng, typ, name+"@1", func(ctx context.Context) (api.Key, error) {
		return c.CreateKey(ctx, api.KeyCreateRequest{Name: name, Type: typ})
	})
	if made == nil {
		return nil
	}
	l.did(actCreate)
	key := &ownKey{name: name, typ: typ, versions: 1}
	key.may.Store(stateBits[api.VersionEnabled])
	l.mu.Lock()
	made.key = key
	l.keys = append(l.keys, key)
	l.acked = append(l.acked, made)
	l.mu.Unlock()
	l.use(ctx, c, made)
	return key
}

func (l *ledger) rotate(ctx context.Context, rng *rand.Rand, c *client.Client, key *ownKey) {
	if key.doubtful || key.may.Load() != stateBits[api.VersionEnabled] || !l.mayMake() {
		return
	}
	made := l.change(ctx, rng, key.typ, fmt.Sprintf("%s@%d", key.name, key.versions+1), func(ctx context.Context) (rotated api.Key, err error) {
		_, err = c.Do(ctx, api.KeyRotate, api.KeyRequest{Key: key.name}, &rotated)
		return rotated, err
	})
	if made == nil {
		key.doubtful = true
		return
	}
	key.versions++
	l.did(actRotate)
	l.mu.Lock()
	made.key = key
	l.acked = append(l.acked, made)
	l.mu.Unlock()
	l.use(ctx, c, made)
}

// turn changes the state of all versions of a key, by one step.
func (l *ledger) turn(ctx context.Context, rng *rand.Rand, c *client.Client, key *ownKey) {
	if key.doubtful {
		return
	}
	wait, now := int64(30*24*time.Hour/time.Second), int64(0)
	what, route, to, request := actEnable, api.KeyEnable, stateBits[api.VersionEnabled], any(api.KeyRequest{Key: key.name})
	switch dice := rng.IntN(10); {
	case key.may.Load() == stateBits[api.VersionPending]:
		what, route = actUndelete, api.KeyUndelete
	case key.may.Load() == stateBits[api.VersionDisabled]:
	case key.may.Load() != stateBits[api.VersionEnabled]:
		return
	case dice < 6:
		what, route, to = actDisable, api.KeyDisable, stateBits[api.VersionDisabled]
	case dice < 9:
		what, route, to, request = actDelete, api.KeyDelete, stateBits[api.VersionPending], api.KeyDeleteRequest{Key: key.name, AfterSeconds: &wait}
	default:
		what, route, to, request = actDestroy, api.KeyDelete, stateBits[api.VersionPending]|stateBits[api.VersionDestroyed], api.KeyDeleteRequest{Key: key.name, AfterSeconds: &now}
	}
	key.touched.Store(true)
	before := key.may.Load()
	key.may.Store(before | to)
	done := l.ask(ctx, rng, route+" "+key.name, func(ctx context.Context) error {
		_, err := c.Do(ctx, route, request, new(api.Key))
		return err
	})
	if !done {
		key.doubtful = true
		return
	}
	key.may.Store(to)
	l.did(what)
}

// did counts an act that was acknowledged.
func (l *ledger) did(what act) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acts[what]++
}

// lacks says of which acts fewer were acknowledged than a test needs to mean
// anything; "" for none.
func (l *ledger) lacks(least map[act]int, signed int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lacking []string
	for _, what := range slices.Sorted(maps.Keys(least)) {
		if l.acts[what] < least[what] {
			lacking = append(lacking, fmt.Sprintf("%d of %d acts %q", l.acts[what], least[what], what))
		}
	}
	if l.signed < signed {
		lacking = append(lacking, fmt.Sprintf("%d of %d answers", l.signed, signed))
	}
	return strings.Join(lacking, ", ")
}

// list holds a list from the newest state against what its reader was told.
func (l *ledger) list(ctx context.Context, c *client.Client, prefix string, own []*ownKey) {
	want := map[string]*ownKey{}
	for _, key := range own {
		want[key.name] = key
	}
	query := api.KeyListQuery{Prefix: prefix, Limit: api.MaxPage}
	for {
		var page api.Keys
		answer, err := c.Do(ctx, api.KeyList, query, &page)
		if err != nil {
			l.excused(ctx, "list "+prefix, err)
			return
		}
		if answer.StateAge != 0 {
			return // the node says that it may lack something
		}
		for _, listed := range page.Keys {
			key := want[listed.Name]
			delete(want, listed.Name)
			if key == nil {
				continue // made after all
			}
			for _, v := range listed.Versions {
				if int(v.Number) <= key.versions && stateBits[v.State]&key.may.Load() == 0 {
					l.t.Errorf("%s lists %s@%d as %s, which it cannot be (%#b)", answer.Node, key.name, v.Number, v.State, key.may.Load())
				}
			}
			if len(listed.Versions) < key.versions {
				l.t.Errorf("%s lists %d versions of %s, of which %d were acknowledged", answer.Node, len(listed.Versions), key.name, key.versions)
			}
		}
		if page.Next == "" {
			break
		}
		query.After = page.Next
	}
	for name := range want {
		l.t.Errorf("a list lacks %s, which was acknowledged", name)
	}
	l.did(actList)
}

// loadType is mostly P-256; RSA takes a device too long to be made often.
func loadType(rng *rand.Rand) string {
	switch rng.IntN(40) {
	case 0:
		return "rsa-2048"
	case 1, 2, 3:
		return "ed25519"
	case 4, 5, 6:
		return "aes-256"
	case 7, 8:
		return "ecdsa-p384"
	}
	return "ecdsa-p256"
}

func (l *ledger) mayMake() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made >= l.may {
		return false
	}
	l.made++
	return true
}

func (l *ledger) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(pollEvery):
	}
}

func (l *ledger) any(rng *rand.Rand) *ackedKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.acked) == 0 {
		return nil
	}
	return l.acked[rng.IntN(len(l.acked))]
}

// change asks for one version and writes down what was acknowledged; nil: what
// became of it is not known.
func (l *ledger) change(ctx context.Context, rng *rand.Rand, typ, ref string, ask func(context.Context) (api.Key, error)) (made *ackedKey) {
	l.mu.Lock()
	l.unknown[ref] = true
	l.mu.Unlock()
	l.ask(ctx, rng, "make "+ref, func(ctx context.Context) error {
		key, err := ask(ctx)
		if err == nil {
			made = l.acknowledge(typ, ref, key)
		}
		if errors.Is(err, &api.Error{Code: api.CodeConflict}) && strings.Contains(err.Error(), "was aborted") {
			l.mu.Lock()
			delete(l.unknown, ref) // given up for good: there must be no such key
			l.mu.Unlock()
		}
		return err
	})
	return made
}

// ask asks for one change, under one request ID however often, and tells whether
// it is known to be done. Some clients hang up, and some never ask again.
func (l *ledger) ask(ctx context.Context, rng *rand.Rand, what string, ask func(context.Context) error) bool {
	id := requestID(rng)
	for range 1 + rng.IntN(loadTries) {
		try, hangUp := context.WithCancel(client.WithRequestID(ctx, id))
		if rng.IntN(10) == 0 {
			try, hangUp = context.WithTimeout(try, time.Duration(rng.Int64N(int64(hasty))))
		}
		err := ask(try)
		gone := try.Err() != nil
		hangUp()
		if err == nil {
			return true
		}
		if errors.Is(err, &api.Error{Code: api.CodeConflict}) && strings.Contains(err.Error(), "was aborted") {
			l.mu.Lock()
			l.refused["aborted"]++
			l.mu.Unlock()
			return false
		}
		if !gone && !l.excused(ctx, what, err) {
			return false
		}
	}
	return false
}

func requestID(rng *rand.Rand) (id [16]byte) {
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	return id
}

func (l *ledger) acknowledge(typ, ref string, key api.Key) *ackedKey {
	newest := key.Versions[len(key.Versions)-1]
	k := &ackedKey{ref: fmt.Sprintf("%s@%d", key.Name, newest.Number), name: key.Name, typ: key.Type, public: newest.Public}
	if k.ref != ref || k.typ != typ || (k.public == nil) != (typ == "aes-256") || newest.State != api.VersionEnabled {
		l.t.Errorf("asked for %s of type %s and got %s of type %s, %s", ref, typ, k.ref, k.typ, newest.State)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unknown, ref)
	return k
}

// use has a key answer, and holds the answer against what it answered first.
func (l *ledger) use(ctx context.Context, c *client.Client, k *ackedKey) error {
	began := time.Now()
	err := l.answer(ctx, c, k)
	if err == nil {
		l.mu.Lock()
		l.signed++
		l.slowest = max(l.slowest, time.Since(began))
		l.mu.Unlock()
		return nil
	}
	if k.key != nil && k.key.touched.Load() && errors.Is(err, &api.Error{Code: api.CodeWrongState}) {
		return err // its maker has disabled or deleted it
	}
	l.excused(ctx, "use "+k.ref, err)
	return err
}

func (l *ledger) answer(ctx context.Context, c *client.Client, k *ackedKey) error {
	if k.public == nil {
		mac, err := c.MAC(ctx, k.ref, macMessage)
		if err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.mac == nil {
			k.mac = mac
		}
		if !bytes.Equal(mac, k.mac) {
			return errWrongAnswer
		}
		return nil
	}
	public, err := x509.ParsePKIXPublicKey(k.public)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(k.ref))
	request := api.SignRequest{Key: k.ref, Inputs: [][]byte{digest[:]}, Hash: api.SHA256}
	if k.typ == "ed25519" {
		request.Hash = ""
	}
	var response api.SignResponse
	if _, err := c.Do(ctx, api.KeySign, request, &response); err != nil {
		return err
	}
	if len(response.Signatures) != 1 || !verifies(public, digest[:], response.Signatures[0]) {
		return errWrongAnswer
	}
	return nil
}

// errWrongAnswer is another key that answers.
var errWrongAnswer = errors.New("the answer is not that of the key that was acknowledged")

func verifies(public crypto.PublicKey, digest, signature []byte) bool {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, signature)
	case ed25519.PublicKey:
		return ed25519.Verify(public, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature) == nil
	}
	return false
}

// excused tells whether a cluster of which one node is down may say this. What
// it may not say fails the test.
func (l *ledger) excused(ctx context.Context, what string, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	var said *api.Error
	var silent *client.UnreachableError
	code := ""
	switch {
	case errors.As(err, &said):
		code = string(said.Code)
	case errors.As(err, &silent):
		code = "no answer"
	}
	l.mu.Lock()
	l.refused[code]++
	l.mu.Unlock()
	switch code {
	case "no answer", string(api.CodeTimeout), string(api.CodeNoQuorum), string(api.CodeUnavailable), string(api.CodeStale):
		return true
	}
	if slices.Contains(l.excuses, api.Code(code)) {
		return true
	}
	l.t.Errorf("%s: %s: %v", what, code, err)
	return false
}
