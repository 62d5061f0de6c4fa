package client_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// fake is a member with answers written by a test, behind the routes that a
// real one has.
type fake struct {
	*httptest.Server
	fingerprint string
	mu          sync.Mutex
	calls       []string // route names
	requests    []string // request IDs
	peers       []client.Fingerprint
}

type answer func(w http.ResponseWriter, r *http.Request)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func start(t *testing.T, answers map[string]answer) *fake {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1, 0)} // expired long ago: nobody may care
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{Server: httptest.NewUnstartedServer(nil)}
	fingerprint, err := client.KeyFingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	f.fingerprint = fingerprint.String()
	f.Config.Handler = f.handler(answers)
	f.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	f.EnableHTTP2 = true
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

func (f *fake) handler(answers map[string]answer) http.Handler {
	mux := http.NewServeMux()
	for _, route := range api.Routes() {
		mux.HandleFunc(route.Pattern(), func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			f.calls = append(f.calls, route.Name)
			f.requests = append(f.requests, r.Header.Get(api.HeaderRequest))
			if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
				fp, _ := client.KeyFingerprint(r.TLS.PeerCertificates[0].PublicKey)
				f.peers = append(f.peers, fp)
			}
			f.mu.Unlock()
			w.Header().Set(api.HeaderNode, "n1")
			w.Header().Set(api.HeaderStateAge, "1.5")
			if a := answers[route.Name]; a != nil {
				a(w, r)
				return
			}
			refuse(api.CodeNotFound)(w, r)
		})
	}
	return mux
}

func (f *fake) address() string { return f.Listener.Addr().String() }

func say(body any) answer {
	return func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(body) }
}

func refuse(code api.Code) answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code.Status())
		json.NewEncoder(w).Encode(api.Error{Code: code, Message: "refused"})
	}
}

// closed is an address where nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func dial(t *testing.T, config client.Config) *client.Client {
	t.Helper()
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
