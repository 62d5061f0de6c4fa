//go:build faults

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// plan is all that happens, in an order of the seed's choice.
func (f *fire) plan() (plan []mishap) {
	times := func(count int, m mishap) {
		for range count {
			plan = append(plan, m)
		}
	}
	times(14, mishap{name: "killed", strike: (*fire).killed})
	times(6, mishap{name: "killed as leader", leader: true, strike: (*fire).killed})
	times(3, mishap{name: "paused", strike: (*fire).paused})
	times(1, mishap{name: "paused as leader", leader: true, strike: (*fire).paused})
	times(3, mishap{name: "its disk is full", ends: true, strike: (*fire).diskFull})
	times(1, mishap{name: "its disk is full as leader", ends: true, leader: true, strike: (*fire).diskFull})
	times(3, mishap{name: "its clock steps", strike: (*fire).clockSteps})
	times(1, mishap{name: "its clock steps as leader", leader: true, strike: (*fire).clockSteps})
	times(1, mishap{name: "burnt and replaced", alone: true, strike: (*fire).burnt})
	for _, how := range []string{"cut", "fail", "lost"} {
		for _, what := range []string{"device", "mark", "log", "snapshots"} {
			times(1, mishap{name: how + " " + what, ends: how == "fail", strike: func(f *fire, n *process) func() *process { return f.torn(n, how, what, nil) }})
		}
		for _, what := range []string{"shares", "releases"} {
			times(1, mishap{name: how + " " + what, alone: true, ends: how == "fail", strike: func(f *fire, n *process) func() *process { return f.torn(n, how, what, f.reshare) }})
		}
	}
	for _, how := range []string{"cut", "fail"} { // "lost" is "cut" here
		for _, what := range []string{"term", "vote"} {
			times(1, mishap{name: how + " " + what, alone: true, ends: how == "fail", strike: func(f *fire, n *process) func() *process { return f.torn(n, how, what, f.elect(n)) }})
		}
	}
	for _, d := range logDamages {
		times(1, mishap{name: "its log is " + d.name, strike: func(f *fire, n *process) func() *process { return f.damaged(n, "log", nil, d) }})
		if d.starts {
			times(1, mishap{name: "its vote is " + d.name, alone: true, strike: func(f *fire, n *process) func() *process { return f.damaged(n, "vote", f.elect(n), d) }})
		}
	}
	f.rng.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return plan
}

func (f *fire) killed(n *process) func() *process {
	n.kill()
	return started(n)
}

func started(n *process) func() *process {
	return func() *process {
		n.start()
		return n
	}
}

func (f *fire) paused(n *process) func() *process {
	n.pause()
	return func() *process {
		n.resume()
		return n
	}
}

// burnt loses a node with all that it had. Another one takes its place, as
// README.md has it.
func (f *fire) burnt(n *process) func() *process {
	n.kill()
	n.cmd = nil
	for _, name := range []string{"data", "device", "config.yaml"} {
		if err := os.RemoveAll(filepath.Join(n.dir, name)); err != nil {
			f.t.Fatal(err)
		}
	}
	return func() *process {
		next := f.add(fmt.Sprintf("node-%d", fireNodes+1))
		next.late = true
		next.awaitUnsealed()
		f.nodes[slices.Index(f.nodes, n)] = next
		f.join(next, "--via", f.nodes[(slices.Index(f.nodes, next)+1)%len(f.nodes)].name)
		f.nodectl(nil, "cluster", "refresh")
		f.nodectl(nil, "--timeout", settleTime.String(), "device", "replace", "--node", next.name, "--replaces", n.name, "--reason", "its machine burnt", "--wait")
		f.nodectl(nil, "cluster", "remove", n.name, "--yes")
		f.awaitVoters()
		f.eventually("the cluster file lacks it", func(context.Context) error { // whom refresh asks may not have heard of it
			f.nodectl(nil, "cluster", "refresh")
			if file, err := client.ReadClusterFile(f.path("cluster.json")); err != nil || len(file.Fingerprints()) != len(f.nodes) {
				return fmt.Errorf("%d members, %v", len(file.Fingerprints()), err)
			}
			return nil
		})
		return next
	}
}

// clockSteps sets a node's clock two minutes wrong, and right again.
func (f *fire) clockSteps(n *process) func() *process {
	seconds := 120 - 240*f.rng.IntN(2)
	if err := secret.WriteFile(n.clockFile(), fmt.Append(nil, seconds)); err != nil {
		f.t.Fatal(err)
	}
	f.make(2 * f.step)
	return func() *process {
		if err := os.Remove(n.clockFile()); err != nil {
			f.t.Fatal(err)
		}
		return n
	}
}

