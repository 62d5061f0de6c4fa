//go:build faults

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// Nodes die in every step of ceremonies.
func TestCrashInCeremonies(t *testing.T) {
	c := newCrashes(startProcesses(t, 3))
	for i, n := range c.nodes {
		c.create(n, fmt.Sprintf("key/%d", i), byte(i+1))
	}
	c.run(t, ceremonyRows())
}

// ceremonyRows are in an order in which each reshare is of some row's use: rows 4
// and 3 want a dealer that will not hold, and leave it without a share.
func ceremonyRows() []crashRow {
	return []crashRow{
		{"2", crashOfTheOpener},
		{"4", func(t *testing.T, c *crashes) { c.crashOfADealer("dealing recorded", "lost") }},
		{"3", func(t *testing.T, c *crashes) { c.crashOfADealer("dealt", "success") }},
		{"7", func(t *testing.T, c *crashes) { c.crashOfARecipient("some sub-shares", 1) }},
		{"8", func(t *testing.T, c *crashes) { c.crashOfARecipient("bundle written", 2) }},
		{"9", func(t *testing.T, c *crashes) { c.crashOfARecipient("acknowledged", 2) }},
		{"13", crashBeforeReportsAreChecked},
		{"14", crashBeforeErasing},
		{"15", crashAfterErasing},
		{"12 reshare", crashOfTheLeaderBeforeClose},
		{"5", func(t *testing.T, c *crashes) { c.crashOfAHolder("release committed", false) }},
		{"6", func(t *testing.T, c *crashes) { c.crashOfAHolder("release recorded", true) }},
		{"10", crashWithSharesMissing},
		{"11 provision", crashWithDeviceFilled},
		{"12 provision", crashAfterProof},
		{"23", crashBeforePins},
	}
}

func crashOfTheOpener(t *testing.T, c *crashes) {
	opener := c.follower()
	alive := c.others(opener)
	opener.dieAt("opened")
	_, err := c.client(opener).Do(t.Context(), api.DKEKDrill, api.DrillRequest{Node: alive[0].name}, nil)
	if err == nil {
		t.Error("it answered")
	}
	opener.awaitDeath()
	var list api.Ceremonies
	if _, err := c.client(alive...).Do(t.Context(), api.CeremonyList, api.CeremonyListQuery{Open: true}, &list); err != nil || len(list.Ceremonies) != 1 {
		t.Fatalf("open ceremonies: %+v, %v", list.Ceremonies, err)
	}
	c.nodectl(nil, "ceremony", "approve", list.Ceremonies[0].ID, "--yes", at(alive...))
	c.ends(list.Ceremonies[0].ID, "success") // without it
	opener.restart()
}

// crashOfADealer is a reshare to all but one of its dealers, which dies. The
// dealers are the first holders by their IDs.
func (c *crashes) crashOfADealer(point, outcome string) {
	c.t.Helper()
	victim := slices.MinFunc(c.nodes, func(a, b *process) int { return strings.Compare(c.idOf(a), c.idOf(b)) })
	stay := c.others(victim)
	victim.dieAt(point)
	id := c.open("dkek", "reshare", "--no-wait", "--holder", stay[0].name, "--holder", stay[1].name, at(stay...))
	victim.awaitDeath()
	victim.restart()
	c.ends(id, outcome)
	if count := c.audit(victim, "dealing", id, c.idOf(victim)); count != 1 {
		c.t.Errorf("%d dealings of %s are recorded", count, victim.name)
	}
	c.inForce()
}

