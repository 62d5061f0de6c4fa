package node_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// life is a cluster that lives through everything in which a secret could leave,
// and what it said meanwhile.
type life struct {
	*nodetest.Cluster
	t       *testing.T
	dir     string
	logs    *lockedBuffer
	planted nodetest.Planted
	said    map[string][]byte // by place, where no secret may be
	own     map[string][]byte // answers to whoever asked for the secret of that name
	browser *browser
	socket  *nodetest.Member // that has one
}

func startLife(t *testing.T) *life {
	l := &life{t: t, dir: t.TempDir(), logs: &lockedBuffer{}, planted: nodetest.Planted{}, said: map[string][]byte{}, own: map[string][]byte{}}
	l.Cluster = nodetest.StartWith(t, 3, nodetest.Options{
		Dir: l.dir, Logger: slog.New(slog.NewTextHandler(l.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	l.browser = browse(t, l.Cluster, l.Operators[0].Key)
	l.planted["PIN"], l.planted["SO-PIN"] = []byte(nodetest.PIN), []byte(nodetest.SOPIN)
	l.planted["operator's key"] = l.Operators[0].Key.Seed()
	for _, m := range l.Members {
		l.planted.Plant(m.Name+"'s seal secret", m.Seal)
	}
	l.socket = l.Follower()
	l.socket.Close()
	l.socket.Config.Socket = filepath.Join(t.TempDir(), "s")
	l.socket.Start()
	return l
}

// heard keeps an answer, with its headers.
func (l *life) heard(what string, r reply) reply {
	l.said[fmt.Sprintf("answer %d, %s", len(l.said), what)] = fmt.Append(r.body, r.header)
	return r
}

func (l *life) makesKeys() {
	for _, m := range l.Members {
		l.Eventually(m.Name+" knows of the DKEK", func() bool {
			_, ok := m.View().Proven()
			return ok
		})
	}
	for i, kind := range []hsm.KeyType{hsm.RSA2048, hsm.ECDSAP256, hsm.ECDSAP521, hsm.Ed25519, hsm.AES256} {
		key, err := l.Members[i%3].CreateKey(l.t.Context(), node.KeySpec{Name: string(kind), Type: kind})
		if err != nil {
			l.t.Fatal(err)
		}
		info, err := key.Info()
		if err != nil {
			l.t.Fatal(err)
		}
		if l.said["info of "+string(kind)], err = json.Marshal(info); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *life) replacesADevice() {
	dead := l.Follower()
	dead.Close()
	dead.NewDevice()
	dead.Start()
	opened, err := l.Leader().OpenProvision(l.t.Context(), node.CeremonyOptions{Node: dead.ID()})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Approve(opened.ID, 1)
	l.Done(opened.ID)
	l.Eventually("every key is back", func() bool {
		p := dead.RestoreProgress()
		return p.Total == 5 && p.Done == 5
	})
}

func (l *life) reshares() {
	opened, err := l.Leader().OpenReshare(l.t.Context(), node.CeremonyOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Approve(opened.ID, 1)
	l.Done(opened.ID)
	l.Eventually("everybody has its new share only", func() bool {
		for _, m := range l.Members {
			if shares, _ := filepath.Glob(filepath.Join(m.Config.Dir, "shares", "*")); len(shares) != 1 || filepath.Base(shares[0]) != "2-1" {
				return false
			}
		}
		return true
	})
}

// usesKeys has secrets come out that their callers asked for.
func (l *life) usesKeys() {
	ask := func(path string, q any) reply { return l.browser.post(l.Leader(), path, q) }
	plaintext := make([]byte, 40)
	rand.Read(plaintext)
	l.planted["plaintext"] = plaintext
	for _, key := range []hsm.KeyType{hsm.AES256, hsm.RSA2048} {
		sealed := read[api.EncryptResponse](l.t, l.heard("encrypt", ask("/v1/key/encrypt", api.EncryptRequest{Key: string(key), Plaintext: plaintext})))
		l.own["plaintext"] = ask("/v1/key/decrypt", api.DecryptRequest{Key: string(key), Ciphertext: sealed.Ciphertext}).body
		sealed.Ciphertext[20] ^= 1
		l.heard("decrypt what was changed", ask("/v1/key/decrypt", api.DecryptRequest{Key: string(key), Ciphertext: sealed.Ciphertext}))
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
	if err != nil {
		l.t.Fatal(err)
	}
	derived := ask("/v1/key/derive", api.DeriveRequest{Key: string(hsm.ECDSAP256), Peer: public})
	l.planted["agreement"], l.own["agreement"] = read[api.DeriveResponse](l.t, derived).Shared, derived.body
	drawn := l.browser.get(l.Leader(), "/v1/random?bytes=32")
	l.planted["random bytes"], l.own["random bytes"] = read[api.RandomResponse](l.t, drawn).Random, drawn.body
	l.heard("a wrong peer", ask("/v1/key/derive", api.DeriveRequest{Key: string(hsm.ECDSAP521), Peer: public}))
}

// isToldSecrets gives a node secrets on its socket: right, wrong, and in a way
// that it cannot read; and on its port, where it wants none.
func (l *life) isToldSecrets() {
	l.t.Helper()
	secrets := func(name ...string) []byte {
		var values [][]byte
		for _, n := range name {
			if l.planted[n] == nil {
				l.t.Fatalf("%s is not planted", n)
			}
			values = append(values, l.planted[n])
		}
		body, err := api.EncodeSecrets(values...)
		if err != nil {
			l.t.Fatal(err)
		}
		return body
	}
	for i, name := range []string{"wrong PIN", "next PIN", "last PIN"} {
		l.planted[name] = fmt.Appendf(nil, "%d28305719462837", i+1)
	}
	l.planted["wrong SO-PIN"] = []byte("3537363231383831")
	l.planted.Plant("next seal secret", secret.Random(secret.KeySize))
	seal := l.socket.Name + "'s seal secret"
	for _, try := range []struct {
		path    string
		secrets []string
		status  int
	}{
		{"/v1/secret/pin", []string{"PIN"}, 200},
		{"/v1/secret/pin", []string{"wrong PIN"}, 403},
		{"/v1/secret/pin", []string{"wrong PIN"}, 403}, // and is not sent again
		{"/v1/secret/pin", []string{"PIN", "SO-PIN"}, 400},
		{"/v1/secret/so-pin", []string{"SO-PIN"}, 200},
		{"/v1/secret/seal", []string{seal}, 200},
		{"/v1/device/pin/change", []string{"PIN", "next PIN"}, 200},
		{"/v1/device/pin/unblock", []string{"wrong SO-PIN", "last PIN"}, 403},
		{"/v1/device/pin/unblock", []string{"SO-PIN", "last PIN"}, 200},
		{"/v1/device/reseal", []string{"next seal secret", seal}, 0},
		{"/v1/device/reseal", []string{seal, "next seal secret"}, 0},
	} {
		body := secrets(try.secrets...)
		r := l.heard(fmt.Sprint(try.path, try.secrets), l.onSocket(try.path, api.TypeSecrets, body))
		if try.status != 0 && r.status != try.status {
			l.t.Errorf("%s %v: %d %s", try.path, try.secrets, r.status, r.body)
		}
		l.heard("the same as JSON", l.onSocket(try.path, api.TypeJSON, body))
		l.heard("the same in JSON", l.onSocket(try.path, api.TypeJSON, fmt.Appendf(nil, `{"secret":%q}`, body)))
		l.heard("the same cut", l.onSocket(try.path, api.TypeSecrets, body[:len(body)-1]))
		l.heard("the same on the port", l.browser.send(l.socket, "POST", try.path, newRequest(), body))
	}
}

func (l *life) onSocket(path, kind string, body []byte) reply {
	l.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.socket.Config.Socket)
	}}}
	r, err := http.NewRequestWithContext(l.t.Context(), "POST", "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set(api.HeaderRequest, newRequest())
	answer, err := client.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return reply{answer.StatusCode, answer.Header, content}
}

// isAskedEverything asks each member for each route, as the operator and as
// strangers, well where the route changes nothing and badly where it does.
func (l *life) isAskedEverything() {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	query := map[string]string{
		api.KeyShow: "?key=aes-256", api.KeyPublic: "?key=rsa-2048", api.Random: "?bytes=16", api.DeviceInfo: "?node=" + l.Leader().Name,
		api.CeremonyShow: "?id=" + l.Leader().Ceremonies()[0].ID.String(), api.AuditList: "?limit=1000", api.CeremonyList: "?limit=100",
	}
	for _, route := range api.Routes() {
		for _, m := range l.Members {
			r := l.heard(route.Name, l.browser.send(m, route.Method, route.Path+query[route.Name], newRequest(), []byte(`{"surprise":1}`)))
			if route.Method == "GET" && r.status != 200 {
				l.t.Errorf("%s: %d %s", route.Name, r.status, r.body)
			}
		}
		for who, b := range map[string]*browser{"no key": browse(l.t, l.Cluster, nil), "an unknown key": browse(l.t, l.Cluster, key)} {
			l.heard(route.Name+" with "+who, b.send(l.Leader(), route.Method, route.Path, newRequest(), nil))
		}
	}
	for _, info := range l.Leader().Ceremonies() {
		if l.said["ceremony "+info.ID.String()], err = json.Marshal(info); err != nil {
			l.t.Fatal(err)
		}
	}
}

// ends stops the nodes and takes what they logged and what is on their disks.
func (l *life) ends() {
	for _, m := range l.Members {
		var snapshot bytes.Buffer
		if _, err := m.View().Snapshot().WriteTo(&snapshot); err != nil {
			l.t.Fatal(err)
		}
		l.said[m.Name+"'s snapshot"] = snapshot.Bytes()
		m.Close()
	}
	l.said["log"] = l.logs.Bytes()
	if err := filepath.WalkDir(l.dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			l.said[path], err = os.ReadFile(path)
		}
		return err
	}); err != nil {
		l.t.Fatal(err)
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
