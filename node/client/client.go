// Package client talks to a custodian cluster over its API: the remote twin of
// package node, for programs that do not embed one.
//
// Start with [ReadClusterFile] and [New], then [Client.Key]: a [Key] is a
// crypto.Signer, and for RSA a crypto.Decrypter, whose private half stays in
// the custodians' devices. Everything else that can be asked for is one call,
// [Client.Do], with the routes and types of package api.
//
// Guaranteed: a server is believed only under a pinned fingerprint, over TLS
// 1.3; a change carries a request ID, so that trying it again at the next
// address changes nothing twice; a request with a PIN or a seal secret is sent
// once. Not guaranteed: that the list of members is fresh. A removed member
// whose fingerprint is still pinned is still believed, so refresh
// ([Client.Refresh]) and keep the cluster file.
//
//	file, err := client.ReadClusterFile("cluster.json")
//	c, err := client.New(client.Config{Addresses: file.Addresses(), Members: file.Fingerprints(), Key: signer})
//	key, err := c.Key(ctx, "tables-2026")
//	signature, err := key.Sign(rand.Reader, digest, crypto.SHA256)
package client

import (
	"crypto"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/keycustodian/keycustodian/node/api"
)

// Config says how to reach a cluster and as whom.
type Config struct {
	// Addresses are host:port of the members' APIs, tried in turn; or the one
	// unix:/path of a node's own socket.
	Addresses []string
	// Members are the fingerprints that a server may have: 64 hexadecimal
	// digits, the SHA-256 of its DER SubjectPublicKeyInfo. Not used on a
	// socket.
	Members []string
	// Cluster is the ID that the cluster must have when it is refreshed; empty
	// takes any.
	Cluster string
	// Key is the caller's own: Ed25519, ECDSA or RSA. Nil on a socket, and for
	// the routes that anyone may ask.
	Key crypto.Signer
	// Timeout of one try at one address; 0 is 150 seconds: a node takes two minutes
	// at most, for keys that a device takes long to make, and then says what became
	// of the request. A connection that is dead is noticed in seconds, whatever this
	// says.
	Timeout time.Duration
}

func (c *Config) validate() error {
	if len(c.Addresses) == 0 {
		return errors.New("client: no address to ask")
	}
	for _, address := range c.Addresses {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			if path == "" || len(c.Addresses) > 1 {
				return errors.New("client: a socket is unix:/path and the only address")
			}
			return nil
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("client: address %.80q is not host:port", address)
		}
	}
	if len(c.Members) == 0 {
		return errors.New("client: no member's fingerprint is pinned: a server could be anybody")
	}
	return nil
}

// Client is safe for concurrent use.
type Client struct {
	socket   string // path, or empty
	cluster  string
	timeout  time.Duration
	http     *http.Client
	probe    *http.Client       // for signs of life
	asking   singleflight.Group // for a sign of life; by host
	silence  time.Duration      // before the first is asked for
	patience time.Duration      // with one, and between them
	routes   map[string]api.Route

	mu        sync.Mutex
	addresses []string
	pins      map[Fingerprint]bool
	current   int // the address that answered last
}

// New makes a client. It connects when it is first asked for something.
func New(config Config) (*Client, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	c := &Client{
		cluster: config.Cluster, timeout: config.Timeout,
		addresses: append([]string(nil), config.Addresses...),
		routes:    map[string]api.Route{}, silence: silence, patience: patience,
	}
	if c.timeout == 0 {
		c.timeout = 150 * time.Second
	}
	for _, route := range api.Routes() {
		c.routes[route.Name] = route
	}
	if path, ok := strings.CutPrefix(config.Addresses[0], "unix:"); ok {
		c.socket = path
		c.http = &http.Client{Transport: socketTransport(path), CheckRedirect: refuseRedirect}
		c.probe = c.http
		return c, nil
	}
	pins, err := parsePins(config.Members)
	if err != nil {
		return nil, err
	}
	c.pins = pins
	transport, err := c.tlsTransport(config.Key)
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: refuseRedirect}
	lone := transport.Clone()
	lone.DisableKeepAlives = true
	c.probe = &http.Client{Transport: lone, CheckRedirect: refuseRedirect}
	return c, nil
}

// refuseRedirect: no route redirects, and a request must not go elsewhere.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Addresses are the addresses in the order in which they are tried next.
func (c *Client) Addresses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(append([]string(nil), c.addresses[c.current:]...), c.addresses[:c.current]...)
}

// answered remembers an address that works.
func (c *Client) answered(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range c.addresses {
		if a == address {
			c.current = i
		}
	}
}
