package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

const (
	rivalClients = 4
	// rivalNames are fought over at a time, until one of them has a history of
	// rivalActs or rivalUnknown unknown outcomes: checking takes time that grows
	// fast with both.
	rivalNames   = 3
	rivalActs    = 60
	rivalUnknown = 8
	// rivalLeast of each act, and rivalSigns signatures and refusals of one, must
	// have come to a known end.
	rivalLeast, rivalSigns = 2, 20
	// checkTime bounds the check of one name's history.
	checkTime = time.Minute
	// staleTime is the policy's stale-for under rivals.
	staleTime = 5 * time.Second
)

// rivals are clients that change the same keys at the same time. What they were
// told is a history for each name.
type rivals struct {
	t     testing.TB
	epoch time.Time
	stale atomic.Int64 // nanoseconds: how old a state may be that a key is used by

	mu        sync.Mutex
	histories []*history
	unknown   map[*history]int
	publics   map[string]string // NAME@VERSION to its public half
}

// newRivals has nodes use keys by a state that is at most staleTime old.
func newRivals(p *processes) *rivals {
	p.nodectl(nil, "operator", "policy", "--stale-for", staleTime.String(), "--reason", "use keys by a young state")
	r := &rivals{t: p.t, epoch: time.Now(), unknown: map[*history]int{}, publics: map[string]string{}}
	r.stale.Store(int64(staleTime))
	return r
}

func (r *rivals) now() int64 { return int64(time.Since(r.epoch)) }

// any is one of the names that are fought over now.
func (r *rivals) any(rng *rand.Rand) *history {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.histories) > 0 {
		over := false
		for _, h := range r.histories[len(r.histories)-rivalNames:] {
			over = over || len(h.acts) >= rivalActs || r.unknown[h] >= rivalUnknown
		}
		if !over {
			return r.histories[len(r.histories)-1-rng.IntN(rivalNames)]
		}
	}
	for range rivalNames {
		r.histories = append(r.histories, &history{name: fmt.Sprintf("rival/%05d", len(r.histories))})
	}
	return r.histories[len(r.histories)-1]
}

// run is one client, until ctx ends.
func (r *rivals) run(ctx context.Context, id int, c *client.Client, rng *rand.Rand) {
	for ctx.Err() == nil {
		h := r.any(rng)
		r.mu.Lock()
		begun := len(h.acts) > 0
		r.mu.Unlock()
		switch dice := rng.IntN(100); {
		case !begun && dice < 50 || dice < 5:
			r.change(ctx, id, c, rng, h, actCreate, api.KeyCreate, api.KeyCreateRequest{Name: h.name, Type: "ecdsa-p256"})
		case dice < 17:
			r.change(ctx, id, c, rng, h, actRotate, api.KeyRotate, api.KeyRequest{Key: h.name})
		case dice < 25:
			r.change(ctx, id, c, rng, h, actDisable, api.KeyDisable, api.KeyRequest{Key: h.name})
		case dice < 38:
			r.change(ctx, id, c, rng, h, actEnable, api.KeyEnable, api.KeyRequest{Key: h.name})
		case dice < 43:
			month := int64(30 * 24 * time.Hour / time.Second)
			r.change(ctx, id, c, rng, h, actDelete, api.KeyDelete, api.KeyDeleteRequest{Key: h.name, AfterSeconds: &month})
		case dice < 45:
			r.change(ctx, id, c, rng, h, actDestroy, api.KeyDelete, api.KeyDeleteRequest{Key: h.name, AfterSeconds: new(int64)})
		case dice < 55:
			r.change(ctx, id, c, rng, h, actUndelete, api.KeyUndelete, api.KeyRequest{Key: h.name})
		case dice < 75:
			r.list(ctx, id, c, h)
		default:
			r.sign(ctx, c, h)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.Int64N(int64(20 * time.Millisecond)))): // leave the others time, and the history
		}
	}
}

func (r *rivals) record(h *history, id int, call, ret int64, what act, out outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if out.fate == perhaps {
		ret = forever
		r.unknown[h]++
	}
	h.acts = append(h.acts, porcupine.Operation{ClientId: id, Call: call, Return: ret, Input: what, Output: out})
	for i, v := range out.versions {
		r.publics[fmt.Sprintf("%s@%d", h.name, i+1)] = v.public
	}
}

// change asks for one change, under one request ID, until its outcome is known
// or the client gives up.
func (r *rivals) change(ctx context.Context, id int, c *client.Client, rng *rand.Rand, h *history, what act, route string, request any) {
	request16 := requestID(rng)
	call, fate := r.now(), perhaps
	var key api.Key
	for range 1 + rng.IntN(loadTries) {
		try, hangUp := context.WithCancel(client.WithRequestID(ctx, request16))
		if rng.IntN(20) == 0 {
			try, hangUp = context.WithTimeout(try, time.Duration(rng.Int64N(int64(hasty))))
		}
		key = api.Key{}
		_, err := c.Do(try, route, request, &key)
		hangUp()
		if fate = fateOf(err); fate != perhaps {
			break
		}
	}
	ret := r.now()
	r.record(h, id, call, ret, what, outcome{fate: fate})
	if fate == done { // the answer shows the key, with the change in it
		r.record(h, id, call, ret, actList, outcome{done, versionsOf(key)})
	}
}

