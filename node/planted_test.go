package node_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/shamir"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Guarantee 2: a run's secrets are put together afterwards, from the shares,
// their seal secrets and the blobs, and then looked for in everything that the
// run wrote, logged or answered. What a caller was given at his own wish is in
// that answer and nowhere else.
func TestNoSecretLeaves(t *testing.T) {
	l := startLife(t)
	l.makesKeys()
	first := l.plantShares()
	l.replacesADevice()
	l.reshares()
	second := l.plantShares()
	if !bytes.Equal(first, second) {
		t.Fatal("a reshare made another DKEK")
	}
	l.usesKeys()
	l.plantKeys(second)
	l.isToldSecrets()
	l.isAskedEverything()
	l.ends()
	if len(l.planted) < 65 || len(l.said) < 400 {
		t.Fatalf("%d secrets and %d places to search: the run is not what it was", len(l.planted), len(l.said))
	}
	for place, content := range l.said {
		for _, found := range l.planted.Search(content) {
			t.Errorf("%s: found %s", place, found)
		}
	}
	for name, answer := range l.own {
		if found := (nodetest.Planted{name: l.planted[name]}).Search(answer); len(found) != 1 {
			t.Errorf("the answer with the %s does not have it: what would be found elsewhere?", name)
		}
	}
}

// plantShares plants the sharing in force, as a thief with every disk and every
// seal secret would put it together: sub-shares with the salts of
// their commitments, what each dealer dealt, partials, and the DKEK, which it returns.
func (l *life) plantShares() []byte {
	l.t.Helper()
	row, ok := l.Leader().View().Proven()
	if !ok {
		l.t.Fatal("no sharing is proven")
	}
	sharing := row.Sharing()
	dealt := make([][][]byte, len(sharing.Dealings)) // points of each dealer
	bundles := map[dkek.NodeID]*dkek.Bundle{}
	for _, m := range l.Members {
		var plain []byte
		bundles[m.ID()], plain = openShare(l.t, m, &sharing)
		for d := range sharing.Dealings {
			name := fmt.Sprintf("%s's sub-share of dealer %d in epoch %d", m.Name, d, row.Plan.Epoch)
			sub := plain[subShare*d : subShare*(d+1)] // y || x || salt
			l.planted[name], l.planted[name+", salt"] = sub[:32], sub[33:]
			dealt[d] = append(dealt[d], bytes.Clone(sub[:33]))
		}
	}
	for d, points := range dealt {
		whole, err := shamir.Combine(points)
		if err != nil {
			l.t.Fatal(err)
		}
		l.planted[fmt.Sprintf("what dealer %d dealt in epoch %d", d, row.Plan.Epoch)] = whole
	}
	var whole *dkek.Secret
	for q, quorum := range dkek.ProofQuorums(&row.Plan) {
		var partials []*dkek.Secret
		for _, id := range quorum {
			partial, err := dkek.Partial(&sharing, quorum, bundles[id])
			if err != nil {
				l.t.Fatal(err)
			}
			l.planted.Plant(fmt.Sprintf("%v's partial in quorum %d of epoch %d", id, q, row.Plan.Epoch), partial)
			partials = append(partials, partial)
		}
		var err error
		if whole, err = dkek.Combine(&row.Plan, partials, row.KCV); err != nil {
			l.t.Fatal(err)
		}
	}
	l.planted.Plant("DKEK", whole)
	return l.planted["DKEK"]
}

// subShare is how many bytes a bundle has for each dealer.
const subShare = 49

// openShare reads a member's share from its disk, by docs/format.md.
func openShare(t *testing.T, m *nodetest.Member, sharing *dkek.Sharing) (*dkek.Bundle, []byte) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(m.Config.Dir, "shares", fmt.Sprintf("%d-%d", sharing.Plan.Epoch, sharing.Plan.Attempt)))
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.NewBox(m.Seal, dkek.SealPurpose)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := dkek.OpenAtRest(box, content, sharing, m.ID())
	if err != nil {
		t.Fatal(err)
	}
	header := 34 + binary.BigEndian.Uint32(content[30:])
	plain, err := box.Open(content[header:len(content)-32], content[:header])
	if err != nil || len(plain) != subShare*len(sharing.Dealings) {
		t.Fatalf("%d bytes of %d sub-shares: %v", len(plain), len(sharing.Dealings), err)
	}
	return bundle, plain
}

// plantKeys plants what makes the private keys private.
func (l *life) plantKeys(whole []byte) {
	l.t.Helper()
	wrapping := secret.Take(bytes.Clone(whole))
	for v := range l.Leader().View().AllVersions(fsm.VersionRef{}) {
		key, err := keyblob.Unwrap(wrapping, v.Material.Blob)
		if err != nil {
			l.t.Fatal(err)
		}
		name := fmt.Sprintf("key %v", v.Key)
		switch k := key.(type) {
		case keyblob.RSA:
			l.planted[name+" d"] = k.Key.D.Bytes()
			l.planted[name+" p"] = k.Key.Primes[0].Bytes()
			l.planted[name+" q"] = k.Key.Primes[1].Bytes()
		case keyblob.EC:
			scalar, err := k.Key.Bytes()
			if err != nil {
				l.t.Fatal(err)
			}
			l.planted[name+" scalar"] = bytes.TrimLeft(scalar, "\x00")
		case keyblob.Ed25519:
			l.planted[name+" seed"] = ed25519.PrivateKey(k.Key).Seed()
		case keyblob.AES:
			l.planted[name+" bytes"] = bytes.Clone(k.Key)
		default:
			l.t.Fatalf("%T is not known", key)
		}
	}
}
