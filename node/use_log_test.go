package node_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// useLines is a log in which the lines about uses can be found.
type useLines struct {
	lockedBuffer
	t *testing.T
}

func (l *useLines) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: level}))
}

// useLine is one of them.
type useLine struct {
	Msg, Member, Caller, Name, Fingerprint, Via, Key, Verb, Outcome string

	Count       int
	First, Last time.Time
}

// String is the line without times, fingerprint and member.
func (u useLine) String() string {
	said := u.Caller
	for _, word := range []string{u.Name, u.Key, u.Verb, u.Outcome} {
		if word != "" {
			said += " " + word
		}
	}
	if u.Via != "" {
		said += " via " + u.Via
	}
	return fmt.Sprintf("%s x%d", said, u.Count)
}

func (l *useLines) all(message string) (lines []useLine) {
	l.t.Helper()
	for text := range bytes.Lines(l.Bytes()) {
		var u useLine
		if err := json.Unmarshal(text, &u); err != nil {
			l.t.Fatalf("%s: %v", text, err)
		}
		if u.Msg == message {
			lines = append(lines, u)
		}
	}
	return lines
}

// want compares the summaries so far with what they should be, in order, and
// forgets them.
func (l *useLines) want(want ...string) {
	l.t.Helper()
	var got []string
	for _, u := range l.all("key uses") {
		got = append(got, u.String())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		l.t.Errorf("the log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buffer.Reset()
}

// DESIGN section 5: uses are logged by the node that did them, not by Raft. Who is
// refused is there too, and what anybody gave as input is not.
func TestUsesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &useLines{t: t}
		l := startKeys(t, 1, nodetest.Options{Logger: log.logger(slog.LevelInfo)})
		m, ctx := l.Members[0], t.Context()
		key := l.create(m, "app/k", hsm.ECDSAP256)
		bob := client(l, "bob", []string{"app/"}, fsm.Sign|fsm.Random)
		started := time.Now().Truncate(time.Millisecond)
		use := func(caller node.Caller, key string, verb fsm.Verbs) {
			m.UseKey(ctx, caller, node.KeyUse{Key: key, Verb: verb, Input: digest[:], Hash: crypto.SHA256})
			time.Sleep(time.Millisecond)
		}
		for range 3 {
			if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		use(bob, "app/k", fsm.Sign)
		use(bob, "app/k@1", fsm.Sign)
		use(bob, "app/k", fsm.Verify)
		use(bob, "other@4", fsm.Sign)
		use(bob, "planted input", fsm.Sign)
		use(m.Self(), "never-made", fsm.Sign)
		use(node.Caller{Kind: node.CallerSocket}, "app/k", fsm.Sign)
		if _, err := m.Random(ctx, 8); err != nil {
			t.Fatal(err)
		}
		log.want()
		time.Sleep(11 * time.Second)
		lines := log.all("key uses")
		if len(lines) == 0 || lines[0].First.Before(started) || lines[0].Last.Sub(lines[0].First) != 2*time.Millisecond || lines[0].Last.After(started.Add(time.Second)) {
			t.Errorf("first and last: %+v, began %v", lines, started)
		}
		if len(lines) > 1 && lines[1].Fingerprint != bob.Fingerprint.String() {
			t.Errorf("bob is not told from others of his name: %+v", lines[1])
		}
		if text := string(log.Bytes()); strings.Contains(text, "planted") || strings.Contains(text, string(digest[:4])) {
			t.Error("what was given as input is in the log")
		}
		log.want(
			"this program node-0 app/k@1 sign ok x3", "client bob app/k@1 sign ok x2", "client bob app/k verify not_allowed x1",
			"client bob other@4 sign not_allowed x1", "client bob (not a name) sign not_allowed x1",
			"this program node-0 never-made sign not_found x1", "local administrator app/k sign forbidden x1",
			"this program node-0 random ok x1")

		time.Sleep(time.Minute)
		log.want()
		use(bob, "app/k", fsm.Sign)
		m.Close()
		log.want("client bob app/k@1 sign ok x1")
	})
}

