package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
)

// loseLog takes a stopped node's log.
func (n *process) loseLog() {
	n.t.Helper()
	if err := os.RemoveAll(filepath.Join(n.dir, "data", "raft")); err != nil {
		n.t.Fatal(err)
	}
}

// All nodes lose their logs. The way back by docs/operations.md, and a blank device
// that is filled on it.
func TestRestoreByCommandLine(t *testing.T) {
	p := startProcesses(t, 3)
	publics := map[string]crypto.PublicKey{}
	for i := range 3 {
		name := fmt.Sprintf("db/%d", i)
		publics[name] = p.made(name)
	}
	file, plan, signature := p.path("custodians.backup"), p.path("plan.json"), p.path("alice.sig")
	p.nodectl(nil, "cluster", "backup", "--out", file)
	var shown backupShown
	if err := json.Unmarshal([]byte(p.nodectl(nil, "cluster", "backup", "inspect", file, "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	p.nodectl(nil, "key", "create", "db/after", "--type", "ecdsa-p256")
	at := func(n *process, more ...string) []string {
		return append([]string{"cluster", "restore", file, "--config", n.config(), "--plan", plan}, more...)
	}
	first := p.nodes[0]
	if said := p.failing(1, at(first)...); !strings.Contains(said, "stop the node first") {
		t.Errorf("while it runs: %s", said)
	}
	first.stop()
	if said := p.failing(1, at(first, "--accept-loss")...); !strings.Contains(said, "the cluster lives and needs no restore") {
		t.Errorf("while the others run: %s", said)
	}
	for _, n := range p.nodes {
		n.kill()
		n.loseLog()
	}
	p.refusesToStart(first)
	if said := p.failing(1, at(first)...); !strings.Contains(said, "--accept-loss") {
		t.Errorf("of a stale one: %s", said)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(p.path("bad"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := p.failing(1, "cluster", "restore", p.path("bad"), "--config", first.config(), "--plan", plan, "--accept-loss"); !strings.Contains(said, "not a backup that is whole") {
		t.Errorf("of a damaged one: %s", said)
	}
	plan = p.planRestore(file, signature)
	if said := p.failing(2, "operator", "sign", plan, "--out", p.path("other.sig")); !strings.Contains(said, shown.Digest) || !strings.Contains(said, "without nobody") {
		t.Errorf("what is signed: %s", said)
	}
	for _, n := range p.nodes {
		p.nodectl(nil, at(n, "--signature", signature, "--yes")...)
		p.nodectl(nil, at(n, "--signature", signature, "--yes")...) // again is no error
	}
	for _, n := range p.nodes {
		n.start()
	}
	p.awaitReady()
	p.nodectl(nil, "cluster", "refresh")
	for name, public := range publics {
		p.signs(p.nodes[1], name, public)
	}
	p.failing(1, "key", "show", "db/after")
	p.replaceDevice(p.nodes[2])
	for name, public := range publics {
		p.signs(p.nodes[2], name, public)
	}
	p.nodectl(nil, "key", "create", "db/again", "--type", "ecdsa-p256")
	p.nodectl(nil, "dkek", "drill")
	p.eventually("a device could be replaced", func(ctx context.Context) error {
		status, _, err := p.client().Status(ctx)
		if !status.Restore.Possible || status.Cluster.Incarnation != 2 {
			err = errors.Join(err, fmt.Errorf("%+v, incarnation %d", status.Restore, status.Cluster.Incarnation))
		}
		return err
	})
}

// refusesToStart wants a node to end by itself and to name the way out.
func (p *processes) refusesToStart(n *process) {
	p.t.Helper()
	n.start()
	<-n.exited
	if said := n.log(); n.state.Success() || !strings.Contains(said, "nodectl cluster restore") {
		p.t.Errorf("%v\n%s", n.state, said)
	}
	n.cmd = nil
}

// planRestore makes a plan at every node, as they differ in what they know, and
// signs the one that gives up most: that one all carry out.
func (p *processes) planRestore(file, signature string) (plan string) {
	p.t.Helper()
	most := uint64(0)
	for _, n := range p.nodes {
		path := p.path(n.name + ".json")
		p.nodectl(nil, "cluster", "restore", file, "--config", n.config(), "--accept-loss", "--reason", "all logs lost", "--plan", path)
		content, err := os.ReadFile(path)
		if err != nil {
			p.t.Fatal(err)
		}
		_, statement, err := node.ParseRecoveryPlan(content)
		if err != nil {
			p.t.Fatal(err)
		}
		if plan == "" || statement.Restore.Loses > most {
			plan, most = path, statement.Restore.Loses
		}
	}
	p.nodectl(nil, "operator", "sign", plan, "--out", signature, "--yes")
	return plan
}

// replaceDevice has a node's device die, and fills a blank one.
func (p *processes) replaceDevice(n *process) {
	p.t.Helper()
	n.stop()
	if err := os.Remove(n.devicePath()); err != nil {
		p.t.Fatal(err)
	}
	n.start()
	n.awaitHealth(func(h api.Health) bool { return h.Quorum })
	p.eventually("the blank device is known", func(ctx context.Context) error {
		var list api.Devices
		_, err := p.client().Do(ctx, api.DeviceList, nil, &list)
		for _, d := range list.Devices {
			if d.Name == n.name && d.KCV != "" {
				return fmt.Errorf("%+v", d)
			}
		}
		return err
	})
	p.nodectl(nil, "--timeout", settleTime.String(), "device", "replace", "--node", n.name, "--reason", "the card broke", "--wait")
	n.awaitHealth(func(h api.Health) bool { return h.Ready })
}
