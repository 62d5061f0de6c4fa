//go:build faults

package main

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// tell has the node lie from now on; "" ends that.
func (n *process) tell(lie string) {
	n.t.Helper()
	err := os.Remove(n.lieFile())
	if lie != "" {
		err = os.WriteFile(n.lieFile(), []byte(lie), 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
}

// holderLies are what a holder answers in the place of its share, and why it is
// named for it; "" for one that says nothing, or signs nothing, or not this: it cannot
// be told from one whose line is bad.
var holderLies = []struct{ name, says string }{
	{"a changed bit", "does not open"},
	{"another epoch", "belongs to another epoch"},
	{"nothing", ""},
	{"no signature", ""},
	{"an old release", "does not open"},
	{"an old release as it was", ""},
}

// createLies are told while the DKEK is dealt, and what is said then; %s is the liar.
var createLies = []struct{ name, says string }{
	{"another sub-share", "sub-share of dealer %s: .* does not match its commitment"},
	{"an old sub-share", "sub-share of dealer %s: .* does not open"},
	{"points of no polynomial", "wrong check value: .* was reported first, by "},
	{"another check value", "wrong check value: .*check value 0102030000000000 (was reported first, by|of) %s"},
}

// reshareLie is told by a dealer of a reshare.
const reshareLie = "another secret"

// One of three nodes takes part in ceremonies and lies in them. It is found, and
// nothing comes of it: the sharing that was in force stays, and a device is filled
// from the others.
func TestLiarHolder(t *testing.T) {
	p := newProcesses(t, 3)
	p.nodectl(p.nodes[0], "cluster", "init", "--operator", p.path("alice.pem.pub"))
	for _, n := range p.nodes[1:] {
		p.join(n)
	}
	p.awaitVoters()
	liar, honest := p.firstHolder()
	p.wrongCreates()
	p.nodectl(nil, "--timeout", settleTime.String(), "dkek", "create", "--reason", "first deal")
	p.awaitReady()
	p.nodectl(nil, "key", "create", "kept", "--type", "ecdsa-p256")
	key, err := p.client().Key(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	before := p.dkek()
	p.wrongSecret(liar, honest, before)
	for _, lie := range holderLies {
		p.wrongShare(liar, honest[0], honest[1], lie.name, lie.says, key.Public())
	}
	if after := p.dkek(); after.KCV != before.KCV {
		t.Errorf("the DKEK has the check value %s, and had %s", after.KCV, before.KCV)
	}
	for _, n := range p.nodes {
		p.signs(n, "kept", key.Public())
	}
}

// firstHolder is the node that is asked first, of all that are asked for a share and
// to deal: by ID. The others follow.
func (p *processes) firstHolder() (first *process, others []*process) {
	p.t.Helper()
	others = slices.Clone(p.nodes)
	slices.SortFunc(others, func(a, b *process) int {
		x, _ := a.nodeKey()
		y, _ := b.nodeKey()
		return slices.Compare(x[:], y[:])
	})
	return others[0], others[1:]
}

func (p *processes) dkek() api.DKEK {
	p.t.Helper()
	status, _, err := p.client().Status(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return status.DKEK
}

// wrongCreates deals the DKEK while one node tells each lie, wherever it stands among
// the holders: no DKEK comes of it.
func (p *processes) wrongCreates() {
	p.t.Helper()
	for _, lie := range createLies {
		for _, liar := range p.nodes {
			liar.tell(lie.name)
			said := p.failing(1, "--timeout", settleTime.String(), "dkek", "create", "--reason", "first deal")
			if want := strings.ReplaceAll(lie.says, "%s", liar.name); !regexp.MustCompile(want).MatchString(said) {
				p.t.Errorf("%s by %s: want %q in %s", lie.name, liar.name, want, said)
			}
			if d := p.dkek(); d.KCV != "" {
				p.t.Errorf("%s by %s: there is a DKEK: %+v", lie.name, liar.name, d)
			}
			liar.tell("")
		}
	}
}

// wrongSecret deals the shares anew while one dealer deals what is not its share, and
// reports that a device found it right. The check value tells, the sharing in force
// stays, and dealers without the liar are found.
func (p *processes) wrongSecret(liar *process, honest []*process, before api.DKEK) {
	p.t.Helper()
	liar.tell(reshareLie)
	defer liar.tell("")
	shares := map[*process][]string{}
	for _, n := range honest {
		shares[n] = n.shares()
	}
	for range p.nodes {
		said, code := p.reshare()
		if code == 0 {
			if now := p.dkek(); now.Epoch == before.Epoch || now.KCV != before.KCV {
				p.t.Errorf("after the reshare: %+v", now)
			}
			return
		}
		if !strings.Contains(said, "wrong check value") || !strings.Contains(said, liar.name) {
			p.t.Errorf("what %s dealt: %s", liar.name, said)
		}
		if now := p.dkek(); now.Epoch != before.Epoch {
			p.t.Errorf("the sharing in force is another one: %+v", now)
		}
		for _, n := range honest {
			for _, share := range shares[n] {
				if !slices.Contains(n.shares(), share) {
					p.t.Errorf("%s has given up its share %s", n.name, share)
				}
			}
		}
	}
	p.t.Error("no dealers were found without the liar")
}

// reshare deals the shares anew, and returns what nodectl said and its exit code.
func (p *processes) reshare() (string, int) {
	p.t.Helper()
	env := map[string]string{"NODECTL_CLUSTER": p.path("cluster.json"), "NODECTL_KEY": p.path("alice.pem")}
	var said bytes.Buffer
	args := []string{"--timeout", settleTime.String(), "dkek", "reshare", "--reason", "somebody is suspected"}
	code := run(p.t.Context(), args, streams{strings.NewReader(""), &said, &said}, func(name string) string { return env[name] }, openIdle)
	return said.String(), code
}

// wrongShare fills a blank device while the first holder that is asked sends what is
// not its share. The device is filled by another one's.
func (p *processes) wrongShare(liar, target, other *process, lie, says string, public crypto.PublicKey) {
	p.t.Helper()
	p.nodectl(nil, "device", "wipe", "--node", target.name, "--yes")
	liar.tell(lie)
	defer liar.tell("")
	p.nodectl(nil, "--timeout", settleTime.String(), "device", "replace", "--node", target.name, "--reason", "it was wiped", "--wait")
	var list api.Ceremonies
	p.eventually("the ceremony has ended", func(ctx context.Context) error {
		_, err := p.client().Do(ctx, api.CeremonyList, api.CeremonyListQuery{Limit: 1}, &list)
		return err
	})
	newest := list.Ceremonies[0]
	if got := newest.Detail; strings.Contains(got, liar.name) != (says != "") || !strings.Contains(got, says) {
		p.t.Errorf("%s: the liar %s, and the record says %q", lie, liar.name, got)
	}
	id, _ := other.nodeKey()
	if audit := p.nodectl(target, "audit", "-o", "json"); !released(audit, newest.ID, id.String()) {
		p.t.Errorf("%s: %s was not asked", lie, other.name)
	}
	p.signs(target, "kept", public)
}

// released tells whether the audit records of a ceremony have a holder's release.
func released(audit, ceremony, holder string) bool {
	var page api.Audit
	return json.Unmarshal([]byte(audit), &page) == nil && slices.ContainsFunc(page.Records, func(r api.AuditRecord) bool {
		return r.Action == "share.release" && r.Target == ceremony && strings.Contains(r.Detail, holder+" to ")
	})
}
