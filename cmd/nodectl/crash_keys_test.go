//go:build faults

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// Nodes die while keys are made, lost and brought back.
func TestCrashWithKeys(t *testing.T) {
	c := newCrashes(startProcesses(t, 3))
	for i := range 12 {
		c.create(c.nodes[i%3], fmt.Sprintf("key/%d", i), byte(i+1))
	}
	c.run(t, keyRows())
}

func keyRows() []crashRow {
	return []crashRow{
		{"17", crashAfterGenerate},
		{"17a", crashAndAnotherNodeIsAsked},
		{"18 leader", crashWithTheOnlyCopyOfAProposal},
		{"18 follower", crashWhileOthersCommit},
		{"19", crashBeforeTheAcknowledgement},
		{"20", crashBetweenAbortAndDeletion},
		{"21", crashBetweenDestroyAndDeletion},
		{"16", crashInARestore},
	}
}

// A device that is smaller than the set of keys has a cluster of its own: agree
// wants every key in every device.
func TestCrashWithASmallDevice(t *testing.T) {
	c := newCrashes(startProcesses(t, 1))
	n := c.nodes[0]
	n.stop()
	n.reconfigure("soft:"+n.devicePath(), "soft:"+n.devicePath()+"?slots=4")
	n.restart()
	for _, row := range smallDeviceRows() {
		t.Run(row.name, func(t *testing.T) {
			c.toldTo(t)
			defer c.logs(t)
			row.test(t, c)
		})
	}
}

func smallDeviceRows() []crashRow { return []crashRow{{"22", crashBetweenEvictionAndLoad}} }