// diskFull leaves no room, until the node has met with it.
func (f *fire) diskFull(n *process) func() *process {
	before := len(n.said())
	fillDisk(f.t, n.dir)
	f.until(n.name+" finds its disk full", func() bool { return bytes.Contains(n.said()[before:], []byte(syscall.ENOSPC.Error())) })
	return func() *process {
		mountDisk(f.t, n.dir)
		return n
	}
}

// torn has a node's next write end badly: see internal/secret, file_faults.go. cause,
// if there is one, is what has it write, and is tried until it does.
func (f *fire) torn(n *process, how, what string, cause func()) (heal func() *process) {
	f.t.Helper()
	if err := secret.WriteFile(n.tornFile(), fmt.Appendf(nil, "%s %s %d", how, what, f.rng.Uint64())); err != nil {
		f.t.Fatal(err)
	}
	var causes chan struct{} // closed when cause has ended
	f.until(fmt.Sprintf("%s tears %s", n.name, what), func() bool {
		_, err := os.Stat(n.tornFile())
		if cause != nil && !errors.Is(err, fs.ErrNotExist) && !isOpen(causes) {
			causes = make(chan struct{})
			go func() { defer close(causes); cause() }()
		}
		return errors.Is(err, fs.ErrNotExist)
	})
	if how != "fail" {
		f.awaitTorn(n)
	}
	return func() *process {
		if how != "fail" {
			n.start()
		}
		if causes != nil {
			<-causes
		}
		return n
	}
}

// awaitTorn waits until a node has died of an order that it took.
func (f *fire) awaitTorn(n *process) {
	f.t.Helper()
	f.until(n.name+" dies", func() bool { return !isOpen(n.exited) })
	if status := n.state.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		f.t.Fatalf("%s ended otherwise than it was told to: %v\n%s", n.name, n.state, n.log())
	}
}

// reshare has every node release and write shares; what comes of it is looked at
// in the end.
func (f *fire) reshare() {
	f.closeCeremonies()
	f.try(nil, "--timeout", "20s", "dkek", "reshare", "--reason", "shares are to be torn")
}

// elect returns what has a node hear of another term and vote: whoever else leads
// stands still until there is another leader, or the node has died of it.
func (f *fire) elect(n *process) func() {
	return func() {
		leader := f.leads(nil)
		if leader == nil {
			return // the next try looks again
		}
		leader.pause()
		defer leader.resume()
		f.await(func() bool {
			_, err := os.Stat(n.tornFile())
			return errors.Is(err, fs.ErrNotExist) || f.leads(leader) != nil
		})
	}
}

// leads is the node that says that it leads, other than one that may not be asked; nil
// for none.
func (f *fire) leads(other *process) *process {
	ctx, cancel := context.WithTimeout(f.ctx, 5*time.Second)
	defer cancel()
	for _, n := range f.nodes {
		if n == other {
			continue
		}
		if metrics, err := n.metrics(ctx); err == nil && raftLeader.MatchString(metrics) {
			return n
		}
	}
	return nil
}

// closeCeremonies denies what a nodectl left open that was cut off before it signed:
// one sharing is dealt at a time.
func (f *fire) closeCeremonies() {
	var list api.Ceremonies
	_, printed, _ := f.try(nil, "--timeout", "10s", "ceremony", "list", "-o", "json")
	if json.Unmarshal([]byte(printed), &list) != nil {
		return // nobody leads; the next try looks again
	}
	for _, c := range list.Ceremonies {
		f.try(nil, "--timeout", "10s", "ceremony", "deny", c.ID, "--yes")
	}
}

// said is all that the node has said.
func (n *process) said() []byte {
	n.t.Helper()
	said, err := os.ReadFile(n.logFile())
	if err != nil {
		n.t.Fatal(err)
	}
	return said
}

// logDamage is what becomes of a Raft store that was torn: it is made of the file
// from before the last write and the one with it.
type logDamage struct {
	name   string
	starts bool // a power cut can leave this: a node must start with it
	make   func(f *fire, before, after [][]byte) [][]byte
}

// A bolt file is pages, of which the first two say in turn which of them count. It
// syncs what it writes before it writes one of these.
const boltPage, boltMetas = 4096, 2

