package node_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

func TestAnyNodeServesAnyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		l.create(l.Leader(), "k", hsm.ECDSAP256)
		for _, m := range l.Members {
			l.Eventually("the key is known", func() bool { _, ok := m.View().Key("k"); return ok })
			l.signs(m, "k")
		}
	})
}

// A key that one node has acknowledged is known to every node from that instant
// on, also where the log has yet to arrive. A node that cannot ask a quorum does
// not say that there is no such key.
func TestAnAcknowledgedKeyIsKnownEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		behind := l.Follower()
		for i := range 5 {
			name := fmt.Sprintf("key-%d", i)
			key := l.create(l.Leader(), name, hsm.Ed25519)
			used, err := behind.UseKey(t.Context(), behind.Self(), node.KeyUse{Key: name + "@1", Verb: fsm.Sign, Input: []byte("text")})
			if err != nil || !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte("text"), used.Output) {
				t.Fatalf("%s at a follower: %v", name, err)
			}
			if _, err := l.Leader().RotateKey(t.Context(), name, fsm.RequestID{}); err != nil {
				t.Fatal(err)
			}
			if _, err := behind.Key(t.Context(), name+"@2"); err != nil {
				t.Fatalf("%s, version 2, at a follower: %v", name, err)
			}
		}
		if _, err := behind.Key(t.Context(), "never-made"); !errors.Is(err, fsm.NotFound) {
			t.Errorf("a key that nobody made: %v", err)
		}
		for _, m := range l.Members {
			if m != behind {
				m.Crash()
			}
		}
		time.Sleep(5 * time.Second)
		for _, name := range []string{"never-made", "key-0@9"} {
			_, err := behind.UseKey(t.Context(), behind.Self(), node.KeyUse{Key: name, Verb: fsm.Sign, Input: []byte("text")})
			if !errors.Is(err, node.ErrNoLeader) || errors.Is(err, fsm.NotFound) {
				t.Errorf("%s in a minority: %v", name, err)
			}
		}
	})
}

func TestADeviceThatFailsIsReplacedByOneHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 2}})
		m := l.Follower()
		l.create(m, "sign", hsm.ECDSAP256)
		l.create(m, "seal", hsm.AES256)
		m.Device.Plan(hsmtest.Plan{Times: -1, Err: &hsm.Error{Op: "any", Device: "test", Err: hsm.ErrGone}})
		key, err := m.Key(t.Context(), "sign")
		if err != nil {
			t.Fatal(err)
		}
		used, err := key.Use(t.Context(), node.KeyUse{Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		verify(t, key.Public(), used.Output)
		if used.Node == m.ID() || used.Version != 1 {
			t.Fatalf("done by %s with version %d", used.Node, used.Version)
		}
		seal, _ := m.Key(t.Context(), "seal")
		sealed, err := seal.Encrypt(t.Context(), []byte("plain"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := seal.DecryptContext(t.Context(), sealed, nil); err != nil || string(plain) != "plain" {
			t.Fatalf("%q, %v", plain, err)
		}
		sealed[20] ^= 1
		if _, err := seal.DecryptContext(t.Context(), sealed, nil); !errors.Is(err, hsm.ErrDecryption) {
			t.Fatalf("a changed ciphertext, one hop away: %v", err)
		}
		if random, err := m.Random(t.Context(), 32); err != nil || len(random) != 32 {
			t.Fatalf("random: %d bytes, %v", len(random), err)
		}

		// When no device is left, the error says so; nothing goes round in circles.
		for _, other := range l.Members {
			other.Device.Plan(hsmtest.Plan{Times: -1, Err: &hsm.Error{Op: "any", Device: "test", Err: hsm.ErrGone}})
		}
		if _, err := key.SignContext(t.Context(), digest[:], crypto.SHA256); !errors.Is(err, node.ErrNotHere) || !errors.Is(err, hsm.ErrGone) {
			t.Fatalf("no device is left: %v", err)
		}
	})
}

// TestHardwareSignaturesAreVerified: what does not verify never leaves.
func TestASignatureThatDoesNotVerifyNeverLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		m.Close()
		device := &brokenDevice{Device: m.Device}
		m.Config.Device.Device = device
		m.Start()
		l.Leader()
		l.ready(m)
		key := l.create(m, "k", hsm.ECDSAP256)
		device.broken = true
		if signature, err := key.SignContext(t.Context(), digest[:], crypto.SHA256); err == nil {
			t.Fatalf("a broken device's signature left: %x", signature)
		}
	})
}

