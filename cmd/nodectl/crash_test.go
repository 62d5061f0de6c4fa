//go:build faults

package main

import (
	"crypto"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
)

// crashRow is a row of the table of crash points in node/DESIGN.md: a node kills
// itself at the point, is started again, and what the last column says is looked
// for from outside. The name is the row's number, and a word where it has cases.
type crashRow struct {
	name string
	test func(t *testing.T, c *crashes)
}

// crashes is a cluster that goes through rows one after the other.
type crashes struct {
	*processes
	acked map[string]crypto.PublicKey // keys by name
	plan  string                      // file of what operators signed
}

// A new row of the table needs a test in a process too.
func TestCrashRowsAreTheTable(t *testing.T) {
	design, err := os.ReadFile("../../node/DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(design), "### Crash points\n")
	table, _, _ = strings.Cut(table, "\n#")
	var want, got []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+[a-z]?) \|`).FindAllStringSubmatch(table, -1) {
		want = append(want, row[1])
	}
	for _, row := range slices.Concat(beginningRows(), ceremonyRows(), keyRows(), smallDeviceRows(), secretRows(), restoreRows()) {
		number, _, _ := strings.Cut(row.name, " ")
		got = append(got, number)
	}
	slices.Sort(want)
	slices.Sort(got)
	if got = slices.Compact(got); len(want) < 34 || !slices.Equal(got, want) {
		t.Errorf("the table has rows %v, and the tests have %v", want, got)
	}
}

// run takes the cluster through rows. At the end nothing that was acknowledged is
// missing, the nodes tell the same, and no device holds what is no key.
func (c *crashes) run(t *testing.T, rows []crashRow) {
	for _, row := range rows {
		passed := t.Run(row.name, func(t *testing.T) {
			c.toldTo(t)
			defer c.logs(t)
			row.test(t, c)
		})
		c.toldTo(t)
		if !passed {
			t.Fatal("the rows after it begin where it ended")
		}
	}
	defer c.logs(t)
	c.awaitReady()
	keys := c.agree()
	for name, public := range c.acked {
		for _, n := range c.nodes {
			c.signs(n, name, public)
		}
		if _, ok := keys[name+"@1"]; !ok {
			t.Errorf("LOST: %s", name)
		}
	}
	c.noOrphans(keys)
}

// toldTo makes t the test that hears of failures.
func (c *crashes) toldTo(t *testing.T) {
	c.t = t
	for _, n := range c.nodes {
		n.t = t
	}
}

// logs shows what the nodes said, of a test that failed.
func (c *crashes) logs(t *testing.T) {
	if t.Failed() {
		for _, n := range c.nodes {
			t.Log(n.log())
		}
	}
}

// order has the node send itself a signal when it gets to a point for the
// count'th time from now on: see node/faults.go.
func (n *process) order(count int, signal syscall.Signal, point string) {
	n.t.Helper()
	if err := secret.WriteFile(n.orderFile(), fmt.Appendf(nil, "%d %d %s", count, signal, point)); err != nil {
		n.t.Fatal(err)
	}
}

// dieAt has the node kill itself when it gets to a point.
func (n *process) dieAt(point string) { n.order(1, syscall.SIGKILL, point) }

// awaitDeath waits until the node has killed itself as it was told to.
func (n *process) awaitDeath() {
	n.t.Helper()
	select {
	case <-n.exited:
	case <-time.After(settleTime):
		order, _ := os.ReadFile(n.orderFile())
		n.t.Fatalf("%s does not obey: %s", n.name, order)
	}
	status := n.state.Sys().(syscall.WaitStatus)
	if _, err := os.Stat(n.orderFile()); !errors.Is(err, os.ErrNotExist) || status.Signal() != syscall.SIGKILL {
		n.t.Fatalf("%s ended otherwise than it was told to: %v", n.name, n.state)
	}
}

// restart starts a node that has ended, and waits until it takes part.
func (n *process) restart() {
	n.t.Helper()
	n.start()
	n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
}

func newCrashes(p *processes) *crashes {
	return &crashes{processes: p, acked: map[string]crypto.PublicKey{}}
}
