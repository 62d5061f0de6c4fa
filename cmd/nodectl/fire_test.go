//go:build faults

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

const (
	// fireNodes may lose fireOut at a time and go on.
	fireNodes, fireOut = 5, 2
	// fireCreates must be acknowledged, by fireWriters clients.
	fireCreates, fireWriters = 5000, 24
	// firePatience ends a fire that does not get that far.
	firePatience = 9 * time.Minute
	// fireSnapshots is how many log entries make a snapshot due.
	fireSnapshots = 300
)

// fireActs are how many of each act must be acknowledged beside what is made.
var fireActs = map[act]int{actRotate: 50, actDisable: 50, actEnable: 20, actDelete: 20, actUndelete: 5, actDestroy: 5, actList: 10}

// fire is a cluster under a load that meets with mishaps.
type fire struct {
	*processes
	ctx  context.Context
	rng  *rand.Rand
	l    *ledger
	step int            // keys that are made while a mishap lasts
	done map[string]int // mishaps, by their name
	out  map[*process]bool
}

// mishap is what happens to one node. What it waits for comes by the load.
type mishap struct {
	name   string
	alone  bool // not while another node is out
	leader bool // it happens to whoever leads
	ends   bool // a node may end by itself, where it cannot write
	// strike returns what ends it, and that returns who is there then.
	strike func(f *fire, n *process) (heal func() *process)
}

// Nodes are killed, paused and cut off from their disk and the right time; what
// they write is torn, and the logs of some are not what they wrote. All of it
// happens while clients make, use, rotate, disable and delete keys, two nodes of five
// being out at most. What was acknowledged stays and is proven, what was destroyed
// stays so, and in the end all nodes and devices tell the same.
//
// Counts decide when it is over. KEYCUSTODIAN_SEED repeats what happens to whom in
// which order, and what is left of what is torn; when it does is up to the machine.
func TestFire(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	if !inOwnMounts(t) {
		return
	}
	seed := seedOf(t)
	ctx, cancel := context.WithTimeout(t.Context(), firePatience)
	defer cancel()
	p := startProcesses(t, fireNodes, func(p *processes) {
		p.disk = func(dir string) { mountDisk(t, dir) }
		p.env = []string{fmt.Sprintf("KEYCUSTODIAN_SNAPSHOT_AFTER=%d", fireSnapshots)}
	})
	f := &fire{processes: p, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 1<<32)), l: newLedger(t), done: map[string]int{}, out: map[*process]bool{}}
	f.l.creates, f.l.typ, f.l.may = 88, fireType, 0
	f.l.excuses = []api.Code{api.CodeDevice} // that cannot write
	stop := f.load(seed, f.l, fireWriters, nil)
	defer stop()
	defer f.logs()
	f.burn()
	stop()
	f.settle()
}

// burn has every mishap happen, the next one while the node that met with the one
// before comes back, and goes on until the load has what it needs.
func (f *fire) burn() {
	f.t.Helper()
	plan := f.plan()
	f.step = fireCreates * 3 / 4 / len(plan) // others are made while a node comes back
	back := func() {}
	for _, m := range plan {
		if m.alone {
			back()
			back = func() {}
		}
		again := f.strike(m)
		f.make(f.step)
		back()
		if back = again(); m.alone {
			back()
			back = func() {}
		}
	}
	back()
	f.make(max(0, fireCreates-f.count()))
	f.until("the load has what it needs", func() bool { return f.l.lacks(fireActs, fireCreates) == "" })
	f.t.Logf("mishaps: %v; %s", f.done, f.l)
}

// strike picks the node that a mishap is for, and has it happen. It returns what ends
// it, and that returns what waits until the node is back.
func (f *fire) strike(m mishap) (again func() (back func())) {
	f.t.Helper()
	var n *process
	if m.leader {
		n = f.leader()
	}
	for n == nil || f.out[n] {
		n = f.nodes[f.rng.IntN(len(f.nodes))]
	}
	if f.out[n] = true; len(f.out) > fireOut {
		f.t.Fatalf("%d nodes are out", len(f.out))
	}
	began := time.Now()
	f.t.Logf("%4d keys: %s: %s", f.count(), n.name, m.name)
	heal := m.strike(f, n)
	return func() (back func()) {
		there := heal()
		return func() {
			f.awaitBack(there, m.ends)
			delete(f.out, n)
			f.done[m.name]++
			f.t.Logf("%4d keys: %s is back from %s after %v", f.count(), there.name, m.name, time.Since(began).Round(time.Millisecond))
		}
	}
}

// awaitBack waits until a node takes part. One that may have ended, because it could
// not write, is started again: what supervises it does so too.
func (f *fire) awaitBack(n *process, ends bool) {
	f.t.Helper()
	f.until(n.name+" is back", func() bool {
		if !isOpen(n.exited) {
			if !ends {
				f.t.Fatalf("%s has ended: %v\n%s", n.name, n.state, n.log())
			}
			f.done["ended by itself"]++
			n.start()
		}
		return f.ready(n)
	})
}