var logDamages = []logDamage{
	{"without a part of its last write", true, func(f *fire, before, after [][]byte) [][]byte {
		return mixPages(before, after, func(i int) bool { return i >= boltMetas && f.rng.IntN(2) == 0 }, nil)
	}},
	{"scrambled where it was written last", true, func(f *fire, before, after [][]byte) [][]byte {
		return mixPages(before, after, func(i int) bool { return i >= boltMetas }, f.scramble)
	}},
	{"torn in the page that says what counts", true, func(f *fire, before, after [][]byte) [][]byte {
		pages := slices.Clone(after)
		for i := range boltMetas {
			if cut := f.rng.IntN(boltPage); !bytes.Equal(before[i], after[i]) {
				pages[i] = slices.Concat(after[i][:cut], before[i][cut:])
			}
		}
		return pages
	}},
	{"of two times", false, func(f *fire, before, after [][]byte) [][]byte {
		return mixPages(before, after, func(int) bool { return f.rng.IntN(2) == 0 }, nil)
	}},
	{"cut short", false, func(f *fire, _, after [][]byte) [][]byte {
		return after[:len(after)-f.rng.IntN(len(after)/2)-1]
	}},
	{"scrambled in a page", false, func(f *fire, _, after [][]byte) [][]byte {
		i := f.rng.IntN(len(after))
		return slices.Concat(after[:i], [][]byte{f.scramble(after[i])}, after[i+1:])
	}},
}

// mixPages is before with those pages of after that are taken, changed by change.
func mixPages(before, after [][]byte, taken func(i int) bool, change func([]byte) []byte) [][]byte {
	pages := slices.Clone(before)
	for i, page := range after {
		switch {
		case i >= len(pages):
			pages = append(pages, make([]byte, boltPage))
		case bytes.Equal(pages[i], page):
			continue
		}
		if taken(i) {
			if pages[i] = page; change != nil {
				pages[i] = change(page)
			}
		}
	}
	return pages
}

// scramble is a page with a part of it at random.
func (f *fire) scramble(page []byte) []byte {
	page = bytes.Clone(page)
	from := f.rng.IntN(len(page))
	for i := from; i < len(page); i++ {
		page[i] = byte(f.rng.Uint32())
	}
	return page
}

// damaged has a node die in a write of what its log's file holds, and start with what is made of that.
// It takes part again, or says that the log is damaged and lets it be: then the log
// is put back as it was at its death.
func (f *fire) damaged(n *process, what string, cause func(), d logDamage) (heal func() *process) {
	f.t.Helper()
	start := f.torn(n, "cut", what, cause)
	path := n.file("raft/log.db")
	whole := f.read(path)
	pages := d.make(f, inPages(f.read(path+".before")), inPages(whole))
	f.write(path, slices.Concat(pages...))
	if err := os.Remove(path + ".before"); err != nil {
		f.t.Fatal(err)
	}
	return func() *process {
		said := len(n.said())
		start()
		if f.refuses(n, said, path) {
			if d.starts {
				f.t.Errorf("%s refuses a log that is %s", n.name, d.name)
			}
			f.done["refused to start"]++
			f.write(path, whole)
			n.start()
		}
		return n
	}
}

// refuses tells whether a node that was started ends, which it may only by naming
// what is damaged.
func (f *fire) refuses(n *process, said int, path string) bool {
	f.t.Helper()
	refused := false
	f.until(n.name+" starts or refuses to", func() bool {
		refused = !isOpen(n.exited)
		return refused || f.ready(n)
	})
	if words := string(n.said()[said:]); refused && !strings.Contains(words, "its log and snapshots end") && !strings.Contains(words, path+" is damaged") {
		f.t.Errorf("%s ended with %v, and does not say that %s is damaged:\n%s", n.name, n.state, path, words)
	}
	return refused
}

// ready tells whether a node takes part now.
func (f *fire) ready(n *process) bool {
	c, err := client.New(client.Config{Addresses: []string{n.socket()}, Timeout: 5 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	var health api.Health
	_, err = c.Do(f.ctx, api.HealthState, nil, &health)
	return err == nil && health.Ready && health.Quorum
}

func (f *fire) read(path string) []byte {
	f.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	return content
}

func (f *fire) write(path string, content []byte) {
	f.t.Helper()
	if err := secret.WriteFile(path, content); err != nil {
		f.t.Fatal(err)
	}
}

func inPages(file []byte) [][]byte { return slices.Collect(slices.Chunk(file, boltPage)) }
