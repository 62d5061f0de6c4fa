package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// folder is all that lies on a node's machine: the mode of each file, and a hash of
// what is in it, by path.
func (n *process) folder() map[string]string {
	n.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(n.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files[path] = info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			files[path] += fmt.Sprintf(" %x", sha256.Sum256(content))
			return err
		}
		return nil
	})
	if err != nil || len(files) < 10 {
		n.t.Fatalf("%d files: %v", len(files), err)
	}
	return files
}

// refused wants a command line on a stopped node to fail for a reason, with every
// file of the node as it was before, and no other one.
func (p *processes) refused(n *process, why string, args ...string) (said string) {
	p.t.Helper()
	before := n.folder()
	args = append(args, "--config", n.config())
	code, _, said := p.try(nil, args...)
	if code != api.ExitFailed || !strings.Contains(said, why) {
		p.t.Errorf("nodectl %s: exit %d, want %q\n%s", strings.Join(args, " "), code, why, said)
	}
	after := n.folder()
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if after[path] != before[path] {
			p.t.Errorf("refused for %q, and %s is\n%s and was\n%s", why, path, after[path], before[path])
		}
		delete(before, path)
	}
	for path := range before {
		p.t.Errorf("refused for %q, and %s is gone", why, path)
	}
	return said
}

// rejected is refused of what would write a plan, which it does not.
func (p *processes) rejected(n *process, why string, args ...string) (said string) {
	p.t.Helper()
	plan := p.path("rejected.json")
	said = p.refused(n, why, append(args, "--reason", "rejected", "--plan", plan)...)
	if _, err := os.Lstat(plan); !errors.Is(err, fs.ErrNotExist) {
		p.t.Errorf("there is a plan: %v", err)
	}
	return said
}

// signed makes a plan by a command line, at a stopped node, and signs it. It returns
// what carries it out.
func (p *processes) signed(n *process, name string, args ...string) []string {
	p.t.Helper()
	plan, signature := p.path(name+".json"), p.path(name+".sig")
	p.nodectl(nil, append(args, "--config", n.config(), "--reason", name, "--plan", plan)...)
	p.nodectl(nil, "operator", "sign", plan, "--out", signature, "--yes")
	return []string{"--plan", plan, "--signature", signature, "--yes"}
}

// isBehind tells whether another survivor of two has come further than a stopped
// node: who led last may have entries that no other one has.
func (p *processes) isBehind(n *process, args ...string) bool {
	p.t.Helper()
	code, _, said := p.try(nil, append(args, "--config", n.config(), "--plan", p.path("rejected.json"))...)
	if code != api.ExitFailed {
		p.t.Fatalf("exit %d\n%s", code, said)
	}
	return strings.Contains(said, "has come further")
}