// inForce waits until every holder of the sharing in force has its share, nobody
// has another one but what it keeps for having reported on it, and everybody's own
// check found that in order.
func (c *crashes) inForce() (share string) {
	c.t.Helper()
	clients := map[*process]*client.Client{} // a node takes so many connections of one caller
	for _, n := range c.nodes {
		clients[n] = c.client(n)
	}
	c.eventually("every holder has its share and no other", func(ctx context.Context) error {
		share = "" // what was found before may be of the epoch before
		for _, n := range c.nodes {
			status, _, err := clients[n].Status(ctx)
			if err != nil {
				return err
			}
			kept := n.kept(status.DKEK.Epoch)
			held := slices.DeleteFunc(n.shares(), func(name string) bool { return slices.Contains(kept, name) })
			holder := slices.ContainsFunc(status.DKEK.Holders, func(h api.ShareHolder) bool { return h.Name == n.name })
			if !holder && len(held) == 0 {
				continue
			}
			if !holder || len(held) != 1 || !strings.HasPrefix(held[0], fmt.Sprintf("%d-", status.DKEK.Epoch)) || share != "" && share != held[0] {
				return fmt.Errorf("%s, holder %v, has %v in epoch %d", n.name, holder, held, status.DKEK.Epoch)
			}
			share = held[0]
			for _, h := range status.DKEK.Holders {
				if h.Share == nil || !h.Share.OK || h.Share.Epoch != status.DKEK.Epoch {
					return fmt.Errorf("the share of %s: %+v", h.Name, h.Share)
				}
			}
		}
		return nil
	})
	return share
}

// crashOfARecipient is a reshare to all that an old holder's death ends: with so
// many shares on its disk, of which the one in force is left.
func (c *crashes) crashOfARecipient(point string, shares int) {
	c.t.Helper()
	before := c.inForce()
	victim := c.holder()
	victim.dieAt(point)
	id := c.open("dkek", "reshare", "--no-wait", at(c.others(victim)...))
	victim.awaitDeath()
	if held := victim.shares(); len(held) != shares || !slices.Contains(held, before) {
		c.t.Errorf("it died with the shares %v, and %s was in force", held, before)
	}
	victim.restart()
	c.ends(id, "lost")
	after := c.inForce()
	if after != before {
		c.t.Errorf("share %s was in force, and now %s is", before, after)
	}
	if epoch := epochOf(after); slices.ContainsFunc(c.nodes, func(n *process) bool { return len(n.kept(epoch)) > 0 }) {
		c.ends(c.open("dkek", "reshare", "--no-wait"), "success") // which has every former share erased
		c.inForce()
	}
}

// kept are the shares of later sharings than the one in force on which the node has
// reported: it has them until a later one is proven.
func (n *process) kept(epoch uint64) (kept []string) {
	reported := strings.Fields(string(n.content("reported")))
	for _, name := range n.shares() {
		if epochOf(name) > epoch && slices.Contains(reported, name) {
			kept = append(kept, name)
		}
	}
	return kept
}

func epochOf(share string) (epoch uint64) {
	fmt.Sscanf(share, "%d-", &epoch)
	return epoch
}

// holder is a node that holds a share.
func (c *crashes) holder() *process {
	return c.nodes[slices.IndexFunc(c.nodes, func(n *process) bool { return len(n.shares()) > 0 })]
}

// reshare is a reshare to all in which a holder dies at a point on its way to
// erasing its old share. It returns the names of both.
func (c *crashes) reshare(victim *process, point func(old string) string) (old, fresh string) {
	c.t.Helper()
	old = c.inForce()
	victim.dieAt(point(old))
	id := c.open("dkek", "reshare", "--no-wait", at(c.others(victim)...))
	victim.awaitDeath()
	c.ends(id, "success")
	fresh = c.others(victim)[0].newest(old)
	return old, fresh
}

// newest is the node's share that is not old.
func (n *process) newest(old string) (fresh string) {
	n.t.Helper()
	eventually(n.t, n.name+" has a new share", func(context.Context) error {
		for _, name := range n.shares() {
			if name != old {
				fresh = name
				return nil
			}
		}
		return fmt.Errorf("%v", n.shares())
	})
	return fresh
}