// reconfigure changes a text in the node's configuration.
func (n *process) reconfigure(old, new string) {
	n.t.Helper()
	content, err := os.ReadFile(n.config())
	if err == nil && bytes.Count(content, []byte(old)) != 1 {
		err = fmt.Errorf("%q is not once in\n%s", old, content)
	}
	if err == nil {
		err = os.WriteFile(n.config(), bytes.Replace(content, []byte(old), []byte(new), 1), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// dying has a node die at a point of the creation of a key, which it does not
// acknowledge. It leaves so many objects in the device more than there were keys.
func (c *crashes) dying(n *process, point, name string, id byte) {
	c.t.Helper()
	before := len(c.agree())
	n.dieAt(point)
	if err := c.tryCreate(c.t.Context(), n, name, id); err == nil {
		c.t.Error("a key was acknowledged")
	}
	n.awaitDeath()
	if objects := n.objects(); len(objects) != before+1 {
		c.t.Errorf("%d objects, where there are %d keys", len(objects), before)
	}
}

// thereIs wants a key to be there or not, in every node's state, and the devices to
// agree.
func (c *crashes) thereIs(name string, is bool) {
	c.t.Helper()
	if _, ok := c.agree()[name+"@1"]; ok != is {
		c.t.Errorf("key %s is there: %v", name, ok)
	}
}

func crashAfterGenerate(t *testing.T, c *crashes) {
	n := c.nodes[1]
	c.dying(n, "after Generate", "generated", 17)
	n.restart()
	c.thereIs("generated", false)
	if count := c.audit(n, "key.abort", requestText(17)); count != 1 {
		t.Errorf("%d aborts", count)
	}
	c.create(n, "generated", 18) // the name is free
}

func crashAndAnotherNodeIsAsked(t *testing.T, c *crashes) {
	n, other := c.nodes[1], c.nodes[2]
	c.dying(n, "after Generate", "elsewhere", 19)
	orphan := newestObject(t, n)
	c.create(other, "elsewhere", 19)
	n.restart()
	c.thereIs("elsewhere", true)
	n.stop()
	if slices.ContainsFunc(n.objects(), func(o hsm.Object) bool { return bytes.Equal(o.Tag, orphan.Tag) }) {
		t.Error("the object that lost is there")
	}
	n.restart()
}

// newestObject is the one that the device took last: its tag has the highest index.
func newestObject(t *testing.T, n *process) hsm.Object {
	t.Helper()
	objects := n.objects()
	return slices.MaxFunc(objects, func(a, b hsm.Object) int { return bytes.Compare(a.Tag[len(a.Tag)-8:], b.Tag[len(b.Tag)-8:]) })
}

// The leader's log is the only one with the proposal, and the others go on.
func crashWithTheOnlyCopyOfAProposal(t *testing.T, c *crashes) {
	n := c.leader()
	c.dying(n, "appended KeyCreate", "alone", 20)
	c.eventually("the others have a leader", func(ctx context.Context) error {
		status, _, err := c.client(c.others(n)...).Status(ctx)
		if err == nil && !status.Quorum {
			err = errors.New("no quorum")
		}
		return err
	})
	c.create(c.others(n)[0], "meanwhile", 21)
	n.restart()
	c.thereIs("alone", false)
}

// A follower dies with the proposal in its log; the others commit it.
func crashWhileOthersCommit(t *testing.T, c *crashes) {
	n := c.follower()
	c.dying(n, "appended KeyCreate", "proposed", 22)
	first := c.publicOf("proposed", c.others(n)...)
	n.restart()
	c.thereIs("proposed", true)
	c.create(n, "proposed", 22)
	if !bytes.Equal(c.publicOf("proposed", n), first) {
		t.Error("the retry made another key")
	}
}

func crashBeforeTheAcknowledgement(t *testing.T, c *crashes) {
	n := c.follower()
	c.dying(n, "applied KeyCreate", "committed", 23)
	first := c.publicOf("committed", c.others(n)...)
	n.restart()
	c.create(n, "committed", 23)
	if !bytes.Equal(c.publicOf("committed", n), first) {
		t.Error("the retry made another key")
	}
	c.thereIs("committed", true)
}

// publicOf waits until one of these nodes knows a key, and returns its public half.
func (c *crashes) publicOf(name string, nodes ...*process) (public []byte) {
	c.t.Helper()
	c.eventually("there is "+name, func(ctx context.Context) error {
		var key api.PublicKey
		_, err := c.client(nodes...).Do(ctx, api.KeyPublic, api.KeyQuery{Key: name}, &key)
		public = key.Public
		return err
	})
	return public
}

func crashBetweenAbortAndDeletion(t *testing.T, c *crashes) {
	n := c.nodes[1]
	keys := len(c.agree())
	c.dying(n, "after Generate", "aborted", 24)
	n.dieAt("applied Abort")
	n.start()
	n.awaitDeath()
	if objects := n.objects(); len(objects) != keys+1 {
		t.Errorf("%d objects, where there are %d keys", len(objects), keys)
	}
	n.restart()
	c.thereIs("aborted", false)
	if count := c.audit(n, "key.abort", requestText(24)); count != 1 {
		t.Errorf("%d aborts", count)
	}
}

func crashBetweenDestroyAndDeletion(t *testing.T, c *crashes) {
	n := c.follower()
	c.create(n, "destroyed", 25)
	keys := len(c.agree())
	delete(c.acked, "destroyed")
	n.dieAt("applied Destroy")
	c.nodectl(nil, "key", "delete", "destroyed", "--after", "1s", "--yes", at(c.others(n)...))
	n.awaitDeath()
	if objects := n.objects(); len(objects) != keys {
		t.Errorf("%d objects, where there were %d keys", len(objects), keys)
	}
	n.restart()
	c.eventually("every device has confirmed", func(ctx context.Context) error {
		for _, other := range c.nodes {
			var key api.Key
			_, err := c.client(other).Do(ctx, api.KeyShow, api.KeyQuery{Key: "destroyed"}, &key)
			if err != nil || key.Versions[0].State != api.VersionDestroyed {
				return fmt.Errorf("%s: %+v, %v", other.name, key.Versions, err)
			}
		}
		return nil
	})
	c.thereIs("destroyed", false)
}

// What came back before the node died is not unwrapped again.
func crashInARestore(t *testing.T, c *crashes) {
	n := c.nodes[2]
	keys := len(c.agree())
	c.blankDevice(n)
	n.order(keys/2, syscall.SIGKILL, "after Unwrap")
	id := c.open("device", "replace", "--node", n.name, at(c.others(n)...))
	n.awaitDeath()
	back := n.objects()
	if len(back) == 0 || len(back) >= keys {
		t.Errorf("%d of %d keys were back", len(back), keys)
	}
	n.restart()
	c.ends(id, "success")
	c.agree()
	n.stop()
	after := n.objects()
	for _, o := range back {
		// Of two objects of a key, which a cut off load leaves, one goes.
		stays := func(b hsm.Object) bool {
			return b.Label == o.Label && slices.ContainsFunc(after, func(a hsm.Object) bool { return a.Slot == b.Slot && bytes.Equal(a.Tag, b.Tag) })
		}
		if !slices.ContainsFunc(back, stays) {
			t.Errorf("%s was made anew\n%s\n%s", o.Label, describe(back), describe(after))
		}
	}
	n.restart()
}

// describe says where objects are, and their tags.
func describe(objects []hsm.Object) string {
	var text strings.Builder
	for _, o := range objects {
		fmt.Fprintf(&text, "%d %s %x\n", o.Slot, o.Label, o.Tag)
	}
	return text.String()
}

// requestText is the request ID that is made of id, as records show it.
func requestText(id byte) string { return fmt.Sprintf("%02x", id) + strings.Repeat("00", 15) }

func crashBetweenEvictionAndLoad(t *testing.T, c *crashes) {
	const keys = 7
	n := c.nodes[0]
	for i := range keys {
		c.create(n, fmt.Sprintf("key/%d", i), byte(i+1))
	}
	n.dieAt("after Delete")
	from := c.client(n)
	cut := ""
	for i := 0; i < keys && cut == ""; i++ {
		var answer api.SignResponse
		name := fmt.Sprintf("key/%d", i)
		if _, err := from.Do(t.Context(), api.KeySign, api.SignRequest{Key: name, Inputs: [][]byte{make([]byte, 32)}, Hash: api.SHA256}, &answer); err != nil {
			cut = name
		}
	}
	n.awaitDeath()
	objects := n.objects()
	if len(objects) >= 4 {
		t.Errorf("%d objects in 4 slots: nothing was evicted", len(objects))
	}
	if slices.ContainsFunc(objects, func(o hsm.Object) bool { return c.acked[cut].(*ecdsa.PublicKey).Equal(o.Public) }) {
		t.Errorf("%s was cut off, and is in the device:\n%s", cut, describe(objects))
	}
	n.restart()
	c.signs(n, cut, c.acked[cut])
	for name, public := range c.acked {
		c.signs(n, name, public)
	}
}
