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
	reseal := func(point string, begun bool, then ...string) func(*testing.T, *crashes) {
		return func(_ *testing.T, c *crashes) { c.crashInReseal(point, begun, then...) }
	}
	rotation := func(point string, count int) func(*testing.T, *crashes) {
		return func(_ *testing.T, c *crashes) { c.crashInRotation(point, count) }
	}
	return []crashRow{
		{"26", reseal("before write reseal", false)},
		{"27 nothing anew", reseal("after write reseal", true)},
		{"27 the device anew", reseal("before write pins", true)},
		{"27 pins anew", reseal("after write pins", true)},
		{"27 releases anew", reseal("after write releases", true)},
		{"27 the share anew", func(t *testing.T, c *crashes) { c.crashInReseal("after write shares/"+c.holder().shares()[0], true) }},
		{"27 but the identity", reseal("before write identity", true)},
		{"27 by halves", reseal("after write reseal", true, "after write pins", "before write identity", "after write identity")},
		{"27 again", resealAgain},
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
// starts the node no more, and the new one finishes it: at the first start, or where
// the node dies in that at these points too, at a later one.
func (c *crashes) crashInReseal(point string, begun bool, then ...string) {
	c.t.Helper()
	n := c.follower()
	next := c.nextSeal()
	n.dieAt(point)
	if code, _, _ := c.try(n, n.reseal(next)...); code == 0 {
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
	for _, point := range then {
		n.dieAt(point)
		n.start()
		n.awaitDeath()
		if !n.has("reseal") {
			c.t.Errorf("the file reseal is gone %s", point)
		}
	}
	n.restart()
	c.isSealedAnew(n)
}

// nextSeal is the file of another seal secret.
func (c *crashes) nextSeal() string {
	c.t.Helper()
	key := secret.Random(secret.KeySize)
	defer key.Wipe()
	var err error
	key.With(func(b []byte) { err = secret.WriteFile(c.path("next.seal"), b) })
	if err != nil {
		c.t.Fatal(err)
	}
	return c.path("next.seal")
}

func (n *process) reseal(next string) []string {
	return []string{"device", "reseal", "--present", "file:" + n.seal, "--new", "file:" + next}
}

// resealAgain is a reseal that a file's disk ends in a node that goes on: it has both
// secrets in use, takes no third one, and is given the same two again.
func resealAgain(t *testing.T, c *crashes) {
	n := c.follower()
	next := c.nextSeal()
	releases, away := n.file("releases"), n.dir+"/releases"
	if err := errors.Join(os.Rename(releases, away), os.Mkdir(releases, 0o700)); err != nil {
		t.Fatal(err)
	}
	if code, _, said := c.try(n, n.reseal(next)...); code == 0 || !strings.Contains(said, "half done; repeat it") {
		t.Errorf("exit %d: %s", code, said)
	}
	if !n.has("reseal") {
		t.Error("the file reseal is not there")
	}
	for name, public := range c.acked {
		c.signs(n, name, public)
	}
	if code, _, said := c.try(n, n.reseal(c.others(n)[0].seal)...); code == 0 || !strings.Contains(said, "repeat that one first") {
		t.Errorf("a third secret: exit %d: %s", code, said)
	}
	if err := errors.Join(os.Remove(releases), os.Rename(away, releases)); err != nil {
		t.Fatal(err)
	}
	c.nodectl(n, n.reseal(next)...)
	c.isSealedAnew(n)
	n.stop()
	n.start()
	n.awaitHealth(func(h api.Health) bool { return h.State == api.StateSealed && h.Missing != "" }) // by the former one
	n.stop()
	if err := os.Rename(next, n.seal); err != nil {
		t.Fatal(err)
	}
	n.restart()
	c.isSealedAnew(n)
}

// isSealedAnew wants nothing left of a reseal, and the node to have lost nothing.
func (c *crashes) isSealedAnew(n *process) {
	c.t.Helper()
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

// rehearse does something to a stopped node, and gives it its data folder of before.
func (n *process) rehearse(act func()) {
	n.t.Helper()
	data, copied := n.file(""), n.dir+"/copy"
	if err := exec.Command("cp", "-a", data, copied).Run(); err != nil {
		n.t.Fatal(err)
	}
	act()
	if err := errors.Join(os.RemoveAll(data), os.Rename(copied, data)); err != nil {
		n.t.Fatal(err)
	}
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
	last.rehearse(func() {
		c.recover(last)
		if <-last.exited; !last.state.Success() || !last.has("raft/log.db") {
			t.Errorf("the same command again: %v", last.state)
		}
	})
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
