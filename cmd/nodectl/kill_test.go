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
	// killPatience bounds how long that may take, with what must happen meanwhile.
	killPatience = 5 * time.Minute
	// reviveClients enable at a time what is to be enabled: one alone waits for each.
	reviveClients = 16
)

// killedActs are how many of each act must be acknowledged while nodes are killed.
var killedActs = map[act]int{actCreate: 20, actRotate: 3, actDisable: 3, actEnable: 1, actDelete: 1, actDestroy: 1, actList: 3}

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
	seed := seedOf(t)
	p := startProcesses(t, 3)
	l, r := newLedger(t), newRivals(p)
	stop := p.load(seed, l, loadClients, r)
	down := (*process).kill
	up := (*process).start
	if os.Getenv("KEYCUSTODIAN_PAUSE") != "" {
		down, up = (*process).pause, (*process).resume
	}
	count := harass(p, rand.New(rand.NewPCG(seed, 1<<32)), down, up, func() string {
		return strings.Trim(l.lacks(killedActs, 100)+"; "+r.lacks(), "; ")
	})
	stop()
	t.Logf("%d kills; %s", count, l)
	r.check()
	p.awaitReady()
	l.states(p)
	l.revive(p)
	keys := p.agree()
	l.compare(keys)
	l.everyKeyAnswers(p)
	p.noOrphans(keys)
	p.holdNoSecret()
}

func seedOf(t *testing.T) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("KEYCUSTODIAN_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("KEYCUSTODIAN_SEED=%d", seed)
	return seed
}

// load has clients at work until stop is called: count that have keys of their
// own, and rivals, where r is not nil.
func (p *processes) load(seed uint64, l *ledger, count int, r *rivals) (stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	var clients sync.WaitGroup
	all := count
	if r != nil {
		all += rivalClients
	}
	for i := range all {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		if i < count {
			clients.Go(func() { l.run(ctx, i, p.connect, rng) })
			continue
		}
		first := i % len(p.nodes)
		c := p.newClient(append(slices.Clone(p.nodes[first:]), p.nodes[:first]...)...)
		clients.Go(func() { r.run(ctx, i-count, c, rng) })
	}
	return func() {
		cancel()
		clients.Wait()
	}
}

// String sums a load up.
func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d keys of %d names acknowledged, %d unknown; acts: %v; %d answers, the slowest after %v; refusals: %v",
		len(l.acked), len(l.keys), len(l.unknown), l.acts, l.signed, l.slowest.Round(time.Millisecond), l.refused)
}

