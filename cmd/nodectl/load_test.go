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
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

const (
	loadClients = 4
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

	mu      sync.Mutex
	acked   []*ackedKey
	unknown map[string]bool // versions that were asked for and never answered
	refused map[string]int  // refusals by their code
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
}

var macMessage = []byte("what this key answers, first and last")

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, unknown: map[string]bool{}, refused: map[string]int{}}
}

// run is one client: it makes and uses keys until ctx ends.
func (l *ledger) run(ctx context.Context, worker int, c *client.Client, rng *rand.Rand) {
	var own []*ackedKey
	var doubtful []string // own names of which the newest version is not known
	for n := 0; ctx.Err() == nil; n++ {
		var key *ackedKey
		switch dice := rng.IntN(100); {
		case (dice < 12 || len(own) == 0) && l.mayMake():
			name, typ := fmt.Sprintf("load/%d-%04d", worker, n), loadType(rng)
			key = l.change(ctx, rng, typ, name+"@1", func(ctx context.Context) (api.Key, error) {
				return c.CreateKey(ctx, api.KeyCreateRequest{Name: name, Type: typ})
			})
		case dice < 16 && len(own) > 0:
			old := own[rng.IntN(len(own))]
			if slices.Contains(doubtful, old.name) || !l.mayMake() {
				continue
			}
			newest := 1
			for _, k := range own {
				if k.name == old.name {
					newest++
				}
			}
			key = l.change(ctx, rng, old.typ, fmt.Sprintf("%s@%d", old.name, newest), func(ctx context.Context) (rotated api.Key, err error) {
				_, err = c.Do(ctx, api.KeyRotate, api.KeyRequest{Key: old.name}, &rotated)
				return rotated, err
			})
			if key == nil {
				doubtful = append(doubtful, old.name)
			}
		default:
			if used := l.any(rng); used != nil {
				l.use(ctx, c, used)
			} else {
				l.mayUseSoon(ctx)
			}
		}
		if key != nil {
			own = append(own, key)
			l.use(ctx, c, key)
		}
	}
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
	if l.made >= loadKeys {
		return false
	}
	l.made++
	return true
}

func (l *ledger) mayUseSoon(ctx context.Context) {
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

// change asks for one version, under one request ID however often, and writes
// down what was acknowledged. Some clients hang up, and some never ask again:
// nil.
func (l *ledger) change(ctx context.Context, rng *rand.Rand, typ, ref string, ask func(context.Context) (api.Key, error)) *ackedKey {
	var id [16]byte
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	l.mu.Lock()
	l.unknown[ref] = true
	l.mu.Unlock()
	for range 1 + rng.IntN(loadTries) {
		try, hangUp := context.WithCancel(client.WithRequestID(ctx, id))
		if rng.IntN(10) == 0 {
			try, hangUp = context.WithTimeout(try, time.Duration(rng.Int64N(int64(hasty))))
		}
		key, err := ask(try)
		gone := try.Err() != nil
		hangUp()
		if err == nil {
			return l.acknowledge(typ, ref, key)
		}
		if errors.Is(err, &api.Error{Code: api.CodeConflict}) && strings.Contains(err.Error(), "was aborted") {
			l.mu.Lock()
			l.refused["aborted"]++
			delete(l.unknown, ref) // given up for good: there must be no such key
			l.mu.Unlock()
			return nil
		}
		if !gone && !l.excused(ctx, "make "+ref, err) {
			return nil
		}
	}
	return nil
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
	l.acked = append(l.acked, k)
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
	case "no answer", string(api.CodeTimeout), string(api.CodeNoQuorum), string(api.CodeUnavailable):
		return true
	}
	l.t.Errorf("%s: %s: %v", what, code, err)
	return false
}
