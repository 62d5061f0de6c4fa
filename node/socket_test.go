package node

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

func socketConfig(path string, seal hsm.Source) Config {
	return Config{
		Memory: &Memory{}, Name: "a", Listen: "10.0.0.1:7400", Network: transport.NewMemory().Host("10.0.0.1"), Socket: path,
		Device: hsm.Token{Device: soft.NewMemory(soft.Options{})}, Seal: seal,
	}
}

func openOnSocket(t *testing.T, config Config) *Node {
	t.Helper()
	n, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n
}

// local asks over the socket.
func local(t *testing.T, path, method, route, kind, body string) (int, []byte) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+route, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set(api.HeaderRequest, strings.Repeat("ab", 16))
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var content json.RawMessage
	if err := json.NewDecoder(answer.Body).Decode(&content); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, content
}

// The socket is its owner's alone, takes the place of one that a crash left
// behind and of nothing else, and goes with the node.
func TestSocketIsItsOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	config := socketConfig(path, secret.Fixed(secret.Random(32)))
	if _, err := Open(t.Context(), config); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("two on one socket: %v", err)
	}
	left.Close()
	n := openOnSocket(t, socketConfig(path, config.Seal))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if code, body := local(t, path, "GET", "/v1/whoami", "", ""); code != 200 || !strings.Contains(string(body), `"socket"`) {
		t.Errorf("%d %s", code, body)
	}
	// It is never an operator.
	if code, body := local(t, path, "POST", "/v1/tokens", api.TypeJSON, "{}"); code != http.StatusForbidden {
		t.Errorf("%d %s", code, body)
	}
	n.Close(t.Context())
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), socketConfig(path, config.Seal)); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file was taken for a socket: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("%s %v", content, err)
	}
	if _, err := Open(t.Context(), socketConfig(path+strings.Repeat("x", 108), config.Seal)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a path that is too long: %v", err)
	}
}

// A sealed node answers health, status and the way out of it, and nothing else;
// the secret is read once and opens it.
func TestSealedNodeWaitsOnItsSocket(t *testing.T) {
	path, seal := filepath.Join(t.TempDir(), "s"), []byte(strings.Repeat("k", 32))
	missing := func(context.Context) (*secret.Bytes, error) { return nil, os.ErrNotExist }
	n := openOnSocket(t, socketConfig(path, missing))
	if n.Sealed() == nil {
		t.Fatal("open without its seal secret")
	}
	for _, route := range []string{"/health/alive", "/health/state", "/v1/status", "/openapi.json"} {
		if code, body := local(t, path, "GET", route, "", ""); code != 200 {
			t.Errorf("%s: %d %s", route, code, body)
		}
	}
	code, body := local(t, path, "GET", "/health/ready", "", "")
	var health api.Health
	if err := json.Unmarshal(body, &health); err != nil || code != 503 || health.State != api.StateSealed || health.Missing == "" {
		t.Errorf("%d %s", code, body)
	}
	for _, route := range []string{"/v1/cluster", "/v1/members", "/v1/device"} {
		if code, body := local(t, path, "GET", route, "", ""); code != 503 || !strings.Contains(string(body), `"sealed"`) {
			t.Errorf("%s: %d %s", route, code, body)
		}
	}
	enter := func(secret []byte) (int, []byte) {
		content, err := api.EncodeSecrets(secret)
		if err != nil {
			t.Fatal(err)
		}
		return local(t, path, "POST", "/v1/secret/seal", api.TypeSecrets, string(content))
	}
	if code, body := enter([]byte("short")); code != 400 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := local(t, path, "POST", "/v1/secret/seal", api.TypeJSON, `{"seal":"x"}`); code != 400 {
		t.Errorf("a secret as JSON: %d %s", code, body)
	}
	if code, body := enter(seal); code != 200 || n.Sealed() != nil {
		t.Errorf("%d %s", code, body)
	}
	if code, body := local(t, path, "GET", "/v1/device", "", ""); code != 200 {
		t.Errorf("after: %d %s", code, body)
	}
}

// A node that is starting is not advised to be given what it has.
func TestAStartingNodeAsksForPatience(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	config := socketConfig(path, secret.Fixed(secret.Random(32)))
	device := config.Device
	opening, open := make(chan struct{}), make(chan struct{})
	config.Device, config.OpenDevice = hsm.Token{}, func(context.Context, *hsm.Secret) (hsm.Token, error) {
		close(opening)
		<-open
		return device, nil
	}
	go func() {
		<-opening
		_, body := local(t, path, "GET", "/v1/keys", "", "")
		if said := string(body); !strings.Contains(said, "starting") || !strings.Contains(said, "moment") || strings.Contains(said, "device enter") {
			t.Errorf("%s", said)
		}
		close(open)
	}()
	openOnSocket(t, config)
}

// A token that names another key than the member's is stale, and says so.
func TestAStaleTokenIsCalledSo(t *testing.T) {
	seal := secret.Random(secret.KeySize)
	network, path := transport.NewMemory(), filepath.Join(t.TempDir(), "socket")
	member, joiner := socketConfig("", secret.Fixed(seal)), socketConfig(path, secret.Fixed(seal))
	member.Network, joiner.Network, joiner.Listen = network.Host("10.0.0.1"), network.Host("10.0.0.2"), "10.0.0.2:7400"
	openOnSocket(t, member)
	openOnSocket(t, joiner)
	text, err := (&api.JoinToken{Cluster: [16]byte{1}, Address: "10.0.0.1:7400", Fingerprint: [32]byte{2}, Govern: 1}).Text()
	if err != nil {
		t.Fatal(err)
	}
	_, answer := local(t, path, http.MethodPost, "/v1/cluster/join", api.TypeJSON, `{"token":"`+text+`"}`)
	var said api.Error
	if err := json.Unmarshal(answer, &said); err != nil {
		t.Fatal(err)
	}
	if said.Code != api.CodeExpired || !strings.Contains(said.Message, "the token is stale: ") || !strings.Contains(said.Message, "10.0.0.1:7400 holds the key") || !strings.Contains(said.Hint, "cluster token") {
		t.Errorf("%+v", said)
	}
}
