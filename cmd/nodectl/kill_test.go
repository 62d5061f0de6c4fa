package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

const (
	kills = 9
	// killTime is how long nodes are killed and brought back, at most.
	killTime = 22 * time.Second
)

// Nodes are killed one at a time, at any instant, while clients make and use
// keys. An acknowledged key is never lost, and keeps to its public half; what
// was not acknowledged is a whole key or none; no device keeps an object that
// is no key; and every node tells the same.
//
// KEYCUSTODIAN_SEED repeats a run as far as it can be repeated, which is who is
// killed when; KEYCUSTODIAN_PAUSE=1 has nodes stand still instead of dying.
func TestKillsUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	seed, err := strconv.ParseUint(os.Getenv("KEYCUSTODIAN_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("KEYCUSTODIAN_SEED=%d", seed)
	p := startProcesses(t, 3)
	l := newLedger(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for i := range loadClients {
		first := i % len(p.nodes)
		c := p.client(append(slices.Clone(p.nodes[first:]), p.nodes[:first]...)...)
		clients.Go(func() { l.run(ctx, i, c, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	down := (*process).kill
	up := (*process).start
	if os.Getenv("KEYCUSTODIAN_PAUSE") != "" {
		down, up = (*process).pause, (*process).resume
	}
	count := harass(p, rand.New(rand.NewPCG(seed, 1<<32)), down, up)
	cancel()
	clients.Wait()
	t.Logf("%d kills; %d keys acknowledged, %d unknown; %d answers, the slowest after %v; refusals: %v",
		count, len(l.acked), len(l.unknown), l.signed, l.slowest.Round(time.Millisecond), l.refused)
	if count < kills/3 || len(l.acked) < 20 || l.signed < 100 {
		t.Errorf("too little happened")
	}
	p.awaitReady()
	keys := p.agree()
	l.compare(keys)
	l.everyKeyAnswers(p)
	p.noOrphans(keys)
}

// harass takes one node down at a time and brings it back.
func harass(p *processes, rng *rand.Rand, down, up func(*process)) int {
	end := time.Now().Add(killTime)
	for count := range kills {
		if time.Now().After(end) {
			return count
		}
		n := p.nodes[rng.IntN(len(p.nodes))]
		time.Sleep(between(rng, 100*time.Millisecond, 1500*time.Millisecond))
		down(n)
		time.Sleep(between(rng, 0, 1500*time.Millisecond))
		up(n)
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
	}
	return kills
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

// agree waits until all nodes tell the same and every device holds every key and
// nothing else, and returns the versions.
func (p *processes) agree() map[string]api.KeyVersion {
	p.t.Helper()
	var keys map[string]api.KeyVersion
	var clients []*client.Client
	for _, n := range p.nodes {
		clients = append(clients, p.client(n))
	}
	p.eventually("all nodes agree and every device holds every key", func(ctx context.Context) error {
		var heads []string
		for i, n := range p.nodes {
			c := clients[i]
			mine := map[string]api.KeyVersion{}
			for key, err := range c.Keys(ctx, api.KeyListQuery{Limit: api.MaxPage}) {
				if err != nil {
					return err
				}
				for _, v := range key.Versions {
					slices.Sort(v.HeldBy)
					mine[fmt.Sprintf("%s@%d", key.Name, v.Number)] = v
				}
			}
			if same := func(a, b api.KeyVersion) bool {
				return a.State == b.State && bytes.Equal(a.Public, b.Public) && slices.Equal(a.HeldBy, b.HeldBy) && a.CreatedAt.Equal(b.CreatedAt)
			}; i > 0 && !maps.EqualFunc(keys, mine, same) {
				return fmt.Errorf("%s lists other keys than %s", n.name, p.nodes[0].name)
			}
			keys = mine
			var d api.DeviceDetails
			if _, err := c.Do(ctx, api.DeviceInfo, api.DeviceQuery{Node: n.name}, &d); err != nil {
				return err
			}
			if d.Slots-d.FreeSlots != len(keys) || d.Keys != len(keys) {
				return fmt.Errorf("%d versions; %s holds %d of them and %d objects, aside %+v", len(keys), n.name, d.Keys, d.Slots-d.FreeSlots, d.Aside)
			}
			head, err := auditHead(p, n)
			if err != nil {
				return err
			}
			heads = append(heads, head)
		}
		if len(slices.Compact(heads)) != 1 {
			return fmt.Errorf("audit chains end with %v", heads)
		}
		return nil
	})
	return keys
}

// auditHead verifies a node's audit chain from its first record on.
func auditHead(p *processes, n *process) (string, error) {
	var audit api.Audit
	if err := json.Unmarshal([]byte(p.nodectl(n, "audit", "-o", "json")), &audit); err != nil {
		return "", err
	}
	var previous [32]byte
	var failed error
	head, err := fsm.VerifyAudit(previous, func(yield func(*fsm.AuditRecord) bool) {
		for _, r := range audit.Records {
			record := &fsm.AuditRecord{
				Seq: r.Seq, Index: r.Index, Time: r.At.UnixMilli(), Action: strings.ReplaceAll(r.Action, ".", " "),
				Target: r.Target, Detail: r.Detail, Previous: previous,
			}
			_, who := hex.Decode(record.Actor.Who[:], []byte(r.Actor))
			_, node := hex.Decode(record.Actor.Node[:], []byte(r.Node))
			_, hash := hex.Decode(record.Hash[:], []byte(r.Hash))
			if failed = errors.Join(who, node, hash); failed != nil || !yield(record) {
				return
			}
			previous = record.Hash
		}
	})
	if err == nil && head.String() != audit.Head {
		err = fmt.Errorf("the chain of %s ends with %s, not %s", n.name, head, audit.Head)
	}
	return audit.Head, errors.Join(err, failed)
}

// compare holds what the clients were told against what there is.
func (l *ledger) compare(keys map[string]api.KeyVersion) {
	acked := map[string]bool{}
	for _, k := range l.acked {
		acked[k.ref] = true
		v, ok := keys[k.ref]
		switch {
		case !ok:
			l.t.Errorf("LOST: %s was acknowledged", k.ref)
		case !bytes.Equal(v.Public, k.public):
			l.t.Errorf("%s was acknowledged with the public key %x and has %x", k.ref, k.public, v.Public)
		}
	}
	for ref, v := range keys {
		if !acked[ref] && !l.unknown[ref] {
			l.t.Errorf("%s is there and nobody asked for it", ref)
		}
		if v.State != api.VersionEnabled {
			l.t.Errorf("%s is %s", ref, v.State)
		}
		if !acked[ref] { // made after all: it must be whole
			name, _, _ := strings.Cut(ref, "@")
			k := &ackedKey{ref: ref, name: name, public: v.Public}
			if _, err := x509.ParsePKIXPublicKey(v.Public); err == nil && bytes.Contains(v.Public, []byte{0x2b, 0x65, 0x70}) {
				k.typ = "ed25519"
			}
			l.acked = append(l.acked, k)
		}
	}
}

// everyKeyAnswers has each key answer at each node.
func (l *ledger) everyKeyAnswers(p *processes) {
	var nodes sync.WaitGroup
	for _, n := range p.nodes {
		c := p.client(n)
		nodes.Go(func() {
			for _, k := range l.acked {
				if err := l.use(l.t.Context(), c, k); err != nil {
					l.t.Errorf("%s at %s: %v", k.ref, n.name, err)
				}
			}
		})
	}
	nodes.Wait()
}

// noOrphans stops the nodes and looks into their devices from outside: one
// object for each version, and nothing else. It also reads what the nodes said.
func (p *processes) noOrphans(keys map[string]api.KeyVersion) {
	p.t.Helper()
	publics := map[string]int{}
	for _, v := range keys {
		publics[string(v.Public)]++
	}
	for _, n := range p.nodes {
		n.stop()
		said, err := os.ReadFile(filepath.Join(n.dir, "log"))
		if err != nil {
			p.t.Fatal(err)
		}
		for _, never := range []string{"panic:", "state differs", "fatal error:"} {
			if bytes.Contains(said, []byte(never)) {
				p.t.Errorf("%s said %q\n%s", n.name, never, n.log())
			}
		}
		here := map[string]int{}
		for _, o := range n.objects() {
			var public []byte
			if o.Public != nil {
				if public, err = x509.MarshalPKIXPublicKey(o.Public); err != nil {
					p.t.Fatal(err)
				}
			}
			here[string(public)]++
		}
		if !maps.Equal(here, publics) {
			p.t.Errorf("the device of %s holds other keys than the %d that there are", n.name, len(keys))
		}
	}
}

// objects opens a stopped node's device and lists it.
func (n *process) objects() []hsm.Object {
	n.t.Helper()
	ctx := n.t.Context()
	token, err := drivers.Open(ctx, n.device())
	if err != nil {
		n.t.Fatal(err)
	}
	defer token.Close()
	pin, err := token.PIN(ctx)
	if err == nil {
		defer pin.Wipe()
		err = token.Login(ctx, pin)
	}
	objects, listErr := token.List(ctx)
	if err := errors.Join(err, listErr); err != nil {
		n.t.Fatal(err)
	}
	return objects
}