// spoilt are copies of a file that are not what was written, by what was done.
func (p *processes) spoilt(file string) map[string]string {
	p.t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	flipped := func(at int) []byte {
		other := slices.Clone(content)
		other[at] ^= 1
		return other
	}
	paths := map[string]string{}
	for name, other := range map[string][]byte{
		"first bit": flipped(0), "a bit in the middle": flipped(len(content) / 2), "last bit": flipped(len(content) - 1),
		"cut off": content[:len(content)-1], "half": content[:len(content)/2], "empty": nil, "a byte more": append(slices.Clone(content), 0),
	} {
		paths[name] = p.path(strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(paths[name], other, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	return paths
}

// What may not be done to a stopped node is refused before anything is changed: the
// cluster that was there afterwards runs as before.
func TestRefusedRecoveriesAndRestoresChangeNothing(t *testing.T) {
	foreign := startProcesses(t, 1)
	foreign.nodectl(nil, "cluster", "backup", "--out", foreign.path("backup"))
	foreign.nodes[0].kill()

	p := startProcesses(t, 3)
	publics := map[string]crypto.PublicKey{"early": p.made("early")}
	stale, file := p.path("stale.backup"), p.path("fresh.backup")
	p.nodectl(nil, "cluster", "backup", "--out", stale)
	publics["late"] = p.made("late")
	p.agree()
	first, second, third := p.nodes[0], p.nodes[1], p.nodes[2]
	recovery, restore := []string{"cluster", "recover"}, []string{"cluster", "restore"}
	with := func(command []string, more ...string) []string { return slices.Concat(command, more) }

	// Others run.
	first.stop()
	p.rejected(first, "node-2 answers", with(recovery, "--lost", "node-2", "--lost", "node-3")...)
	p.rejected(first, "the cluster lives and needs no restore", with(restore, stale, "--accept-loss")...)
	second.stop()
	p.rejected(first, "node-2 does not answer", with(recovery, "--lost", "node-3")...)
	third.stop()
	without := p.signed(first, "without", with(recovery, "--lost", "node-2", "--lost", "node-3")...)
	gives := p.signed(first, "gives", with(restore, stale, "--accept-loss")...)
	third.start()
	third.lastEntry()
	stopped, runs := second, third
	for tries := 0; p.isBehind(stopped, with(recovery, "--lost", "node-1")...); tries++ {
		if tries == 10 {
			t.Fatal("of two survivors the one that is stopped last is always behind")
		}
		stopped.start()
		stopped.lastEntry()
		runs.stop()
		stopped, runs = runs, stopped
	}
	p.rejected(stopped, "2 of 3 voters are left, which is a majority", with(recovery, "--lost", "node-1")...)
	if runs == second {
		second.stop()
		third.start()
		third.lastEntry()
	}
	p.refused(first, "node-3 answers", with(recovery, without...)...)
	p.refused(first, "the cluster lives and needs no restore", with(restore, with([]string{stale}, gives...)...)...)

	// The cluster goes on, and knows of more than what was signed gives up.
	first.start()
	second.start()
	p.awaitReady()
	publics["later"] = p.made("later")
	p.nodectl(nil, "cluster", "backup", "--out", file)
	p.agree()
	for _, n := range p.nodes {
		n.stop()
	}
	p.refused(first, "make the plan anew", with(recovery, without...)...)
	p.refused(first, "operators signed for", with(restore, with([]string{stale}, gives...)...)...)
	p.rejected(first, "--accept-loss", with(restore, stale)...)
	carry := p.signed(first, "carry", with(restore, file, "--accept-loss")...)
	p.refused(first, "not of this backup", with(restore, with([]string{stale}, carry...)...)...)
	p.rejected(first, "the backup is of cluster", with(restore, foreign.path("backup"), "--accept-loss")...)
	p.refused(first, "the backup is of cluster", with(restore, with([]string{foreign.path("backup")}, carry...)...)...)
	for what, bad := range p.spoilt(file) {
		p.rejected(first, "not a backup that is whole", with(restore, bad, "--accept-loss")...)
		p.refused(first, "not a backup that is whole", with(restore, with([]string{bad}, carry...)...)...)
		if t.Failed() {
			t.Fatal("of a file with damage: ", what)
		}
	}

	// From before a change of the operators.
	for _, n := range p.nodes {
		n.start()
	}
	p.awaitReady()
	p.nodectl(nil, "operator", "new", "--out", p.path("bob.pem"))
	p.nodectl(nil, "operator", "add", p.path("bob.pem.pub"), "--reason", "one more")
	p.eventually("every node believes the new set", func(ctx context.Context) error {
		for _, n := range p.nodes {
			var set api.OperatorSet
			if _, err := p.client(n).Do(ctx, api.OperatorList, nil, &set); err != nil || set.Number != 2 {
				return fmt.Errorf("%s: %+v, %v", n.name, set, err)
			}
		}
		return nil
	})
	p.nodectl(nil, "operator", "pin")
	for _, n := range p.nodes {
		n.stop()
	}
	p.rejected(first, "the backup ends at operator set 1, and set 2 is in force here", with(restore, file, "--accept-loss")...)
	p.refused(first, "the backup ends at operator set 1, and set 2 is in force here", with(restore, with([]string{file}, carry...)...)...)

	// A member's log is lost: the others need no restore, and what is left is left.
	first.loseLog()
	p.rejected(first, "this node's log is gone", with(recovery, "--lost", "node-2", "--lost", "node-3")...)
	for _, n := range p.nodes[1:] {
		n.start()
	}
	for _, n := range p.nodes[1:] {
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
	}
	for name, public := range publics {
		p.signs(second, name, public)
	}
}
