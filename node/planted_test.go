package node_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Guarantee 2: a run's secrets are put together afterwards, from the shares,
// their seal secrets and the blobs, and then looked for in everything that the
// run wrote, logged or answered.
func TestNoSecretLeaves(t *testing.T) {
	dir := t.TempDir()
	logs := &lockedBuffer{}
	c := nodetest.StartWith(t, 3, nodetest.Options{
		Dir: dir, Logger: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	answers := live(t, c)

	secrets := collect(t, c)
	for _, m := range c.Members {
		var snapshot bytes.Buffer
		if _, err := m.View().Snapshot().WriteTo(&snapshot); err != nil {
			t.Fatal(err)
		}
		answers[m.Name+" snapshot"] = snapshot.Bytes()
		m.Close()
	}
	answers["log"] = logs.Bytes()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		answers[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(answers) < 20 {
		t.Fatalf("only %d places to search: the run is not what it was", len(answers))
	}
	for place, content := range answers {
		for _, found := range search(content, secrets) {
			t.Errorf("%s: found %s", place, found)
		}
	}
}

// live makes and uses keys, replaces a device and reshares, and keeps what the
// nodes answered.
func live(t *testing.T, c *nodetest.Cluster) map[string][]byte {
	ctx := t.Context()
	answers := map[string][]byte{}
	for i, kind := range []hsm.KeyType{hsm.RSA2048, hsm.ECDSAP256, hsm.ECDSAP521, hsm.Ed25519, hsm.AES256} {
		key, err := c.Members[i%3].CreateKey(ctx, node.KeySpec{Name: string(kind), Type: kind})
		if err != nil {
			t.Fatal(err)
		}
		info, err := key.Info()
		if err != nil {
			t.Fatal(err)
		}
		if answers["key "+string(kind)], err = json.Marshal(info); err != nil {
			t.Fatal(err)
		}
	}
	dead := c.Follower()
	dead.Close()
	dead.NewDevice()
	dead.Start()
	leader := c.Leader()
	opened, err := leader.OpenProvision(ctx, node.CeremonyOptions{Node: dead.ID()})
	if err != nil {
		t.Fatal(err)
	}
	c.Approve(opened.ID, 1)
	c.Done(opened.ID)
	c.Eventually("every key is back", func() bool {
		p := dead.RestoreProgress()
		return p.Total == 5 && p.Done == 5
	})
	opened, err = leader.OpenReshare(ctx, node.CeremonyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Approve(opened.ID, 1)
	c.Done(opened.ID)
	for _, info := range leader.Ceremonies() {
		if answers["ceremony "+info.ID.String()], err = json.Marshal(info); err != nil {
			t.Fatal(err)
		}
	}
	return answers
}

// planted is a secret by name.
type planted map[string][]byte

// collect puts the run's secrets together: what a thief with every disk and
// every seal secret would have.
func collect(t *testing.T, c *nodetest.Cluster) planted {
	t.Helper()
	secrets := planted{"SO-PIN": []byte(nodetest.SOPIN)}
	keep := func(name string, s *secret.Bytes) {
		s.With(func(p []byte) { secrets[name] = bytes.Clone(p) })
	}
	row, ok := c.Leader().View().Proven()
	if !ok {
		t.Fatal("no sharing is proven")
	}
	sharing := row.Sharing()
	quorum := dkek.ProofQuorums(&row.Plan)[0]
	var partials []*dkek.Secret
	for _, m := range c.Members {
		keep(m.Name+" seal secret", m.Seal)
		partial := partialOf(t, m, &sharing, quorum)
		if partial != nil {
			keep(m.Name+" partial", partial)
			partials = append(partials, partial)
		}
	}
	whole, err := dkek.Combine(&row.Plan, partials, row.KCV)
	if err != nil {
		t.Fatal(err)
	}
	keep("DKEK", whole)
	for v := range c.Leader().View().AllVersions(fsm.VersionRef{}) {
		key, err := keyblob.Unwrap(whole, v.Material.Blob)
		if err != nil {
			t.Fatal(err)
		}
		secrets.key(fmt.Sprintf("key %v", v.Key), key)
	}
	if len(secrets) < 13 {
		t.Fatalf("only %d secrets: the run is not what it was", len(secrets))
	}
	return secrets
}

func partialOf(t *testing.T, m *nodetest.Member, sharing *dkek.Sharing, quorum []dkek.NodeID) *dkek.Secret {
	t.Helper()
	in := false
	for _, id := range quorum {
		in = in || id == m.ID()
	}
	if !in {
		return nil
	}
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
	partial, err := dkek.Partial(sharing, quorum, bundle)
	if err != nil {
		t.Fatal(err)
	}
	return partial
}

// key adds what makes a private key private.
func (p planted) key(name string, key keyblob.PrivateKey) {
	switch k := key.(type) {
	case keyblob.RSA:
		p[name+" d"] = k.Key.D.Bytes()
		p[name+" p"] = k.Key.Primes[0].Bytes()
		p[name+" q"] = k.Key.Primes[1].Bytes()
	case keyblob.EC:
		scalar, err := k.Key.Bytes()
		if err == nil {
			p[name+" scalar"] = bytes.TrimLeft(bytes.Clone(scalar), "\x00")
		}
	case keyblob.Ed25519:
		p[name+" seed"] = ed25519.PrivateKey(k.Key).Seed()
	case keyblob.AES:
		p[name+" bytes"] = bytes.Clone(k.Key)
	}
}

// search names the secrets that content holds: raw, in hexadecimal of either
// case, or in base64 of either alphabet at any of the three alignments.
func search(content []byte, secrets planted) []string {
	lower := bytes.ToLower(content)
	var found []string
	for name, value := range secrets {
		switch {
		case bytes.Contains(content, value):
			found = append(found, name+", raw")
		case bytes.Contains(lower, []byte(hex.EncodeToString(value))):
			found = append(found, name+", hex")
		case containsBase64(content, value):
			found = append(found, name+", base64")
		}
	}
	return found
}

func containsBase64(content, value []byte) bool {
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text := alphabet.EncodeToString(append(make([]byte, shift), value...))
			// Characters at both ends depend on the neighbours.
			if bytes.Contains(content, []byte(text[4:len(text)-4])) {
				return true
			}
		}
	}
	return false
}

// The searcher finds what is there.
func TestSearchFindsWhatIsPlanted(t *testing.T) {
	value := secret.Random(32)
	secrets := planted{}
	value.With(func(p []byte) { secrets["it"] = bytes.Clone(p) })
	raw := secrets["it"]
	for name, content := range map[string]string{
		"raw": "before" + string(raw) + "after", "hex": "x" + hex.EncodeToString(raw), "HEX": strings.ToUpper(hex.EncodeToString(raw)),
		"base64 0": base64.StdEncoding.EncodeToString(append([]byte("abc"), raw...)),
		"base64 1": base64.StdEncoding.EncodeToString(append([]byte("a"), raw...)) + "==",
		"base64 2": base64.URLEncoding.EncodeToString(append([]byte("ab"), append(raw, 'x')...)),
	} {
		if len(search([]byte(content), secrets)) != 1 {
			t.Errorf("%s: not found", name)
		}
	}
	if found := search([]byte(strings.Repeat("nothing here ", 100)), secrets); len(found) != 0 {
		t.Errorf("found %v where nothing is", found)
	}
}

// lockedBuffer collects what several nodes log.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buffer.Bytes())
}