// harass takes one node down at a time and brings it back, kills times at least,
// and until nothing is lacking that must happen meanwhile.
func harass(p *processes, rng *rand.Rand, down, up func(*process), lacks func() string) (count int) {
	p.t.Helper()
	end := time.Now().Add(killPatience)
	for ; count < kills || lacks() != ""; count++ {
		if time.Now().After(end) {
			p.t.Errorf("after %v: %d kills of %d; too little happened: %s", killPatience, count, kills, lacks())
			break
		}
		n := p.nodes[rng.IntN(len(p.nodes))]
		time.Sleep(between(rng, 100*time.Millisecond, 1500*time.Millisecond))
		down(n)
		time.Sleep(between(rng, 0, 1500*time.Millisecond))
		up(n)
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
	}
	return count
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

// agree waits until all nodes tell the same, down to the digests of their states,
// and every device holds every key and nothing else, and returns the versions that are not destroyed.
func (p *processes) agree() map[string]api.KeyVersion {
	p.t.Helper()
	var keys map[string]api.KeyVersion
	p.eventually("all nodes agree and every device holds every key", func(ctx context.Context) error {
		var heads []string
		for i, n := range p.nodes {
			c := p.client(n)
			mine := map[string]api.KeyVersion{}
			for key, err := range c.Keys(ctx, api.KeyListQuery{Limit: api.MaxPage}) {
				if err != nil {
					return err
				}
				for _, v := range key.Versions {
					if v.Gone() {
						continue
					}
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
				return fmt.Errorf("%d versions; %s holds %d of them and %d objects: %+v", len(keys), n.name, d.Keys, d.Slots-d.FreeSlots, d)
			}
			head, err := auditHead(p, n)
			if err != nil {
				return err
			}
			status, _, err := c.Status(ctx)
			if err != nil {
				return err
			}
			heads = append(heads, fmt.Sprintf("%s, state %d %s", head, status.Node.Applied, status.Node.Digest))
		}
		if len(slices.Compact(heads)) != 1 {
			return fmt.Errorf("audit chains and states end with %v", heads)
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
	if len(audit.Records) == 0 {
		return "", fmt.Errorf("%s has no audit", n.name)
	}
	if first := audit.Records[0]; first.Seq != 1 { // a node that came later has what the state had then, see fsm.MaxAudit
		if !n.late || len(audit.Records) < fsm.MaxAudit {
			return "", fmt.Errorf("the audit of %s begins with record %d and has %d", n.name, first.Seq, len(audit.Records))
		}
		if _, err := hex.Decode(previous[:], []byte(first.Hash)); err != nil {
			return "", err
		}
		audit.Records = audit.Records[1:]
	}
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

// revive has every key that is not destroyed enabled, so that it can be proven.
func (l *ledger) revive(p *processes) {
	l.t.Helper()
	c := p.client()
	versions := l.versions(c)
	names, all := make(chan string), map[string]string{} // to the route that its state wants
	for ref, v := range versions {
		name, _, _ := strings.Cut(ref, "@")
		if route := map[string]string{api.VersionDisabled: api.KeyEnable, api.VersionPending: api.KeyUndelete}[v.State]; route != "" {
			all[name] = route
		}
	}
	var clients sync.WaitGroup
	for range reviveClients {
		clients.Go(func() {
			for name := range names {
				for _, route := range []string{all[name], api.KeyEnable} { // what comes back may have been disabled before
					_, err := c.Do(l.t.Context(), route, api.KeyRequest{Key: name}, new(api.Key))
					if err != nil && !errors.Is(err, &api.Error{Code: api.CodeWrongState}) {
						l.t.Errorf("%s %s: %v", route, name, err)
					}
				}
			}
		})
	}
	for name := range all {
		names <- name
	}
	close(names)
	clients.Wait()
}

// versions lists every version from the newest state. A node that has no leader at
// the moment answers from an older one, and says so.
func (l *ledger) versions(c *client.Client) map[string]api.KeyVersion {
	l.t.Helper()
	versions := map[string]api.KeyVersion{}
	eventually(l.t, "the newest state is listed", func(ctx context.Context) error {
		for query := (api.KeyListQuery{Limit: api.MaxPage}); ; {
			var page api.Keys
			answer, err := c.Do(ctx, api.KeyList, query, &page)
			if err != nil {
				return err
			}
			if answer.StateAge != 0 {
				return fmt.Errorf("%s answers from a state that is %v old", answer.Node, answer.StateAge)
			}
			for _, key := range page.Keys {
				for _, v := range key.Versions {
					versions[fmt.Sprintf("%s@%d", key.Name, v.Number)] = v
				}
			}
			if page.Next == "" {
				return nil
			}
			query.After = page.Next
		}
	})
	return versions
}

// states holds the state of each version, before anything is revived, against
// what its maker was told.
func (l *ledger) states(p *processes) {
	l.t.Helper()
	versions := l.versions(p.client())
	for _, k := range l.acked {
		if v, ok := versions[k.ref]; ok && stateBits[v.State]&k.key.may.Load() == 0 {
			l.t.Errorf("%s is %s, which it cannot be (%#b)", k.ref, v.State, k.key.may.Load())
		}
	}
}

// compare holds what the clients were told against what there is, once all is
// enabled or destroyed.
func (l *ledger) compare(keys map[string]api.KeyVersion) {
	acked := map[string]bool{}
	for _, k := range l.acked {
		acked[k.ref] = true
		v, ok := keys[k.ref]
		switch {
		case !ok && k.key.may.Load()&stateBits[api.VersionDestroyed] == 0:
			l.t.Errorf("LOST: %s was acknowledged", k.ref)
		case ok && !bytes.Equal(v.Public, k.public):
			l.t.Errorf("%s was acknowledged with the public key %x and has %x", k.ref, k.public, v.Public)
		}
	}
	l.acked = slices.DeleteFunc(l.acked, func(k *ackedKey) bool { return keys[k.ref].State == "" })
	for ref, v := range keys {
		name, _, _ := strings.Cut(ref, "@")
		if !acked[ref] && !l.unknown[ref] && strings.HasPrefix(name, "load/") {
			l.t.Errorf("%s is there and nobody asked for it", ref)
		}
		if v.State != api.VersionEnabled {
			l.t.Errorf("%s is %s", ref, v.State)
		}
		if !acked[ref] { // made after all, or another client's: it must be whole
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
		said, err := os.ReadFile(n.logFile())
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
	return askDevice(n, func(device hsm.Device) ([]hsm.Object, error) { return device.List(n.t.Context()) })
}

// askDevice opens a stopped node's device, logged in, for one question.
func askDevice[T any](n *process, ask func(hsm.Device) (T, error)) T {
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
	answer, askErr := ask(token)
	if err := errors.Join(err, askErr); err != nil {
		n.t.Fatal(err)
	}
	return answer
}