// A use is in one log: that of the node whose device did it or which refused it,
// under the name of who asked; where no device was reached, that of the node asked.
func TestAForwardedUseIsLoggedWhereItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &useLines{t: t}
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 3}, Logger: log.logger(slog.LevelInfo)})
		m, ctx := l.Follower(), t.Context()
		l.create(l.Leader(), "app/k", hsm.AES256)
		bob := client(l, "bob", []string{"app/"}, fsm.Decrypt|fsm.MAC|fsm.Random)
		l.Eventually("bob is known", func() bool { _, err := m.CallerOf(bob.Fingerprint); return err == nil })
		gone := hsmtest.Plan{Times: -1, Err: &hsm.Error{Op: "any", Device: "test", Err: hsm.ErrGone}}
		m.Device.Plan(gone)
		if used, err := m.UseKey(ctx, bob, node.KeyUse{Key: "app/k", Verb: fsm.MAC, Input: digest[:]}); err != nil || used.Node == m.ID() {
			t.Fatalf("%+v, %v", used, err)
		}
		time.Sleep(time.Millisecond)
		if _, err := m.UseKey(ctx, bob, node.KeyUse{Key: "app/k", Verb: fsm.Decrypt, Input: make([]byte, 40)}); err == nil {
			t.Fatal("it opens noughts")
		}
		if _, err := m.Random(ctx, 8); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		lines := log.all("key uses")
		counts := map[string]int{}
		for _, u := range lines {
			counts[u.String()]++
			if u.Member == m.Name {
				t.Errorf("it is logged by the node that was asked: %s", u)
			}
		}
		for _, want := range []string{
			"client bob app/k@1 mac ok via " + m.Name + " x1", "client bob app/k@1 decrypt decryption_failed via " + m.Name + " x1", "member " + m.Name + " random ok x1",
		} {
			if counts[want] != 1 || len(lines) != 3 {
				t.Errorf("%d times %s, in %v", counts[want], want, counts)
			}
		}

		log.buffer.Reset()
		for _, other := range l.Members {
			other.Device.Plan(gone)
		}
		if _, err := m.UseKey(ctx, bob, node.KeyUse{Key: "app/k", Verb: fsm.MAC, Input: digest[:]}); err == nil {
			t.Fatal("done without a device")
		}
		time.Sleep(11 * time.Second)
		if lines := log.all("key uses"); len(lines) != 1 || lines[0].Member != m.Name {
			t.Errorf("no device was reached: %v", lines)
		}
		log.want("client bob app/k@1 mac unavailable x1")
	})
}

// Whoever asks for names without end fills neither the log nor the memory, and
// hides nobody's uses.
func TestTheUseLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &useLines{t: t}
		l := startKeys(t, 1, nodetest.Options{Logger: log.logger(slog.LevelInfo)})
		m := l.Members[0]
		key := l.create(m, "k", hsm.Ed25519)
		for i := range 1000 {
			m.UseKey(t.Context(), m.Self(), node.KeyUse{Key: fmt.Sprintf("none-%d", i), Verb: fsm.Sign})
		}
		if _, err := key.Sign(nil, []byte("text"), crypto.Hash(0)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		lines := log.all("key uses")
		others, total, done := 0, 0, 0
		for _, u := range lines {
			total += u.Count
			if u.Caller == "others" && u.Outcome == "several" {
				others++
			}
			if u.String() == "this program node-0 k@1 sign ok x1" {
				done++
			}
		}
		if len(lines) > 102 || others != 1 || total != 1001 || done != 1 {
			t.Errorf("%d lines for %d uses, %d of others, %d of what was done", len(lines), total, others, done)
		}
	})
}

func TestEachUseIsLoggedAtDebug(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelDebug: 2, slog.LevelInfo: 0} {
		synctest.Test(t, func(t *testing.T) {
			log := &useLines{t: t}
			l := startKeys(t, 1, nodetest.Options{Logger: log.logger(level)})
			key := l.create(l.Members[0], "k", hsm.Ed25519)
			for range 2 {
				if _, err := key.Sign(nil, []byte("text"), crypto.Hash(0)); err != nil {
					t.Fatal(err)
				}
			}
			lines := log.all("key use")
			if len(lines) != want || want > 0 && lines[0].String() != "this program node-0 k@1 sign ok x0" {
				t.Errorf("at %v: %v", level, lines)
			}
		})
	}
}

// Who may not use keys at all is refused before it says which one.
func TestCallersWithoutTheRightAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &useLines{t: t}
		c := nodetest.StartWith(t, 1, nodetest.Options{Logger: log.logger(slog.LevelInfo)})
		m := c.Members[0]
		var keys []ed25519.PrivateKey
		for range 2 {
			_, private, err := ed25519.GenerateKey(nil)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, private)
		}
		der, err := x509.MarshalPKIXPublicKey(keys[0].Public())
		if err != nil {
			t.Fatal(err)
		}
		auditor := &fsm.ClientAdd{Name: "auditor", Fingerprint: fsm.FingerprintOf(der), Role: fsm.RoleAuditor}
		if err := m.ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), auditor); err != nil {
			t.Fatal(err)
		}
		for _, private := range keys {
			if r := browse(t, c, private).post(m, "/v1/key/sign", api.SignRequest{Key: "k"}); r.failure().Code != api.CodeForbidden {
				t.Errorf("%s", r.body)
			}
			time.Sleep(time.Millisecond)
		}
		browse(t, c, nil).get(m, "/v1/random?bytes=8")
		browse(t, c, keys[0]).get(m, "/v1/keys")
		time.Sleep(11 * time.Second)
		log.want("client auditor sign forbidden x1", "nobody sign forbidden x1", "nobody random unauthenticated x1")
	})
}
