package client

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"
)

// Fingerprint is the SHA-256 of a public key's DER SubjectPublicKeyInfo.
type Fingerprint [32]byte

func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// KeyFingerprint returns the fingerprint of a public key.
func KeyFingerprint(public crypto.PublicKey) (Fingerprint, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("client: fingerprint: %w", err)
	}
	return sha256.Sum256(der), nil
}

// ParseFingerprint understands 64 hexadecimal digits.
func ParseFingerprint(text string) (Fingerprint, error) {
	var f Fingerprint
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(f) {
		return f, fmt.Errorf("client: fingerprint %.80q is not 64 hexadecimal digits", text)
	}
	copy(f[:], raw)
	return f, nil
}

func parsePins(members []string) (map[Fingerprint]bool, error) {
	pins := map[Fingerprint]bool{}
	for _, text := range members {
		f, err := ParseFingerprint(text)
		if err != nil {
			return nil, err
		}
		pins[f] = true
	}
	return pins, nil
}

// PinError is a server whose key is not pinned.
type PinError struct {
	Address     string
	Fingerprint Fingerprint
}

func (e *PinError) Error() string {
	return fmt.Sprintf("client: %s shows the key %s, which is no member's", e.Address, e.Fingerprint)
}

func (c *Client) pinned(f Fingerprint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pins[f]
}

// idleConnections is how many connections to one node are kept for the next
// requests: a handshake costs more than a signature.
const idleConnections = 64

// tlsTransport checks the pinned key and nothing else: names and dates of a
// self-signed certificate prove nothing.
func (c *Client) tlsTransport(key crypto.Signer) (*http.Transport, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		// The chain is not looked at; dial checks the key that TLS proved.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
	}
	if key != nil {
		certificate, err := selfSigned(key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{*certificate}
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		own := config.Clone()
		own.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("client: the server shows no key")
			}
			f := Fingerprint(sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo))
			if !c.pinned(f) {
				return &PinError{Address: address, Fingerprint: f}
			}
			return nil
		}
		return (&tls.Dialer{Config: own}).DialContext(ctx, network, address)
	}
	return &http.Transport{DialTLSContext: dial, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: idleConnections}, nil
}

func socketTransport(path string) *http.Transport {
	return &http.Transport{
		// One connection for each request: nothing of a request with a secret
		// stays in the buffers of a connection that lives on.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
		},
	}
}

// selfSigned wraps a key in a certificate: the key is the identity, the rest is
// there because TLS wants it.
func selfSigned(key crypto.Signer) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "keycustodian client"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: no expiry
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("client: certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
