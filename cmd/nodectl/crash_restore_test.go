//go:build faults

package main

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// Nodes die while a backup becomes the cluster's state at each of them.
func TestCrashInARestore(t *testing.T) {
	c := newCrashes(startProcesses(t, 3))
	for i, n := range c.nodes {
		c.create(n, fmt.Sprintf("key/%d", i), byte(i+1))
	}
	c.agree()
	c.run(t, restoreRows())
}

func restoreRows() []crashRow {
	return []crashRow{{"34", crashWithRestoredStores}, {"35", crashBeforeTheMark}}
}

// restore is a process that carries the signed plan out at a node.
func (c *crashes) restore(n *process) {
	c.t.Helper()
	n.run("cluster", "restore", c.path("backup"), "--config", n.config(), "--plan", c.plan, "--signature", c.path("alice.sig"), "--yes")
}

// restoreAgain is the same command again, which ends it.
func (c *crashes) restoreAgain(n *process) {
	c.t.Helper()
	c.restore(n)
	if <-n.exited; !n.state.Success() || !n.has("raft/log.db") || !n.has("raft-before-2/log.db") {
		c.t.Errorf("the same command again: %v", n.state)
	}
}

func crashWithRestoredStores(t *testing.T, c *crashes) {
	c.nodectl(nil, "cluster", "backup", "--out", c.path("backup"))
	for _, n := range c.nodes {
		n.stop()
	}
	c.plan = c.planRestore(c.path("backup"), c.path("alice.sig"))
	n := c.nodes[0]
	n.dieAt("stores built")
	c.restore(n)
	n.awaitDeath()
	if !n.has("raft/log.db") || !n.has("raft.new/log.db") || n.has("raft-before-2") {
		t.Error("it died too early or too late")
	}
	n.dieAt("stores moved")
	c.restore(n)
	n.awaitDeath()
	if n.has("raft") || !n.has("raft-before-2/log.db") {
		t.Error("it died too early or too late")
	}
	n.rehearse(func() { c.restoreAgain(n) }) // and in the next row a start finds it as it is now
}

// Two nodes die before the mark: one is given the same command again, and dies
// behind the mark too, and the other is started.
func crashBeforeTheMark(t *testing.T, c *crashes) {
	for i, n := range c.nodes[1:] {
		mark := string(n.content("mark"))
		n.dieAt("stores laid")
		c.restore(n)
		n.awaitDeath()
		if !n.has("raft/log.db") || !n.has("raft-before-2/log.db") || string(n.content("mark")) != mark {
			t.Error("it died too early or too late")
		}
		if i == 0 {
			n.dieAt("before write members")
			c.restore(n)
			n.awaitDeath()
			if string(n.content("mark")) == mark {
				t.Error("the mark is the former one")
			}
			c.restoreAgain(n)
		}
	}
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
		if stores, _ := filepath.Glob(n.file("raft*")); len(stores) != 2 {
			t.Errorf("stores: %v", stores)
		}
	}
	c.nodectl(nil, "cluster", "refresh")
	if incarnation := c.status().Cluster.Incarnation; incarnation != 2 {
		t.Errorf("incarnation %d", incarnation)
	}
	c.create(c.nodes[0], "after", 99)
}
