package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// destroy burns a node's machine: process, data folder, device and seal secret.
func (n *process) destroy() {
	n.t.Helper()
	n.kill()
	n.cmd = nil
	if err := errors.Join(os.RemoveAll(n.dir), os.Remove(n.seal)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *process) config() string { return filepath.Join(n.dir, "config.yaml") }

// signs has a key sign at a node, and verifies that under its public half.
func (p *processes) signs(n *process, name string, public crypto.PublicKey) {
	p.t.Helper()
	p.eventually(name+" signs", func(ctx context.Context) error {
		key, err := p.client(n).Key(ctx, name)
		if err != nil {
			return err
		}
		digest := sha256.Sum256([]byte(name))
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		return verifyWithLibrary(public, digest[:], signature)
	})
}

// made makes a key, which is acknowledged, and returns its public half.
func (p *processes) made(name string) crypto.PublicKey {
	p.t.Helper()
	p.nodectl(nil, "key", "create", name, "--type", "ecdsa-p256")
	key, err := p.client().Key(p.t.Context(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	return key.Public()
}

// Two of three machines burn. The way back by the command line, and what it
// refuses on the way.
func TestRecoverByCommandLine(t *testing.T) {
	p := startProcesses(t, 3)
	publics := map[string]crypto.PublicKey{}
	for i := range 3 {
		name := fmt.Sprintf("db/%d", i)
		publics[name] = p.made(name)
	}
	last := p.nodes[2]
	p.eventually("the last one's device has all keys", func(ctx context.Context) error {
		var list api.Devices
		_, err := p.client(last).Do(ctx, api.DeviceList, nil, &list)
		for _, d := range list.Devices {
			if d.Name == last.name && (d.Restored == nil || d.Restored.Done < 3) {
				return fmt.Errorf("%+v", d.Restored)
			}
		}
		return err
	})
	plan, signature := p.path("plan.json"), p.path("alice.sig")
	recovery := []string{"cluster", "recover", "--config", last.config(), "--plan", plan}
	lost := append(recovery, "--lost", "node-1", "--lost", "node-2", "--reason", "burnt")
	if said := p.failing(1, lost...); !strings.Contains(said, "stop the node first") {
		t.Errorf("while it runs: %s", said)
	}
	last.stop()
	if said := p.failing(1, lost...); !strings.Contains(said, "node-1 answers") {
		t.Errorf("while a lost one answers: %s", said)
	}
	for _, n := range p.nodes[:2] {
		n.destroy()
	}
	p.nodectl(nil, lost...)
	p.failing(1, lost...) // the plan is there
	if said := p.failing(2, "operator", "sign", plan, "--out", signature); !strings.Contains(said, "without node-1, node-2") {
		t.Errorf("what is signed: %s", said)
	}
	p.nodectl(nil, "operator", "sign", plan, "--out", signature, "--yes")
	p.nodectl(nil, "operator", "new", "--out", p.path("mallory.pem"))
	p.nodectl(nil, "--key", p.path("mallory.pem"), "operator", "sign", plan, "--out", p.path("mallory.sig"), "--yes")
	carry := func(signature string, more ...string) []string {
		return append(append(append([]string{}, recovery...), "--signature", signature), more...)
	}
	if said := p.failing(1, carry(p.path("mallory.sig"), "--yes")...); !strings.Contains(said, "who is no operator") {
		t.Errorf("by a stranger's signature: %s", said)
	}
	if said := p.failing(2, carry(signature)...); !strings.Contains(said, "removed for ever") {
		t.Errorf("unasked: %s", said)
	}
	p.nodectl(nil, carry(signature, "--yes")...)
	last.start()
	last.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
	p.nodes = []*process{last}
	p.nodectl(nil, "cluster", "refresh")
	for name, public := range publics {
		p.signs(last, name, public)
	}
	p.nodectl(nil, "key", "create", "db/after", "--type", "ecdsa-p256")
	if status := p.nodectl(nil, "cluster", "status"); !strings.Contains(status, "cannot be put together any more") {
		t.Errorf("status says\n%s", status)
	}
	if _, err := os.Stat(filepath.Join(last.dir, "data", "raft-before-2")); err != nil {
		t.Errorf("the former log: %v", err)
	}
	last.stop()
}

// logEnd is where a node's log ends. The term is the node's, which may have gone on
// since its last entry.
type logEnd struct{ term, index int }

// lastEntry is where a node's log ends, as its metrics say.
func (n *process) lastEntry() (end logEnd) {
	n.t.Helper()
	eventually(n.t, n.name+" says where its log ends", func(ctx context.Context) error {
		metrics, err := n.metrics(ctx)
		term, index := raftTerm.FindStringSubmatch(metrics), raftLastIndex.FindStringSubmatch(metrics)
		if err != nil || term == nil || index == nil || index[1] == "0" {
			return errors.Join(err, errors.New("it does not"))
		}
		_, err = fmt.Sscanf(term[1]+" "+index[1], "%d %d", &end.term, &end.index)
		return err
	})
	return end
}

// isIn wants a recovery to have shown where a log ends, in words that begin so, and
// returns what it showed.
func (e logEnd) isIn(t *testing.T, said, begin string) string {
	t.Helper()
	found := regexp.MustCompile(regexp.QuoteMeta(begin) + `(term (\d+), index (\d+))`).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("no %q in\n%s", begin, said)
	}
	if shown := (logEnd{atoi(found[2]), atoi(found[3])}); shown.index != e.index || shown.term == 0 || shown.term > e.term {
		t.Errorf("%s%s, and the log ends at %+v", begin, found[1], e)
	}
	return found[1]
}

func atoi(text string) int {
	number, _ := strconv.Atoi(text)
	return number
}

var raftLastIndex = regexp.MustCompile(`(?m)^keycustodian_raft_last_index (\S+)$`)

// Three of five machines burn. Of the two that are left one was away when the last
// keys were made: the other one goes on, and a third machine takes a place beside
// them. All keys that were ever acknowledged work in it.
func TestRecoverWhereThreeOfFiveAreLost(t *testing.T) {
	p := startProcesses(t, 5)
	publics := map[string]crypto.PublicKey{"early/0": p.made("early/0"), "early/1": p.made("early/1")}
	lags, ahead := p.nodes[3], p.nodes[4]
	p.nodectl(nil, "--timeout", settleTime.String(), "dkek", "reshare", "--holder", "node-3", "--holder", "node-4", "--holder", "node-5", "--threshold", "2", "--reason", "two are enough")
	p.agree()
	lags.stop()
	all := p.nodes
	p.nodes = slices.DeleteFunc(slices.Clone(all), func(n *process) bool { return n == lags })
	publics["late/0"], publics["late/1"] = p.made("late/0"), p.made("late/1")
	p.agree()
	for _, n := range all[:3] {
		n.destroy()
	}
	p.nodes = []*process{ahead, lags}
	ends := map[*process]logEnd{ahead: ahead.lastEntry()}

	recovery := []string{"cluster", "recover", "--lost", "node-1", "--lost", "node-2", "--lost", "node-3"}
	said := p.rejected(lags, "recover there", recovery...)
	ahead.stop()
	p.rejected(lags, "node-5 does not answer", recovery...)
	p.rejected(ahead, "node-4 does not answer", recovery...)
	lags.start()
	lags.awaitUnsealed()
	ends[lags] = lags.lastEntry()
	if ends[lags].index >= ends[ahead].index {
		t.Fatalf("the logs end at %+v and %+v", ends[lags], ends[ahead])
	}
	shown := map[*process]string{
		ahead: ends[ahead].isIn(t, said, "node-5 has come further ("), lags: ends[lags].isIn(t, said, "than this node ("),
	}
	carry := p.signed(ahead, "carry", recovery...)
	code, _, said := p.try(nil, "operator", "sign", p.path("carry.json"), "--out", p.path("unsigned"))
	for _, n := range p.nodes {
		if want := fmt.Sprintf("%s goes on; its log ends at %s\n", n.name, shown[n]); code != api.ExitUsage || !strings.Contains(said, want) {
			t.Errorf("want %q before a signature:\n%s", want, said)
		}
	}
	p.nodectl(nil, slices.Concat([]string{"cluster", "recover", "--config", ahead.config()}, carry)...)
	ahead.start()
	p.awaitReady()
	p.nodectl(nil, "cluster", "refresh")
	status, _, err := p.client(lags).Status(t.Context())
	if err != nil || status.Cluster.Incarnation != 2 || len(status.Members) != 2 {
		t.Errorf("incarnation %d with %d members: %v", status.Cluster.Incarnation, len(status.Members), err)
	}

	fresh := p.add("node-6")
	fresh.awaitUnsealed()
	p.join(fresh)
	p.nodes = append(p.nodes, fresh)
	p.awaitVoters()
	p.nodectl(nil, "--timeout", settleTime.String(), "device", "replace", "--node", fresh.name, "--reason", "in the place of node-3", "--wait")
	publics["after"] = p.made("after")
	p.agree()
	p.nodectl(nil, "--timeout", settleTime.String(), "dkek", "reshare", "--reason", "three again")
	p.nodectl(nil, "--timeout", settleTime.String(), "dkek", "drill", "--node", fresh.name, "--sample", "100")
	for _, n := range p.nodes { // each by its own device: the others stand still
		others := slices.DeleteFunc(slices.Clone(p.nodes), func(other *process) bool { return other == n })
		for _, other := range others {
			other.pause()
		}
		for name, public := range publics {
			p.signs(n, name, public)
		}
		for _, other := range others {
			other.resume()
		}
	}
}
