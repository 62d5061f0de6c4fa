package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// sought is what is looked for after a run of processes, and where each thing is
// at home.
type sought struct {
	t       testing.TB
	planted nodetest.Planted
	home    map[string]string // the one file that may hold it, by name
}

func newSought(t testing.TB) *sought {
	return &sought{t, nodetest.Planted{}, map[string]string{}}
}

// seal plants the seal secret that a file has, and of a device that is given the
// PINs that follow from it. Its node has ended.
func (s *sought) seal(file, device string) {
	s.t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(content) != 32 {
		if content, err = hex.DecodeString(strings.TrimSpace(string(content))); err != nil {
			s.t.Fatal(err)
		}
	}
	name := "seal secret in " + file
	if !bytes.Equal(s.planted[name], content) {
		s.plant(name, file, content)
	}
	if device == "" {
		return
	}
	token, err := drivers.Open(s.t.Context(), device)
	if err != nil {
		s.t.Fatal(err)
	}
	defer token.Close()
	for what, source := range map[string]func(context.Context) (*hsm.Secret, error){"PIN": token.PIN, "SO-PIN": token.SOPIN} {
		pin, err := source(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		s.planted.Plant(what+" of "+device, pin)
	}
}

// signer plants an Ed25519 key. Its 32 bytes end the DER form, and so are found
// in that and in the one line of base64 that the PEM form has.
func (s *sought) signer(file string, key crypto.Signer) {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	seed := key.(ed25519.PrivateKey).Seed()
	if err != nil || !bytes.HasSuffix(der, seed) {
		s.t.Fatalf("%x: %v", der, err)
	}
	s.plant("key in "+file, file, seed)
}

// token plants what makes a join token one.
func (s *sought) token(file, text string) {
	s.t.Helper()
	token, err := api.ParseJoinToken(strings.TrimSpace(text))
	if err != nil {
		s.t.Fatal(err)
	}
	s.plant("token for "+file, file, token.Secret[:])
}

func (s *sought) plant(name, home string, value []byte) {
	for s.planted[name] != nil {
		name += ", later"
	}
	s.planted[name], s.home[name] = bytes.Clone(value), home
}

// in looks into everything below a folder, and into what was said. A thing that
// is still in its home must be found there.
func (s *sought) in(folder string, said map[string][]byte) {
	s.t.Helper()
	places := map[string][]byte{}
	for what, text := range said {
		places[what] = text
	}
	if err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			places[path], err = os.ReadFile(path)
		}
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	if len(places) < 30 {
		s.t.Errorf("only %d places to search: the run is not what it was", len(places))
	}
	atHome := 0
	for place, content := range places {
		for _, found := range s.planted.Search(content) {
			name := found[:strings.LastIndex(found, ", ")]
			if s.home[name] == place {
				atHome++
				continue
			}
			s.t.Errorf("%s: found %s", place, found)
		}
	}
	if atHome < 4 {
		s.t.Errorf("only %d secrets are found at home: what would be found elsewhere?", atHome)
	}
}

// heard keeps what command lines said.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) keep(said ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range said {
		h.text.WriteString(s)
	}
}

// holdNoSecret wants that nothing which a node or a command line of alice's wrote
// or said has a secret in it. The nodes have ended.
func (p *processes) holdNoSecret() {
	p.t.Helper()
	s := newSought(p.t)
	s.signer(p.path("alice.pem"), p.key)
	for _, n := range p.nodes {
		s.seal(n.seal, n.device())
	}
	for _, text := range p.tokens {
		s.token(p.path("token"), text)
	}
	if want := 1 + 3*len(p.nodes) + len(p.tokens); len(s.planted) != want || len(p.tokens) < 2 {
		p.t.Errorf("%d secrets, want %d", len(s.planted), want)
	}
	s.in(p.dir, map[string][]byte{"command lines": p.heard.text.Bytes()})
}

// dev's cluster at its end: the secrets that the first node had before its reseal
// were planted then.
func (d *devRun) holdsNoSecret(s *sought) {
	d.t.Helper()
	key, err := os.ReadFile(d.path("operator.pem"))
	if err != nil {
		d.t.Fatal(err)
	}
	signer, err := parseKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	s.signer(d.path("operator.pem"), signer)
	for _, i := range []string{"1", "2", "3"} {
		s.seal(d.path("seal/"+i), "soft:"+d.path("node-"+i+"/device")+"?seal-source=file:"+d.path("seal/"+i))
	}
	said := map[string][]byte{"command lines": d.heard.text.Bytes(), "dev's stdout": d.out.Bytes(), "dev's stderr": d.err.Bytes()}
	s.in(d.dir, said)
}
