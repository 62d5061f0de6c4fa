//go:build faults

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// The leader's clock is set ahead while everything runs: by an hour all goes on by
// its defaults; by two hours nodectl names the clock, signs nothing, and is not in
// the way of who accepts the difference.
func TestLiarByItsClock(t *testing.T) {
	p := startProcesses(t, 3)
	var leader, honest *process
	status, _, err := p.client(p.nodes[0]).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range status.Members {
		for _, n := range p.nodes {
			if n.name == m.Name && m.Leader {
				leader = n
			} else if n.name == m.Name {
				honest = n
			}
		}
	}
	setClock := func(hours int) {
		t.Helper()
		if err := os.WriteFile(leader.clockFile(), fmt.Append(nil, hours*3600), 0o600); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%s's clock is %dh0m0s ahead of", leader.name, hours)
		p.eventually("status names the clock", func(ctx context.Context) error {
			status, _, err := p.client(honest).Status(ctx)
			if !strings.Contains(strings.Join(status.Warnings, "\n"), want) {
				return fmt.Errorf("%q, %w", status.Warnings, err)
			}
			return nil
		})
	}
	at := func(args ...string) []string { return append([]string{"--addr", honest.addr}, args...) }

	setClock(1)
	p.nodectl(nil, at("cluster", "token")...)
	p.nodectl(nil, at("dkek", "drill")...)

	setClock(2)
	p.nodectl(nil, at("cluster", "token")...)
	code, _, said := p.try(nil, at("dkek", "drill")...)
	for _, part := range []string{"the node made it expire", leader.name, "Nothing was signed but a denial", "--clocks-apart 2h1m0s"} {
		if code != 1 || !strings.Contains(said, part) {
			t.Errorf("exit %d, want %q in\n%s", code, part, said)
		}
	}
	p.nodectl(nil, at("dkek", "drill", "--clocks-apart", "2h1m")...)
	p.nodectl(nil, at("key", "create", "k", "--type", "ecdsa-p256")...)
	p.nodectl(nil, at("key", "delete", "k", "--yes")...)
}