func (f *fire) count() int {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	return len(f.l.keys)
}

// make waits until so many more keys were acknowledged.
func (f *fire) make(more int) {
	f.t.Helper()
	f.l.allow(more)
	want := f.count() + more
	f.until(fmt.Sprintf("%d keys were made", more), func() bool { return f.count() >= want })
}

// allow lets the load make more versions than it may now.
func (l *ledger) allow(more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.may = max(l.may, l.made+more)
}

// until waits, with the load making a few keys meanwhile, until something is so.
func (f *fire) until(what string, so func() bool) {
	f.t.Helper()
	if !f.await(func() bool { f.l.allow(1); return so() }) {
		f.t.Fatalf("it is not so that %s: %v; reached: mishaps %v; lacking %s; %s", what, f.ctx.Err(), f.done, f.l.lacks(fireActs, fireCreates), f.l)
	}
}

// await waits until something is so; false: the fire has lasted too long.
func (f *fire) await(so func() bool) bool {
	for !so() {
		select {
		case <-f.ctx.Done():
			return false
		case <-time.After(pollEvery):
		}
	}
	return true
}

// settle looks at what is left.
func (f *fire) settle() {
	f.t.Helper()
	f.awaitReady()
	f.l.states(f.processes)
	f.closeCeremonies()
	f.nodectl(nil, "dkek", "reshare", "--reason", "every share is whole")
	f.nodectl(nil, "dkek", "drill", "--sample", "100", "--reason", "and brings keys back")
	f.l.revive(f.processes)
	keys := f.agree()
	f.l.noneComesBack(f.processes)
	f.l.compare(keys)
	f.l.everyKeyAnswers(f.processes)
	f.noOrphans(keys)
	f.holdNoSecret()
	f.t.Logf("%d versions at the end; %s", len(keys), f.l)
}

// noneComesBack asks every node to use each version that was destroyed.
func (l *ledger) noneComesBack(p *processes) {
	l.t.Helper()
	versions := l.versions(p.client())
	var gone []*ackedKey
	for _, k := range l.acked {
		if versions[k.ref].State == api.VersionDestroyed {
			gone = append(gone, k)
		}
	}
	if len(gone) < fireActs[actDestroy] {
		l.t.Errorf("%d versions are destroyed", len(gone))
	}
	var nodes sync.WaitGroup
	for _, n := range p.nodes {
		c := p.client(n)
		nodes.Go(func() {
			for _, k := range gone {
				if err := l.answer(l.t.Context(), c, k); !errors.Is(err, &api.Error{Code: api.CodeWrongState}) {
					l.t.Errorf("%s was destroyed, and %s says %v", k.ref, n.name, err)
				}
			}
		})
	}
	nodes.Wait()
}

// fireType is mostly P-256, which is made quickly.
func fireType(rng *rand.Rand) string {
	switch rng.IntN(20) {
	case 0:
		return "ed25519"
	case 1:
		return "aes-256"
	}
	return "ecdsa-p256"
}

// logs shows what the nodes said, of a test that failed.
func (f *fire) logs() {
	if f.t.Failed() {
		for _, n := range f.nodes {
			f.t.Log(n.log())
		}
	}
}

// A fire lacks none of what it should have, and never more nodes than it can.
func TestFireIsPlanned(t *testing.T) {
	f := &fire{rng: rand.New(rand.NewPCG(1, 2))}
	names := map[string]int{}
	kills := 0
	for _, m := range f.plan() {
		names[m.name]++
		if strings.HasPrefix(m.name, "killed") {
			kills++
		}
	}
	if kills < 20 || fireOut > (fireNodes-1)/2 || fireCreates < 5000 {
		t.Errorf("%d kills; %d of %d nodes out; %d keys", kills, fireOut, fireNodes, fireCreates)
	}
	for _, what := range []string{"device", "shares", "releases", "snapshots", "mark", "log"} {
		for _, how := range []string{"cut", "fail", "lost"} {
			if names[how+" "+what] == 0 {
				t.Errorf("no write of %s is %s", what, how)
			}
		}
	}
	if names["burnt and replaced"] == 0 {
		t.Error("no node burns")
	}
	for _, name := range []string{"cut term", "fail term", "cut vote", "fail vote", "its vote is " + logDamages[0].name} {
		if names[name] == 0 {
			t.Errorf("there is no %q", name)
		}
	}
	for _, name := range []string{"paused", "its disk is full", "its clock steps"} {
		if names[name] < 3 {
			t.Errorf("%q happens %d times: %v", name, names[name], slices.Sorted(maps.Keys(names)))
		}
	}
}
