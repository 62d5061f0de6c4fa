package transport_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/keycustodian/keycustodian/transport"
)

// admission is a join handler with one token, usable once.
type admission struct {
	mu     sync.Mutex
	secret []byte
	used   bool
	seen   []transport.JoinRequest
}

func newAdmission() *admission {
	secret := make([]byte, transport.TokenSecretSize)
	rand.Read(secret)
	return &admission{secret: secret}
}

func (a *admission) handle(_ context.Context, request transport.JoinRequest) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, request)
	known, err := transport.TokenFingerprint(a.secret)
	if err != nil {
		return nil, err
	}
	if request.Token != known || a.used {
		return nil, &transport.RemoteError{Code: "no-token", Message: "no such token"}
	}
	a.used = true
	return append([]byte("welcome "), request.Body...), nil
}

func (a *admission) calls() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

func code(err error) string {
	var remote *transport.RemoteError
	if errors.As(err, &remote) {
		return remote.Code
	}
	return ""
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		a := newAdmission()
		joiner := newIdentity(t)
		attempt := transport.JoinAttempt{
			Network: r.network.Host("10.0.0.9"), Identity: joiner, Server: r.peer(0), Secret: a.secret, Body: []byte("node-9"),
		}
		if _, err := transport.Join(t.Context(), attempt); code(err) != transport.CodeNoJoin {
			t.Errorf("without a handler: %v", err)
		}
		r.nodes[0].HandleJoin(a.handle)

		wrong := attempt
		wrong.Secret = bytes.Repeat([]byte{1}, 32)
		if _, err := transport.Join(t.Context(), wrong); code(err) != "no-token" {
			t.Errorf("wrong token: %v", err)
		}
		wrong = attempt
		wrong.Secret = a.secret[:31]
		if _, err := transport.Join(t.Context(), wrong); err == nil {
			t.Error("short token: accepted")
		}
		wrong = attempt
		wrong.Server.Fingerprint = r.nodes[1].Fingerprint()
		var mismatch *transport.FingerprintError
		before := a.calls()
		if _, err := transport.Join(t.Context(), wrong); !errors.As(err, &mismatch) || a.calls() != before {
			t.Errorf("wrong server: %v", err)
		}
		wrong = attempt
		wrong.Body = make([]byte, transport.MaxBody+1)
		if _, err := transport.Join(t.Context(), wrong); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("oversize: %v", err)
		}

		answer, err := transport.Join(t.Context(), attempt)
		if err != nil || string(answer) != "welcome node-9" {
			t.Fatalf("join: %q, %v", answer, err)
		}
		last := a.seen[len(a.seen)-1]
		if last.Peer != joiner.Fingerprint() || sha256.Sum256(last.PeerPublicKey) != joiner.Fingerprint() {
			t.Error("the handler was told another joiner")
		}
		if _, err := transport.Join(t.Context(), attempt); code(err) != "no-token" {
			t.Errorf("used token: %v", err)
		}
	})
}

func TestLargestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		r.nodes[0].HandleJoin(func(_ context.Context, request transport.JoinRequest) ([]byte, error) {
			return append(request.Body, make([]byte, cap(request.Body)-len(request.Body))...)[:transport.MaxBody], nil
		})
		a := newAdmission()
		answer, err := transport.Join(t.Context(), transport.JoinAttempt{
			Network: r.network.Host("10.0.0.9"), Identity: newIdentity(t), Server: r.peer(0), Secret: a.secret,
			Body: make([]byte, transport.MaxBody),
		})
		if err != nil || len(answer) != transport.MaxBody {
			t.Errorf("%d bytes, %v", len(answer), err)
		}
	})
}

// frame is a join request made by hand from docs/format.md.
func frame(key ed25519.PrivateKey, exporter []byte, joiner transport.Fingerprint, body []byte) []byte {
	digest := sha256.Sum256(body)
	message := append([]byte("keycustodian join proof v1\x00"), exporter...)
	message = append(append(message, joiner[:]...), digest[:]...)
	data, err := cbor.Marshal(map[int][]byte{1: key.Public().(ed25519.PublicKey), 2: ed25519.Sign(key, message), 3: body})
	if err != nil {
		panic(err)
	}
	return append([]byte{byte(len(data) >> 24), byte(len(data) >> 16), byte(len(data) >> 8), byte(len(data))}, data...)
}

