//go:build faults

package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// file is a path in the node's data folder.
func (n *process) file(name string) string { return filepath.Join(n.dir, "data", name) }

// has tells whether a file is in the node's data folder.
func (n *process) has(name string) bool {
	_, err := os.Stat(n.file(name))
	return err == nil
}

// content is that of a file in the data folder; nil for none.
func (n *process) content(name string) []byte {
	n.t.Helper()
	content, err := os.ReadFile(n.file(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	return content
}

// shares are the names of the node's share files, "1-1".
func (n *process) shares() []string {
	var names []string
	paths, _ := filepath.Glob(n.file("shares/*"))
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}

// dkek opens a stopped node's device and asks for its DKEK.
func (n *process) dkek() hsm.DKEKStatus {
	n.t.Helper()
	return askDevice(n, func(device hsm.Device) (hsm.DKEKStatus, error) { return device.DKEK(n.t.Context()) })
}

// others are the nodes but some.
func (c *crashes) others(but ...*process) []*process {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *process) bool { return slices.Contains(but, n) })
}

// follower is a node that does not lead.
func (c *crashes) follower() *process {
	c.t.Helper()
	return c.others(c.leader())[0]
}

// at is the option that has nodectl ask these nodes and no other.
func at(nodes ...*process) string {
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, n.addr)
	}
	return "--addr=" + strings.Join(addresses, ",")
}

// status is what the first of these nodes that answers knows.
func (c *crashes) status(nodes ...*process) api.Status {
	c.t.Helper()
	status, _, err := c.client(nodes...).Status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return status
}

// create makes a key at a node, which is acknowledged.
func (c *crashes) create(n *process, name string, id byte) {
	c.t.Helper()
	c.eventually(name+" is acknowledged", func(ctx context.Context) error { return c.tryCreate(ctx, n, name, id) })
}

// tryCreate asks for a key under a request ID that is made of id.
func (c *crashes) tryCreate(ctx context.Context, n *process, name string, id byte) error {
	key, err := c.client(n).CreateKey(withID(ctx, id), api.KeyCreateRequest{Name: name, Type: "ecdsa-p256"})
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(key.Versions[0].Public)
	if err == nil {
		c.acked[name] = public
	}
	return err
}

func withID(ctx context.Context, id byte) context.Context {
	return client.WithRequestID(ctx, [16]byte{id})
}

// audit counts the records of an action that name all of these words, in a node's
// own state.
func (c *crashes) audit(n *process, action string, words ...string) int {
	c.t.Helper()
	var audit api.Audit
	if err := json.Unmarshal([]byte(c.nodectl(n, "audit", "-o", "json")), &audit); err != nil {
		c.t.Fatal(err)
	}
	count := 0
	for _, r := range audit.Records {
		text := r.Action + " " + r.Target + " " + r.Detail
		if r.Action == action && !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) }) {
			count++
		}
	}
	return count
}

// open opens a ceremony with alice's approval, and returns its ID.
func (c *crashes) open(args ...string) string {
	c.t.Helper()
	c.leader() // who was killed before may have led
	return strings.TrimSpace(c.nodectl(nil, append(args, "--reason", "a row of the table")...))
}

// ends waits for a ceremony's end, which is to be this one.
func (c *crashes) ends(id, outcome string) {
	c.t.Helper()
	var last api.Ceremony
	c.eventually("ceremony "+id+" ends", func(ctx context.Context) error {
		if _, err := c.client().Do(ctx, api.CeremonyShow, api.CeremonyQuery{ID: id}, &last); err != nil || last.Outcome == "" {
			return fmt.Errorf("%+v: %w", last.Progress, err)
		}
		return nil
	})
	if last.Outcome != outcome {
		c.t.Fatalf("ceremony %s ended as %s (%s), want %s", id, last.Outcome, last.Detail, outcome)
	}
}
