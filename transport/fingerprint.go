package transport

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// Fingerprint is the SHA-256 of a public key in DER SubjectPublicKeyInfo form.
// It is the only identity that this package knows.
type Fingerprint [32]byte

// FingerprintOf returns the fingerprint of a public key (ed25519.PublicKey,
// *ecdsa.PublicKey or another that x509 can encode).
func FingerprintOf(public crypto.PublicKey) (Fingerprint, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("transport: fingerprint: %w", err)
	}
	return sha256.Sum256(der), nil
}

// ParseFingerprint reads the 64 lower-case hex digits that String writes.
func ParseFingerprint(text string) (Fingerprint, error) {
	var f Fingerprint
	if len(text) != 2*len(f) {
		return f, fmt.Errorf("transport: parse fingerprint: %d characters, want %d", len(text), 2*len(f))
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return f, fmt.Errorf("transport: parse fingerprint: %w", err)
	}
	copy(f[:], raw)
	if f.String() != text {
		return Fingerprint{}, fmt.Errorf("transport: parse fingerprint: not in lower case")
	}
	return f, nil
}

// String returns 64 lower-case hex digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// name is what a dial says in place of a host's name: whom it expects. A node
// whose key changes can so be met under either.
func (f Fingerprint) name() string { return f.String()[:32] }

// IsZero reports whether f is no key's fingerprint.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// PeerFingerprint returns the fingerprint of the key that the other side of a
// finished handshake proved to hold; false where it showed no certificate, as
// a client of the API may.
func PeerFingerprint(state tls.ConnectionState) (Fingerprint, bool) {
	if len(state.PeerCertificates) == 0 {
		return Fingerprint{}, false
	}
	return sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo), true
}