// brokenDevice is hardware that computes wrongly.
type brokenDevice struct {
	hsm.Device
	broken bool
}

func (d *brokenDevice) Info(ctx context.Context) (hsm.Info, error) {
	info, err := d.Device.Info(ctx)
	info.Kind = "smartcard-hsm"
	return info, err
}

func (d *brokenDevice) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	if d.broken {
		input = slices.Clone(input)
		input[0] ^= 1
	}
	return d.Device.Sign(ctx, slot, input, options)
}

func TestAMinorityWorksForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 3, StaleFor: (5 * time.Minute).Milliseconds()}})
		l.create(l.Leader(), "k", hsm.ECDSAP256)
		m := l.Members[0]
		l.Network.Isolate(m.Host)
		time.Sleep(3 * time.Minute)
		key, err := m.Key(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		sign := func() (node.KeyUsed, error) {
			return key.Use(t.Context(), node.KeyUse{Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256})
		}
		used, err := sign()
		if err != nil || used.Age < 2*time.Minute || used.Age > 4*time.Minute {
			t.Fatalf("after three minutes alone: age %v, %v", used.Age, err)
		}
		if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: "new", Type: hsm.Ed25519, Copies: 1}); err == nil {
			t.Fatal("a minority made a key")
		}
		if n := len(l.objects(m)); n != 1 {
			t.Fatalf("%d objects: what was certainly not appended is deleted", n)
		}

		time.Sleep(3 * time.Minute)
		if _, err := sign(); !errors.Is(err, node.ErrStale) {
			t.Fatalf("after more than the policy allows: %v", err)
		}
		l.Network.HealAll()
		l.Eventually("it is heard again", func() bool { _, err := sign(); return err == nil })
	})
}

// A node that starts without a majority has its last snapshot and nothing newer,
// and does not say that a key which it cannot know of is not there.
func TestAMinorityThatStartsKnowsItsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 3}})
		l.create(l.Leader(), "k", hsm.ECDSAP256)
		for _, m := range l.Members {
			m.Crash()
		}
		alone := l.Members[0]
		alone.Start()
		time.Sleep(10 * time.Second)
		sign := func() error {
			_, err := alone.UseKey(t.Context(), alone.Self(), node.KeyUse{Key: "k", Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256})
			return err
		}
		if _, known := alone.View().Key("k"); known {
			t.Error("it knows a key that no snapshot has, and no leader said to be committed")
		}
		if err := sign(); err == nil || errors.Is(err, fsm.NotFound) {
			t.Errorf("a key that it cannot know: %v", err)
		}
		for _, m := range l.Members[1:] {
			m.Start()
		}
		l.Eventually("the key is back", func() bool { return sign() == nil })
	})
}

// client adds a client with a fingerprint of its own.
func client(l *keyLab, name string, prefixes []string, verbs fsm.Verbs) node.Caller {
	l.t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		l.t.Fatal(err)
	}
	f := fsm.FingerprintOf(der)
	body := &fsm.ClientAdd{Name: name, Fingerprint: f, Role: fsm.RoleUser, Prefixes: prefixes, Verbs: verbs}
	if err := l.Leader().ProposeAs(l.t.Context(), l.Operators[0].Public().Fingerprint(), body); err != nil {
		l.t.Fatal(err)
	}
	return node.Caller{Kind: node.CallerClient, Fingerprint: f, Name: name}
}

func TestRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		m := l.Leader()
		alice := client(l, "alice", []string{"app/"}, fsm.Create|fsm.Sign|fsm.List)
		bob := client(l, "bob", []string{"app/"}, fsm.Sign)
		ctx := t.Context()
		sign := func(caller node.Caller, key string) error {
			_, err := m.UseKey(ctx, caller, node.KeyUse{Key: key, Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256})
			return err
		}
		if _, err := m.CreateAsForTest(ctx, alice, node.KeySpec{Name: "other/k", Type: hsm.ECDSAP256}); !errors.Is(err, fsm.NotAllowed) {
			t.Fatalf("create outside the prefix: %v", err)
		}
		if _, err := m.CreateAsForTest(ctx, alice, node.KeySpec{Name: "app/k", Type: hsm.ECDSAP256, Usage: fsm.Sign}); err != nil {
			t.Fatal(err)
		}
		only := []dkek.Fingerprint{alice.Fingerprint}
		if _, err := m.CreateAsForTest(ctx, alice, node.KeySpec{Name: "app/hers", Type: hsm.ECDSAP256, Clients: only}); err != nil {
			t.Fatal(err)
		}
		l.create(m, "theirs", hsm.ECDSAP256)
		for _, c := range []struct {
			who     node.Caller
			key     string
			allowed bool
		}{
			{alice, "app/k", true}, {bob, "app/k", true}, {alice, "app/hers", true}, {bob, "app/hers", false},
			{m.Self(), "app/hers", false}, {m.Self(), "theirs", true}, {alice, "theirs", false},
			{node.Caller{Kind: node.CallerSocket}, "theirs", false}, {node.Caller{}, "theirs", false},
			{node.Caller{Kind: node.CallerClient, Fingerprint: dkek.Fingerprint{1}}, "app/k", false},
			{node.Caller{Kind: node.CallerSelf, Fingerprint: dkek.Fingerprint{1}}, "theirs", false},
		} {
			if err := sign(c.who, c.key); (err == nil) != c.allowed {
				t.Errorf("%s %q signs with %s: %v, want allowed %v", c.who.Kind, c.who.Name, c.key, err, c.allowed)
			}
		}
		if _, err := m.UseKey(ctx, alice, node.KeyUse{Key: "app/k", Verb: fsm.Derive}); !errors.Is(err, fsm.NotAllowed) {
			t.Errorf("a use that the key is not for: %v", err)
		}
		page, err := m.ListAsForTest(alice, node.KeyFilter{})
		if err != nil || len(page.Keys) != 2 {
			t.Errorf("alice sees %d keys, %v", len(page.Keys), err)
		}

		// One hop away the rights are looked up again, and removal holds there too.
		m.Device.Plan(hsmtest.Plan{Times: -1, Err: &hsm.Error{Op: "any", Err: hsm.ErrGone}})
		if err := sign(bob, "app/k"); err != nil {
			t.Errorf("bob, one hop away: %v", err)
		}
		if err := sign(bob, "app/hers"); !errors.Is(err, fsm.NotAllowed) {
			t.Errorf("bob with alice's key, one hop away: %v", err)
		}
		// That she is alice, only the node that she speaks to can tell.
		if err := sign(alice, "app/hers"); !errors.Is(err, node.ErrNotHere) {
			t.Errorf("alice with her own key, one hop away: %v", err)
		}
		m.Device.Heal()
		for _, other := range l.Members {
			if other == m {
				continue
			}
			if err := m.ForgeUse(ctx, other.ID(), alice.Fingerprint, "app/hers", digest[:]); !errors.Is(err, node.ErrForbidden) {
				t.Errorf("a member that says it asks for alice: %v", err)
			}
			if err := m.ForgeUse(ctx, other.ID(), alice.Fingerprint, "app/k", digest[:]); err != nil {
				t.Errorf("a key that names nobody: %v", err)
			}
		}
		if err := m.ProposeAs(ctx, l.Operators[0].Public().Fingerprint(), &fsm.ClientRemove{Fingerprint: bob.Fingerprint}); err != nil {
			t.Fatal(err)
		}
		if err := sign(bob, "app/k"); !errors.Is(err, fsm.NotAllowed) {
			t.Errorf("bob, removed: %v", err)
		}
	})
}

func TestVersionsAndStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m, ctx := l.Members[0], t.Context()
		first := l.create(m, "k", hsm.ECDSAP256)
		second, err := m.RotateKey(ctx, "k", request(9))
		if err != nil || second.Version() != 2 {
			t.Fatalf("rotate: %v", err)
		}
		if err := m.DeleteKey(ctx, "k@2", time.Hour); err != nil {
			t.Fatal(err)
		}
		// What became of it since does not change what it did.
		if again, err := m.RotateKey(ctx, "k", request(9)); err != nil || again.Version() != 2 {
			t.Fatalf("repeated when its version waits to be deleted: %v", err)
		}
		if _, err := m.RotateKey(ctx, "k", request(10)); !errors.Is(err, fsm.WrongState) {
			t.Fatalf("another rotation then: %v", err)
		}
		if err := m.UndeleteKey(ctx, "k@2"); err != nil {
			t.Fatal(err)
		}
		if again, err := m.RotateKey(ctx, "k", request(9)); err != nil || again.Version() != 2 {
			t.Fatalf("the same rotation again: %v", err)
		}
		for _, key := range []*node.Key{first, second} {
			signature, err := key.SignContext(ctx, digest[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			verify(t, key.Public(), signature)
		}
		if newest, _ := m.Key(ctx, "k"); newest.Version() != 2 {
			t.Fatalf("the default is version %d", newest.Version())
		}
		fails := func(key *node.Key, code fsm.Code) {
			t.Helper()
			if _, err := key.SignContext(ctx, digest[:], crypto.SHA256); !errors.Is(err, code) {
				t.Fatalf("%v, want %s", err, code)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(m.DisableKey(ctx, "k@1"))
		fails(first, fsm.WrongState)
		l.signs(m, "k")
		must(m.EnableKey(ctx, "k"))
		l.signs(m, "k@1")
		must(m.DeleteKey(ctx, "k", 0))
		fails(second, fsm.WrongState)
		must(m.UndeleteKey(ctx, "k@2"))
		l.signs(m, "k@2")
		must(m.LabelKey(ctx, "k", map[string]string{"env": "test"}))
		page, err := m.ListKeys(ctx, node.KeyFilter{Label: "env=test"})
		if err != nil || len(page.Keys) != 1 || len(page.Keys[0].Versions) != 2 || page.Keys[0].Versions[0].DeleteAfter.IsZero() {
			t.Fatalf("list: %+v, %v", page, err)
		}
		for _, name := range []string{"", "Upper", "k@", "k@0", "k@x", "k@99999999", "no-such", "k@3"} {
			if _, err := m.Key(ctx, name); !errors.Is(err, fsm.BadRequest) && !errors.Is(err, fsm.NotFound) {
				t.Errorf("key %q: %v", name, err)
			}
		}
		if _, err := m.CreateKey(ctx, node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); !errors.Is(err, fsm.Exists) ||
			err.Error() != "node: create key: there is a key k already: names are not used again" {
			t.Errorf("a name again: %v", err)
		}
	})
}

func TestCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Slots: 4})
		m, ctx := l.Leader(), t.Context()
		for range 3 { // more keys than slots, each in all devices when it is acknowledged
			for _, name := range []string{"a", "b", "c"} {
				name += string(rune('0' + len(slices.Collect(m.View().Keys("", "")))))
				key, err := m.CreateKey(ctx, node.KeySpec{Name: name, Type: hsm.Ed25519, Copies: 3})
				if err != nil {
					t.Fatal(err)
				}
				info, err := key.Info()
				if err != nil || len(info.Versions[0].HeldBy) != 3 {
					t.Fatalf("%s is acknowledged and held by %d devices, %v", name, len(info.Versions[0].HeldBy), err)
				}
			}
		}
		if _, err := m.CreateKey(ctx, node.KeySpec{Name: "four", Type: hsm.Ed25519, Copies: 4}); !errors.Is(err, fsm.WrongState) {
			t.Fatalf("four copies in three devices: %v", err)
		}
	})
}