func crashBeforeReportsAreChecked(t *testing.T, c *crashes) {
	c.crashWhileErasing(func(string) string { return "applied CeremonyClose" }, true, false)
}

func crashBeforeErasing(t *testing.T, c *crashes) {
	c.crashWhileErasing(func(string) string { return "proof written" }, true, true)
}

func crashAfterErasing(t *testing.T, c *crashes) {
	c.crashWhileErasing(func(old string) string { return "after remove shares/" + old }, false, true)
}

// crashWhileErasing wants the victim to die with its old share or without, and
// with the proof of the new sharing or without, and to go on from there.
func (c *crashes) crashWhileErasing(point func(old string) string, hasOld, hasProof bool) {
	c.t.Helper()
	victim := c.holder()
	witness := c.others(victim)[0]
	id := c.idOf(victim)
	old, fresh := c.reshare(victim, point)
	held := victim.shares()
	if slices.Contains(held, old) != hasOld || !slices.Contains(held, fresh) || victim.has("proofs/"+fresh) != hasProof {
		c.t.Errorf("it died with the shares %v and the proof of %s: %v", held, fresh, victim.has("proofs/"+fresh))
	}
	before := c.audit(witness, "share.erase", id)
	victim.start()
	if now := c.inForce(); now != fresh || !victim.has("proofs/"+fresh) {
		c.t.Errorf("share %s is in force, want %s with its proof", now, fresh)
	}
	c.eventually("the cluster knows that the old share is gone", func(context.Context) error {
		if after := c.audit(witness, "share.erase", id); after <= before {
			return fmt.Errorf("%d records, were %d", after, before)
		}
		return nil
	})
}

// All reports are in the log, and the close is in the leader's alone.
func crashOfTheLeaderBeforeClose(t *testing.T, c *crashes) {
	old := c.inForce()
	victim := c.leader()
	others := c.others(victim)
	victim.dieAt("appended CeremonyClose")
	id := c.open("dkek", "reshare", "--no-wait", at(others...))
	victim.awaitDeath()
	if held := victim.shares(); !slices.Contains(held, old) || len(held) != 2 {
		t.Errorf("it died with the shares %v, and %s was in force", held, old)
	}
	c.ends(id, "success") // without it
	fresh := others[0].newest(old)
	victim.restart()
	if now := c.inForce(); now != fresh {
		t.Errorf("share %s is in force, want %s", now, fresh)
	}
	if count := c.audit(victim, "ceremony.close", id); count != 1 {
		t.Errorf("it is closed %d times", count)
	}
}

// idOf is the node's ID.
func (c *crashes) idOf(n *process) string {
	c.t.Helper()
	for _, m := range c.status().Members {
		if m.Name == n.name {
			return m.ID
		}
	}
	c.t.Fatalf("%s is no member", n.name)
	return ""
}

// crashOfAHolder is a drill for which only one other holder is there, which dies
// with or without a note of its release.
func (c *crashes) crashOfAHolder(point string, noted bool) {
	c.t.Helper()
	target := c.leader()
	victim, away := c.others(target)[0], c.others(target)[1]
	holder := c.idOf(victim)
	away.kill()
	before := victim.content("releases")
	victim.dieAt(point)
	id := c.open("dkek", "drill", "--no-wait", "--node", target.name, at(target))
	victim.awaitDeath()
	died := victim.content("releases")
	if bytes.Equal(before, died) == noted {
		c.t.Errorf("the file of releases had %d bytes and has %d", len(before), len(died))
	}
	victim.start()
	c.ends(id, "success")
	if after := victim.content("releases"); len(after) <= len(before) || noted && !bytes.Equal(after, died) {
		c.t.Errorf("the file of releases had %d bytes, then %d, and has %d", len(before), len(died), len(after))
	}
	if count := c.audit(target, "share.release", id, holder); count != 1 {
		c.t.Errorf("%d releases are recorded", count)
	}
	away.restart()
	for _, warning := range c.status(victim).Warnings {
		if strings.Contains(warning, id) { // of other rows there may be
			c.t.Errorf("%s warns: %s", victim.name, warning)
		}
	}
}

