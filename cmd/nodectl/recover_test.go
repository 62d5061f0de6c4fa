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

// Two of three machines burn. The way back by the command line, and what it
// refuses on the way.
func TestRecoverByCommandLine(t *testing.T) {
	p := startProcesses(t, 3)
	publics := map[string]crypto.PublicKey{}
	for i := range 3 {
		name := fmt.Sprintf("db/%d", i)
		p.nodectl(nil, "key", "create", name, "--type", "ecdsa-p256")
		key, err := p.client().Key(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		publics[name] = key.Public()
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
