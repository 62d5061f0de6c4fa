package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Identity is a key pair with the certificate that carries its public half
// through TLS. It is immutable and may be shared by goroutines.
type Identity struct {
	certificate tls.Certificate
	fingerprint Fingerprint
}

// NewIdentity makes a self-signed certificate around key, which is Ed25519 or
// ECDSA P-256. Peers look at the public key only, so a new certificate at every
// start is as good as an old one.
func NewIdentity(key crypto.Signer) (*Identity, error) {
	switch public := key.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, errors.New("transport: identity: an ECDSA key must be on P-256")
		}
	default:
		return nil, fmt.Errorf("transport: identity: key type %T: want Ed25519 or ECDSA P-256", public)
	}
	fingerprint, err := FingerprintOf(key.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		// The name is for people who look at a capture; nothing reads it.
		Subject: pkix.Name{CommonName: "keycustodian " + fingerprint.String()[:16]},
		// Fixed dates, as wide as X.509 has them: no clock decides who a peer
		// is. RFC 5280 section 4.1.2.5 gives 99991231235959Z this meaning.
		NotBefore:   time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("transport: identity: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("transport: identity: %w", err)
	}
	return &Identity{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		fingerprint: fingerprint,
	}, nil
}

// identities are a server's keys: one, or two while its node's key changes.
type identities struct {
	current *Identity
	other   *Identity // nil outside a change
}

// called is the identity that a caller expects here, by the name it gave.
func (i *identities) called(name string) *Identity {
	if i.other != nil && name == i.other.fingerprint.name() {
		return i.other
	}
	return i.current
}

// Fingerprint returns the identity's fingerprint.
func (i *Identity) Fingerprint() Fingerprint { return i.fingerprint }

// Certificate returns the certificate with its key, for TLS configurations
// that the caller makes itself, such as an API client's.
func (i *Identity) Certificate() tls.Certificate { return i.certificate }
