//go:build faults

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
)

// Nodes die while their secrets change, and at last a node dies while it goes on
// without the others.
func TestCrashWithSecrets(t *testing.T) {
	c := newCrashes(startProcesses(t, 3))
	for i, n := range c.nodes {
		c.create(n, fmt.Sprintf("key/%d", i), byte(i+1))
	}
	c.agree()
	c.run(t, secretRows())
}

func secretRows() []crashRow {
	reseal := func(point string, begun bool) func(*testing.T, *crashes) {
		return func(_ *testing.T, c *crashes) { c.crashInReseal(point, begun) }
	}
	rotation := func(point string, count int) func(*testing.T, *crashes) {
		return func(_ *testing.T, c *crashes) { c.crashInRotation(point, count) }
	}
	return []crashRow{
		{"26", reseal("before write reseal", false)},
		{"27 nothing anew", reseal("after write reseal", true)},
		{"27 pins anew", reseal("after write pins", true)},
		{"27 but the identity", reseal("before write identity", true)},
		{"28", reseal("before remove reseal", true)},
		{"29", rotation("next key written", 1)},
		{"29 proposed", rotation("appended MemberRotateKey", 1)},
		{"30", rotation("rotation committed", 1)},
		{"31", rotation("after write identity", 2)}, // the first is of the next key beside the present one
		{"32", crashWithStoresBuilt},
		{"33", crashWithStoresMoved},
	}
}

// crashInReseal is a reseal that a node dies in. If it was begun, the former secret
// starts the node no more, and the new one finishes it.
func (c *crashes) crashInReseal(point string, begun bool) {
	c.t.Helper()
	n := c.follower()
	next := c.path("next.seal")
	key := secret.Random(secret.KeySize)
	defer key.Wipe()
	var err error
	key.With(func(b []byte) { err = secret.WriteFile(next, b) })
	if err != nil {
		c.t.Fatal(err)
	}
	n.dieAt(point)
	if code, _, _ := c.try(n, "device", "reseal", "--present", "file:"+n.seal, "--new", "file:"+next); code == 0 {
		c.t.Error("it answered")
	}
	n.awaitDeath()
	if n.has("reseal") != begun {
		c.t.Errorf("the file reseal is there: %v", !begun)
	}
	if begun {
		n.start()
		n.awaitHealth(func(h api.Health) bool {
			return h.State == api.StateSealed && strings.Contains(h.Missing, "give the one that it was begun with")
		})
		n.stop()
		if err := os.Rename(next, n.seal); err != nil {
			c.t.Fatal(err)
		}
	}
	n.restart()
	if n.has("reseal") {
		c.t.Error("the file reseal is left")
	}
	c.eventually("its share is good", func(ctx context.Context) error {
		status, _, err := c.client(n).Status(ctx)
		for _, h := range status.DKEK.Holders {
			if h.Name == n.name && (h.Share == nil || !h.Share.OK) {
				err = fmt.Errorf("%+v", h.Share)
			}
		}
		return err
	})
	for name, public := range c.acked {
		c.signs(n, name, public)
	}
}

// crashInRotation is a rotation of a node's key that the node dies in, and that is
// finished all the same. When the former key is gone, the next rotation may begin.
func (c *crashes) crashInRotation(point string, count int) {
	c.t.Helper()
	n := c.follower()
	old := c.fingerprint(n)
	n.order(count, syscall.SIGKILL, point)
	c.eventually("the rotation begins", func(context.Context) error { // once everybody knows the one before
		code, _, said := c.try(n, "cluster", "rotate-key")
		if strings.Contains(said, "not every member knows it yet") {
			return errors.New(said)
		}
		if code == 0 {
			c.t.Error("it answered")
		}
		return nil
	})
	n.awaitDeath()
	n.start()
	var next string
	c.eventually("the others know another key", func(ctx context.Context) (err error) {
		if next, err = c.fingerprintNow(ctx, n); next == old {
			err = errors.New("not yet")
		}
		return err
	})
	c.refresh(n)
	n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
	c.eventually("the former key is gone", func(context.Context) error {
		if code, _, said := c.try(n, "cluster", "rotate-key"); code != 0 {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
	c.refresh(n)
	if again := c.fingerprint(n); again == old || again == next {
		c.t.Errorf("the keys were %s, %s, and now %s", old, next, again)
	}
}

// refresh has the cluster file tell a node's new key, at the others' word.
func (c *crashes) refresh(n *process) {
	c.t.Helper()
	c.eventually("the cluster file is fresh", func(context.Context) error {
		if code, _, said := c.try(nil, "cluster", "refresh", at(c.others(n)...)); code != 0 {
			return errors.New(said)
		}
		return nil
	})
}

// fingerprint is that of a node's key as the others know it.
func (c *crashes) fingerprint(n *process) (known string) {
	c.t.Helper()
	c.eventually("the others know it", func(ctx context.Context) (err error) {
		known, err = c.fingerprintNow(ctx, n)
		return err
	})
	return known
}

func (c *crashes) fingerprintNow(ctx context.Context, n *process) (string, error) {
	status, _, err := c.client(c.others(n)...).Status(ctx)
	for _, m := range status.Members {
		if m.Name == n.name {
			return m.Fingerprint, err
		}
	}
	return "", errors.Join(err, fmt.Errorf("%s is no member", n.name))
}

// recover is a process that carries the signed plan out on a node's folder.
func (c *crashes) recover(n *process) {
	c.t.Helper()
	n.run("cluster", "recover", "--config", n.config(), "--plan", c.plan, "--signature", c.path("alice.sig"), "--yes")
}

// From here on two of three nodes are lost.
func crashWithStoresBuilt(t *testing.T, c *crashes) {
	last := c.nodes[2]
	last.stop()
	for _, n := range c.others(last) {
		n.destroy()
	}
	c.nodes = []*process{last}
	c.plan = c.path("plan.json")
	c.nodectl(nil, "cluster", "recover", "--config", last.config(), "--plan", c.plan, "--lost", "node-1", "--lost", "node-2", "--reason", "burnt")
	c.nodectl(nil, "operator", "sign", c.plan, "--out", c.path("alice.sig"), "--yes")
	last.dieAt("stores built")
	c.recover(last)
	last.awaitDeath()
	if !last.has("raft/log.db") || !last.has("raft.new/log.db") || last.has("raft-before-2") {
		t.Error("it died too early or too late")
	}
}

// It begins with the folder that row 32 left, from which the command begins anew.
func crashWithStoresMoved(t *testing.T, c *crashes) {
	last := c.nodes[0]
	last.dieAt("stores moved")
	c.recover(last)
	last.awaitDeath()
	if last.has("raft") || !last.has("raft-before-2/log.db") {
		t.Error("it died too early or too late")
	}
	data, copied := last.file(""), last.dir+"/copy"
	if err := exec.Command("cp", "-a", data, copied).Run(); err != nil {
		t.Fatal(err)
	}
	c.recover(last)
	if <-last.exited; !last.state.Success() || !last.has("raft/log.db") {
		t.Errorf("the same command again: %v", last.state)
	}
	if err := errors.Join(os.RemoveAll(data), os.Rename(copied, data)); err != nil {
		t.Fatal(err)
	}
	last.restart()
	if stores, _ := filepath.Glob(last.file("raft*")); len(stores) != 2 {
		t.Errorf("stores: %v", stores)
	}
	c.nodectl(nil, "cluster", "refresh")
	if status := c.status(last); status.Cluster.Incarnation != 2 {
		t.Errorf("incarnation %d", status.Cluster.Incarnation)
	}
	c.create(last, "after", 99)
}