// A proof is good on the connection it was made for, by the joiner it was made
// for, with the body it was made for, and nowhere else.
func TestJoinProofIsBoundToItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		a := newAdmission()
		r.nodes[0].HandleJoin(a.handle)
		key, err := transport.TokenKey(a.secret)
		if err != nil {
			t.Fatal(err)
		}
		joiner, thief := newIdentity(t), newIdentity(t)
		ask := func(as *transport.Identity, make func(exporter []byte) []byte) (answer []byte, exporter []byte) {
			conn, err := r.dialTLS("10.0.0.9", r.addrs[0], "kc-join/1", as)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			state := conn.ConnectionState()
			exporter, err = state.ExportKeyingMaterial("EXPORTER-keycustodian-join", nil, 32)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(make(exporter))
			answer, _ = io.ReadAll(conn)
			return answer, exporter
		}
		const bad = transport.CodeBadProof
		var captured []byte
		_, first := ask(joiner, func(exporter []byte) []byte {
			captured = frame(key, exporter, joiner.Fingerprint(), []byte("x"))
			return captured[:10] // cut off: the frame never arrives whole
		})
		cases := map[string]func(exporter []byte) []byte{
			"replay":         func([]byte) []byte { return captured },
			"old exporter":   func([]byte) []byte { return frame(key, first, joiner.Fingerprint(), []byte("x")) },
			"another's name": func(exporter []byte) []byte { return frame(key, exporter, thief.Fingerprint(), []byte("x")) },
			"another body": func(exporter []byte) []byte {
				f := frame(key, exporter, joiner.Fingerprint(), []byte("x"))
				f[len(f)-1] = 'y'
				return f
			},
			"no exporter": func([]byte) []byte { return frame(key, nil, joiner.Fingerprint(), []byte("x")) },
		}
		for name, make := range cases {
			if answer, _ := ask(joiner, make); !bytes.Contains(answer, []byte(bad)) {
				t.Errorf("%s: %q", name, answer)
			}
		}
		if answer, _ := ask(joiner, func([]byte) []byte { return []byte{0xff, 0xff, 0xff, 0xff} }); !bytes.Contains(answer, []byte(transport.CodeTooLarge)) {
			t.Errorf("oversize: %q", answer)
		}
		if answer, _ := ask(joiner, func([]byte) []byte { return []byte{0, 0, 0, 1, 0xa0} }); !bytes.Contains(answer, []byte(transport.CodeMalformed)) {
			t.Errorf("empty request: %q", answer)
		}
		if a.calls() != 0 {
			t.Errorf("the handler was called %d times without a proof", a.calls())
		}
		answer, _ := ask(joiner, func(exporter []byte) []byte { return frame(key, exporter, joiner.Fingerprint(), []byte("x")) })
		if !bytes.Contains(answer, []byte("welcome x")) {
			t.Errorf("by hand: %q", answer)
		}
	})
}

// The server that a joiner talks to sees the token's public key and a
// signature, not the secret: it could not join elsewhere with what it got.
func TestJoinNeverSendsTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		a := newAdmission()
		r.nodes[0].HandleJoin(a.handle)
		if _, err := transport.Join(t.Context(), transport.JoinAttempt{
			Network: r.network.Host("10.0.0.9"), Identity: newIdentity(t), Server: r.peer(0), Secret: a.secret,
		}); err != nil {
			t.Fatal(err)
		}
		key, _ := transport.TokenKey(a.secret)
		shown := fmt.Appendf(nil, "%x", a.seen[0])
		for _, secret := range [][]byte{a.secret, key.Seed()} {
			if bytes.Contains(shown, fmt.Appendf(nil, "%x", secret)) {
				t.Error("the handler was shown the secret")
			}
		}
		if token, _ := transport.FingerprintOf(key.Public()); a.seen[0].Token != token {
			t.Error("the handler was not shown the token's fingerprint")
		}
	})
}

func TestIdleJoinersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		a := newAdmission()
		r.nodes[0].HandleJoin(a.handle)
		for i := range 60 {
			conn, err := r.dialTLS(fmt.Sprintf("10.66.0.%d", i), r.addrs[0], "kc-join/1", newIdentity(t))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		synctest.Wait()
		held := 0
		for i := range 60 {
			held += r.network.Connections("10.0.0.1", fmt.Sprintf("10.66.0.%d", i))
		}
		if held > 16 {
			t.Errorf("%d idle joiners are kept", held)
		}
		start := time.Now()
		if _, err := transport.Join(t.Context(), transport.JoinAttempt{
			Network: r.network.Host("10.0.0.9"), Identity: newIdentity(t), Server: r.peer(0), Secret: a.secret,
		}); err != nil || time.Since(start) > time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestJoinEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1")
		r.nodes[0].HandleJoin(func(ctx context.Context, _ transport.JoinRequest) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		a := newAdmission()
		if _, err := transport.Join(ctx, transport.JoinAttempt{
			Network: r.network.Host("10.0.0.9"), Identity: newIdentity(t), Server: r.peer(0), Secret: a.secret,
		}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