func fateOf(err error) fate {
	var said *api.Error
	if err == nil {
		return done
	}
	if errors.As(err, &said) {
		switch said.Code {
		case api.CodeExists:
			return wasThere
		case api.CodeNotFound:
			return wasNotThere
		case api.CodeWrongState:
			return wrongState
		case api.CodeConflict:
			if strings.Contains(said.Message, "was aborted") {
				return nothing
			}
		}
	}
	return perhaps
}

func versionsOf(key api.Key) (versions []seen) {
	for _, v := range key.Versions {
		if v.Gone() { // which devices have confirmed is another matter
			v.State = api.VersionDestroyed
		}
		versions = append(versions, seen{v.State, string(v.Public)})
	}
	return versions
}

// list lists by name. A node that says that it may lack something is not held to
// anything.
func (r *rivals) list(ctx context.Context, id int, c *client.Client, h *history) {
	call := r.now()
	var page api.Keys
	answer, err := c.Do(ctx, api.KeyList, api.KeyListQuery{Prefix: h.name, Limit: 1}, &page)
	if err != nil || answer.StateAge != 0 {
		return
	}
	out := outcome{fate: done}
	if len(page.Keys) > 0 {
		out.versions = versionsOf(page.Keys[0])
	}
	r.record(h, id, call, r.now(), actList, out)
}

// sign uses the newest version that the node knows.
func (r *rivals) sign(ctx context.Context, c *client.Client, h *history) {
	digest := sha256.Sum256([]byte(h.name))
	s := signing{call: r.now()}
	var signed api.SignResponse
	_, err := c.Do(ctx, api.KeySign, api.SignRequest{Key: h.name, Inputs: [][]byte{digest[:]}, Hash: api.SHA256}, &signed)
	s.ret, s.stale, s.version, s.fate = r.now(), time.Duration(r.stale.Load()), int(signed.Version), fateOf(err)
	if s.fate == perhaps {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(signed.Signatures) == 1 {
		s.signature = signed.Signatures[0]
	}
	h.signs = append(h.signs, s)
}

// verify holds every signature against the public half of its version, once all
// that will be known of that is, and counts those that it could.
func (r *rivals) verify(h *history) (verified int) {
	digest := sha256.Sum256([]byte(h.name))
	for _, s := range h.signs {
		der := r.publics[fmt.Sprintf("%s@%d", h.name, s.version)]
		if s.fate != done || der == "" {
			continue
		}
		if public, err := x509.ParsePKIXPublicKey([]byte(der)); err != nil || !verifies(public, digest[:], s.signature) {
			r.t.Errorf("%s@%d: %v, %v", h.name, s.version, errWrongAnswer, err)
		}
		verified++
	}
	return verified
}

// lacks says of which acts too few came to a known end to mean anything; "" for none.
func (r *rivals) lacks() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, signs := map[act]int{}, 0
	for _, h := range r.histories {
		for _, a := range h.acts {
			if a.Output.(outcome).fate == done {
				known[a.Input.(act)]++
			}
		}
		signs += len(h.signs)
	}
	var lacking []string
	for _, what := range []act{actCreate, actRotate, actDisable, actEnable, actDelete, actDestroy, actUndelete, actList} {
		if known[what] < rivalLeast {
			lacking = append(lacking, fmt.Sprintf("%d of %d rival acts %q", known[what], rivalLeast, what))
		}
	}
	if signs < rivalSigns {
		lacking = append(lacking, fmt.Sprintf("%d of %d rival signatures", signs, rivalSigns))
	}
	return strings.Join(lacking, ", ")
}

// check holds every history against the model, once the clients are gone.
func (r *rivals) check() {
	r.t.Helper()
	if lacks := r.lacks(); lacks != "" {
		r.t.Errorf("too little to check: %s", lacks)
	}
	acts, unknown, signs, verified, undecided := 0, 0, 0, 0, 0
	for _, h := range r.histories {
		verified += r.verify(h)
		acts, unknown, signs = acts+len(h.acts), unknown+r.unknown[h], signs+len(h.signs)
		switch h.linearizable(checkTime) {
		case porcupine.Illegal:
			r.t.Errorf("not linearizable: %s", h.describe())
		case porcupine.Unknown:
			undecided++
			r.t.Logf("not decided in %v: %s", checkTime, h.describe())
		}
		if bad := h.badSigns(); len(bad) > 0 {
			r.t.Errorf("%s\n%s", strings.Join(bad, "\n"), h.describe())
		}
	}
	r.t.Logf("%d histories of %d acts, %d of them unknown, %d histories not decided; %d signatures and refusals of one, %d verified", len(r.histories), acts, unknown, undecided, signs, verified)
	if verified == 0 || undecided > len(r.histories)/10 {
		r.t.Errorf("too little was checked: %d signatures verified, %d histories of %d not decided", verified, undecided, len(r.histories))
	}
}