// A creation that waits for the device of a node which stands still ends in time,
// and says whose; the key is there, and is acknowledged to who asks again.
func TestCopiesDoNotComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		m, other := l.Leader(), l.Members[0]
		if other == m {
			other = l.Members[1]
		}
		l.Network.Hang(other.Host)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		spec := node.KeySpec{Name: "k", Type: hsm.Ed25519, Copies: 3, RequestID: request(1)}
		if _, err := m.CreateKey(ctx, spec); !errors.Is(err, node.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "2 of 3 devices hold it, not yet "+other.Name) {
			t.Errorf("while %s stands still: %v", other.Name, err)
		}
		if ctx.Err() != nil {
			t.Error("it took all the time that the caller had")
		}
		l.Network.Resume(other.Host)
		if _, err := m.CreateKey(t.Context(), spec); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

func TestCryptoInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m, ctx := l.Members[0], t.Context()
		key := l.create(m, "rsa", hsm.RSA2048)
		public := key.Public().(*rsa.PublicKey)
		pss, err := key.Sign(nil, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
		if err != nil || rsa.VerifyPSS(public, crypto.SHA256, digest[:], pss, &rsa.PSSOptions{SaltLength: 32}) != nil {
			t.Fatalf("PSS: %v", err)
		}
		oaep, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, public, []byte("secret"), []byte("label"))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := key.Decrypt(nil, oaep, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("label")})
		if err != nil || string(plain) != "secret" {
			t.Fatalf("OAEP: %q, %v", plain, err)
		}
		//lint:ignore SA1019 what old clients send
		old, err := rsa.EncryptPKCS1v15(rand.Reader, public, bytes.Repeat([]byte{7}, 32))
		if err != nil {
			t.Fatal(err)
		}
		//lint:ignore SA1019 asked for by whoever holds such ciphertexts; OAEP is the default
		session := &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 32}
		if plain, err := key.Decrypt(nil, old, session); err != nil || !bytes.Equal(plain, bytes.Repeat([]byte{7}, 32)) {
			t.Fatalf("session key: %x, %v", plain, err)
		}
		old[9] ^= 1
		if plain, err := key.Decrypt(nil, old, session); err != nil || len(plain) != 32 {
			t.Fatalf("a wrong padding shows: %d bytes, %v", len(plain), err)
		}

		weak := sha1.Sum([]byte("old"))
		if _, err := key.Sign(nil, weak[:], crypto.SHA1); !errors.Is(err, fsm.NotAllowed) {
			t.Fatalf("SHA-1 without permission: %v", err)
		}
		if _, err := key.Sign(nil, digest[:], crypto.Hash(0)); !errors.Is(err, fsm.NotAllowed) {
			t.Fatalf("an unnamed digest without permission: %v", err)
		}
		legacy, err := m.CreateKey(ctx, node.KeySpec{Name: "legacy", Type: hsm.RSA2048, Legacy: true})
		if err != nil {
			t.Fatal(err)
		}
		signature, err := legacy.Sign(nil, weak[:], crypto.SHA1)
		if err != nil || rsa.VerifyPKCS1v15(legacy.Public().(*rsa.PublicKey), crypto.SHA1, weak[:], signature) != nil {
			t.Fatalf("SHA-1 with permission: %v", err)
		}
		if _, err := m.CreateKey(ctx, node.KeySpec{Name: "weak", Type: hsm.RSA1024, Legacy: true}); !errors.Is(err, fsm.NotAllowed) {
			t.Fatalf("RSA-1024 against the policy: %v", err)
		}

		agree := l.create(m, "agree", hsm.ECDSAP384)
		peer, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		shared, err := agree.Derive(ctx, &peer.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		var mine *ecdh.PrivateKey
		if mine, err = peer.ECDH(); err != nil {
			t.Fatal(err)
		}
		theirs, _ := agree.Public().(*ecdsa.PublicKey).ECDH()
		if want, err := mine.ECDH(theirs); err != nil || !bytes.Equal(want, shared) {
			t.Fatalf("the two sides differ: %v", err)
		}
		mac, err := l.create(m, "mac", hsm.AES128).MAC(ctx, []byte("message"))
		if err != nil || len(mac) != 16 {
			t.Fatalf("MAC: %x, %v", mac, err)
		}
	})
}
