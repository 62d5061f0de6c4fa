package main

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// A token that names nobody lets a node in also where the first member of the
// cluster file is away.
func TestATokenNamesAMemberThatAnswers(t *testing.T) {
	p := newProcesses(t, 3)
	p.nodectl(p.nodes[0], "cluster", "init", "--operator", p.path("alice.pem.pub"))
	for _, n := range p.nodes[1:] {
		p.join(n)
	}
	p.awaitVoters()
	first, others := p.nodes[0], p.nodes[1:]
	first.kill()
	p.eventually("the others miss the first one", func(ctx context.Context) error {
		for _, n := range others {
			status, _, err := p.client(n).Status(ctx)
			if err != nil || !status.Quorum {
				return errors.Join(err, errors.New("no quorum"))
			}
			if slices.ContainsFunc(status.Members, func(m api.Member) bool { return m.Name == first.name && m.Reachable }) {
				return errors.New(n.name + " does not")
			}
		}
		return nil
	})
	fresh := p.add("node-4")
	fresh.awaitUnsealed()
	p.join(fresh)
	first.start()
	p.nodes = append(p.nodes, fresh)
	p.awaitVoters()
	first.kill()
	p.newToken("--via", first.name) // at an operator's word it is named all the same
	if token, err := api.ParseJoinToken(p.tokens[len(p.tokens)-1]); err != nil || token.Address != first.addr {
		t.Errorf("by name: %+v, %v", token, err)
	}
}