// blankDevice gives a node a new device in the place of its own.
func (c *crashes) blankDevice(n *process) {
	c.t.Helper()
	n.kill()
	paths, err := filepath.Glob(n.devicePath() + "*")
	if err != nil || len(paths) == 0 {
		c.t.Fatalf("%v, %v", paths, err)
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			c.t.Fatal(err)
		}
	}
	n.start()
	n.awaitHealth(func(h api.Health) bool { return h.Quorum })
	c.eventually("the blank device is known", func(ctx context.Context) error {
		status, _, err := c.client(c.others(n)...).Status(ctx)
		for _, d := range status.Devices {
			if d.Name == n.name && d.State == "blank" {
				return err
			}
		}
		return errors.Join(err, fmt.Errorf("%+v", status.Devices))
	})
}

// provision fills a node's device, in the course of which it dies.
func (c *crashes) provision(n *process, point string) (id string) {
	c.t.Helper()
	n.dieAt(point)
	id = c.open("device", "replace", "--node", n.name, at(c.others(n)...))
	n.awaitDeath()
	return id
}

func crashWithSharesMissing(t *testing.T, c *crashes) {
	victim := c.nodes[2]
	c.blankDevice(victim)
	id := c.provision(victim, "device initialised")
	if status := victim.dkek(); status.Shares != 2 || status.Missing != 2 {
		t.Errorf("the device: %+v", status)
	}
	victim.start()
	c.ends(id, "lost")
}

// It begins with the device that row 10 left.
func crashWithDeviceFilled(t *testing.T, c *crashes) {
	victim := c.nodes[2]
	id := c.provision(victim, "device ready")
	if status := victim.dkek(); status.Missing != 0 || fmt.Sprintf("%X", status.KCV[:]) != c.status(c.nodes[0]).DKEK.KCV {
		t.Errorf("the device: %+v", status)
	}
	released := c.audit(c.nodes[0], "share.release", id)
	victim.restart()
	c.ends(id, "success")
	if now := c.audit(c.nodes[0], "share.release", id); now != released || now == 0 {
		t.Errorf("%d releases before it died, %d after", released, now)
	}
}

func crashAfterProof(t *testing.T, c *crashes) {
	victim := c.nodes[2]
	c.blankDevice(victim)
	id := c.provision(victim, "proof committed")
	if count := c.audit(c.nodes[0], "ceremony.close", id); count != 0 {
		t.Error("it is closed already")
	}
	victim.restart()
	c.ends(id, "success")
}

func crashBeforePins(t *testing.T, c *crashes) {
	victim := c.follower()
	pins := victim.content("pins")
	c.nodectl(nil, "operator", "new", "--out", c.path("bob.pem"))
	victim.dieAt("applied CeremonyApprove")
	id := c.open("operator", "add", c.path("bob.pem.pub"), at(c.others(victim)...))
	victim.awaitDeath()
	c.ends(id, "success")
	if !bytes.Equal(pins, victim.content("pins")) {
		t.Error("it died too late")
	}
	victim.restart()
	c.eventually("every node believes the new set", func(ctx context.Context) error {
		for _, n := range c.nodes {
			var set api.OperatorSet
			if _, err := c.client(n).Do(ctx, api.OperatorList, nil, &set); err != nil || set.Number != 2 || len(set.Operators) != 2 {
				return fmt.Errorf("%s: %+v, %v", n.name, set, err)
			}
		}
		return nil
	})
	c.nodectl(nil, "operator", "pin")
	c.ends(c.open("dkek", "drill", "--no-wait", "--node", victim.name), "success")
	if bytes.Equal(pins, victim.content("pins")) {
		t.Error("the pins are those of before")
	}
}
