package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// tokens steals a token: its thief is one member, without share and DKEK, until it
// is removed; then its key and the token are worth nothing. So are tokens that were
// never made, expired or were taken back.
func (s *siege) tokens(t *testing.T) {
	stolen := s.token(t)
	thief, late := s.stranger(t, "thief"), s.stranger(t, "late")
	s.nodectl(thief, "cluster", "join", "--token-file", stolen)
	s.nodectl(nil, "cluster", "refresh")
	_, key := thief.nodeKey()
	s.members(t, 4)
	thief.awaitHealth(func(h api.Health) bool { return h.Quorum })

	// What it has got: no share, no DKEK.
	if shares, _ := os.ReadDir(filepath.Join(thief.dir, "data", "shares")); len(shares) > 0 {
		t.Errorf("whoever joined by a token has shares: %v", shares)
	}
	status, _, err := s.client(s.nodes[0]).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range status.Devices {
		if d.Name == thief.name && d.KCV != "" {
			t.Errorf("its device has the DKEK: %+v", d)
		}
	}

	useless := map[string]string{"used": stolen, "taken back": s.takenBack(t), "made up": s.madeUp(t, stolen)}
	useless["expired"] = s.expired(t, thief) // last: whoever makes a token sweeps away those that have expired
	s.unmoved(t, func(t *testing.T) {
		for what, token := range useless {
			if said := s.failing(1, "--addr", late.socket(), "cluster", "join", "--token-file", token); !strings.Contains(said, "expired") {
				t.Errorf("a token that was %s: %s", what, said)
			}
		}
	})
	s.members(t, 4)

	// A connection that is open while its member is removed is cut.
	inside, first, err := knock(t.Context(), s.nodes[0].addr, "kc-peer/1", key)
	if err != nil || first != 1 {
		t.Fatalf("the thief is a member, and is greeted with %d: %v", first, err)
	}
	defer inside.Close()
	thief.kill()
	s.nodectl(nil, "cluster", "remove", thief.name, "--yes")
	s.members(t, 3)
	if _, err := io.Copy(io.Discard, inside); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a removed member's connection stays open")
	}
	s.unmoved(t, func(t *testing.T) {
		// Its own process, which was not there to hear of it, is told and ends; and
		// once more where it forgets that.
		os.Remove(filepath.Join(thief.dir, "data", "removed"))
		thief.start()
		if said := thief.ends(t); !strings.Contains(said, "was removed") {
			t.Errorf("it is not told: %s", said)
		}
		for _, n := range s.nodes {
			for _, protocol := range memberProtocols {
				conn, first, err := knock(t.Context(), n.addr, protocol, key)
				if err != nil {
					if !isRefusal(err) {
						t.Errorf("the removed member asks for %s at %s and is not refused: %v", protocol, n.name, err)
					}
					continue
				}
				if more, _ := io.Copy(io.Discard, conn); first != 2 || more > 0 {
					t.Errorf("the removed member speaks %s at %s: %d and %d bytes", protocol, n.name, first, more)
				}
				conn.Close()
			}
		}
	})
	s.members(t, 3)
}

// token makes a join token and returns its file.
func (s *siege) token(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(s.nodectl(nil, append([]string{"cluster", "token"}, args...)...)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// expired makes a token that lasts a moment, which no node makes for an operator: a
// member that lies says that one asked for it.
func (s *siege) expired(t *testing.T, liar *process) string {
	token := readToken(t, s.token(t))
	rand.Read(token.Secret[:])
	registered := tokenFingerprint(t, token)
	operator, err := transport.FingerprintOf(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	i := s.impersonate(liar, quietAddress(t))
	var expires time.Time
	eventually(t, "a token that lasts a moment is taken", func(context.Context) error {
		expires = time.Now().Add(2 * time.Second)
		return i.propose(s.nodes, dkek.Fingerprint(operator), &fsm.TokenCreate{
			Fingerprint: dkek.Fingerprint(registered), Name: "brief", Expires: expires.UnixMilli(),
		})
	})
	time.Sleep(time.Until(expires) + time.Millisecond)
	return writeToken(t, token)
}

// takenBack makes a token and takes it back.
func (s *siege) takenBack(t *testing.T) string {
	path := s.token(t)
	registered := tokenFingerprint(t, readToken(t, path))
	s.nodectl(nil, "cluster", "token", "remove", registered.String())
	return path
}

// madeUp is a token with a secret that nobody registered.
func (s *siege) madeUp(t *testing.T, like string) string {
	token := readToken(t, like)
	rand.Read(token.Secret[:])
	return writeToken(t, token)
}

func readToken(t *testing.T, path string) *api.JoinToken {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	token, err := api.ParseJoinToken(string(content))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func writeToken(t *testing.T, token *api.JoinToken) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "token")
	text, err := token.Text()
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func tokenFingerprint(t *testing.T, token *api.JoinToken) transport.Fingerprint {
	t.Helper()
	f, err := transport.TokenFingerprint(token.Secret[:])
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// stranger starts a node that is in no cluster. It is none of the nodes that serve.
func (s *siege) stranger(t *testing.T, name string) *process {
	t.Helper()
	n := s.add(name)
	n.awaitHealth(func(h api.Health) bool { return h.State != api.StateSealed })
	return n
}

// members waits until a node knows so many members, and all of them vote.
func (s *siege) members(t *testing.T, count int) {
	t.Helper()
	c := s.client()
	eventually(t, fmt.Sprintf("%d members vote", count), func(ctx context.Context) error {
		status, _, err := c.Status(ctx)
		voters := 0
		for _, m := range status.Members {
			if m.Suffrage == "voter" {
				voters++
			}
		}
		if len(status.Members) != count || voters != count {
			return errors.Join(err, fmt.Errorf("%d members, %d vote", len(status.Members), voters))
		}
		return err
	})
}
