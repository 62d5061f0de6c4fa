//go:build faults

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// A cluster is made of nodes that die on the way.
func TestCrashInTheBeginning(t *testing.T) {
	newCrashes(newProcesses(t, 3)).run(t, beginningRows())
}

func beginningRows() []crashRow {
	return []crashRow{
		{"24", crashInInit},
		{"25", crashInJoin},
		{"1", crashAfterPrepare},
		{"11 create", crashWithDeviceReady},
		{"12 create", crashOfTheLeaderAfterProof},
	}
}

func crashInInit(t *testing.T, c *crashes) {
	n := c.nodes[0]
	n.dieAt("after write identity")
	if code, _, _ := c.try(n, "cluster", "init", "--operator", c.path("alice.pem.pub")); code == 0 {
		t.Error("it answered")
	}
	n.awaitDeath()
	if !n.has("identity") || !n.has("pins") || n.has("raft") {
		t.Error("it died too early or too late")
	}
	n.start()
	n.awaitUnsealed()
	c.nodectl(nil, "operator", "new", "--out", c.path("mallory.pem"))
	if code, _, _ := c.try(n, "cluster", "init", "--operator", c.path("mallory.pem.pub"), "--out", c.path("mallory.json")); code == 0 {
		t.Error("another operator's init goes on")
	}
	c.nodectl(n, "cluster", "init", "--operator", c.path("alice.pem.pub"))
}

func crashInJoin(t *testing.T, c *crashes) {
	n := c.nodes[1]
	c.newToken()
	n.dieAt("after write identity")
	if code, _, _ := c.try(n, "cluster", "join", "--token-file", c.path("token")); code == 0 {
		t.Error("it answered")
	}
	n.awaitDeath()
	if !n.has("identity") || !n.has("pins") || n.has("raft") {
		t.Error("it died too early or too late")
	}
	if members := c.status(c.nodes[0]).Members; len(members) != 2 || !slices.ContainsFunc(members, func(m api.Member) bool { return m.Name == n.name && m.Suffrage != "voter" }) {
		t.Errorf("members: %+v", members)
	}
	n.start()
	c.join(c.nodes[2])
	c.awaitVoters()
}

// The recipient is killed while the opener stands between its entry and the Open.
func crashAfterPrepare(t *testing.T, c *crashes) {
	opener := c.follower()
	victim := c.others(opener)[0]
	opener.order(1, syscall.SIGSTOP, "prepared")
	asked := make(chan error, 1)
	from := c.client(opener)
	go func() {
		_, err := from.Do(context.WithoutCancel(t.Context()), api.DKEKCreate, api.CreateDKEKRequest{}, nil)
		asked <- err
	}()
	c.eventually("the opener has all entries", func(context.Context) error {
		if _, err := os.Stat(opener.orderFile()); !errors.Is(err, os.ErrNotExist) {
			return errors.New("not yet")
		}
		return nil
	})
	victim.kill()
	victim.start()
	victim.awaitHealth(func(h api.Health) bool { return h.Quorum })
	opener.resume()
	t.Log("the opener was told:", <-asked)
	c.eventually("the ceremony is lost", func(ctx context.Context) error {
		var list api.Ceremonies
		_, err := c.client(c.others(opener)...).Do(ctx, api.CeremonyList, api.CeremonyListQuery{}, &list)
		if err != nil || len(list.Ceremonies) != 1 || list.Ceremonies[0].Outcome != "lost" || len(list.Ceremonies[0].Approvals) > 0 {
			return fmt.Errorf("%+v, %v", list.Ceremonies, err)
		}
		return nil
	})
}

func crashWithDeviceReady(t *testing.T, c *crashes) {
	victim := c.follower()
	victim.dieAt("device ready")
	id := c.open("dkek", "create", "--no-wait", at(c.others(victim)...))
	victim.awaitDeath()
	if status := victim.dkek(); status.Shares == 0 || status.Missing != 0 {
		t.Errorf("the device: %+v", status)
	}
	victim.start()
	c.ends(id, "lost")
}

func crashOfTheLeaderAfterProof(t *testing.T, c *crashes) {
	victim := c.leader()
	victim.dieAt("proof committed")
	id := c.open("dkek", "create", "--no-wait", at(c.others(victim)...))
	victim.awaitDeath()
	victim.start()
	c.ends(id, "success")
	c.awaitReady()
	for i, n := range c.nodes {
		c.create(n, fmt.Sprintf("first/%d", i), byte(i+1))
	}
}
