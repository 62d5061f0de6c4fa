package transport_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/transport"
)

// loopback starts a server on a real socket, with a key that every TLS library
// knows, and its API.
func loopback(t *testing.T) *transport.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := transport.NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	server, err := transport.Listen(transport.Config{Identity: identity, Listen: "127.0.0.1:0", Directory: newMembers()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go http.Serve(server.API(), whoami)
	return server
}

// program returns the path of a program that these tests look at us with.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: make deps", name)
	}
	return path
}

func TestCurlPinsTheNodesKey(t *testing.T) {
	curl := program(t, "curl")
	server := loopback(t)
	f := server.Fingerprint()
	get := func(pin []byte, more ...string) (string, error) {
		args := append([]string{"-sS", "-k", "--pinnedpubkey", "sha256//" + base64.StdEncoding.EncodeToString(pin)}, more...)
		out, err := exec.Command(curl, append(args, "https://"+server.Addr()+"/")...).CombinedOutput()
		return string(out), err
	}
	for _, version := range []struct{ flag, want string }{{"--http1.1", "HTTP/1.1 nobody"}, {"--http2", "HTTP/2.0 nobody"}, {"--no-alpn", "HTTP/1.1 nobody"}} {
		if out, err := get(f[:], version.flag); err != nil || out != version.want {
			t.Errorf("%s: %q, %v", version.flag, out, err)
		}
	}
	f[0] ^= 1
	if out, err := get(f[:]); err == nil {
		t.Errorf("a wrong pin was accepted: %q", out)
	}
}

func TestOpenSSLIsToldWhatIsSpoken(t *testing.T) {
	openssl := program(t, "openssl")
	server := loopback(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, openssl, append([]string{"s_client", "-connect", server.Addr()}, args...)...)
		if !slices.Contains(args, "-ign_eof") { // else until the server closes
			cmd.Stdin = strings.NewReader("Q\n")
		}
		out, err := cmd.CombinedOutput()
		return string(bytes.ToValidUTF8(out, nil)), err
	}
	if out, err := client("-alpn", "h2"); err != nil || !strings.Contains(out, "ALPN protocol: h2") || !strings.Contains(out, "TLSv1.3") {
		t.Errorf("h2: %v\n%s", err, out)
	}
	if out, err := client("-alpn", "kc-raft/9"); err == nil || strings.Contains(out, "ALPN protocol:") {
		t.Errorf("an unknown protocol was accepted: %v\n%s", err, out)
	}
	if out, err := client("-alpn", "h2", "-tls1_2"); err == nil {
		t.Errorf("TLS 1.2 was accepted\n%s", out)
	}
	// No certificate, and no member: the alert says so.
	if out, _ := client("-alpn", "kc-peer/1", "-ign_eof"); !strings.Contains(out, "alert certificate required") {
		t.Errorf("a stranger without a certificate was let in\n%s", out)
	}
}
