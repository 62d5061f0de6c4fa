package fsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
)

// Domain separates what is signed: a signature of one domain never verifies in
// another. The bytes signed are "keycustodian v1 ", the domain, 0, and the exact
// bytes of the statement.
type Domain string

const (
	DomainRecipient Domain = "recipient" // a [RecipientStatement], by the receiving node
	DomainOpen      Domain = "open"      // an [Open], by its opener
	DomainApproval  Domain = "approval"  // an Open, by an operator
	DomainDeny      Domain = "deny"      // an Open, by an operator
	DomainDealing   Domain = "dealing"   // a [DealingStatement], by the dealer
	DomainAck       Domain = "ack"       // an [AckStatement], by the holder
	DomainReport    Domain = "report"    // a [ReportStatement], by the device's node
	DomainClose     Domain = "close"     // a [CloseStatement], by a member
	DomainJoin      Domain = "join"      // a [JoinStatement], by the joiner
	DomainRotate    Domain = "rotate"    // a [RotateStatement], by the old and the new key
	DomainRecover   Domain = "recover"   // a [RecoverStatement], by an operator
	DomainDevice    Domain = "device"    // a [DeviceStatement], by an operator; never in the log
	DomainBackup    Domain = "backup"    // a [BackupStatement], by the node that made the file; never in the log
	DomainRelease   Domain = "release"   // a released ciphertext, by the holder; never in the log
)

func signed(domain Domain, message []byte) []byte {
	out := make([]byte, 0, 32+len(message))
	out = append(out, "keycustodian v1 "...)
	out = append(out, domain...)
	out = append(out, 0)
	return append(out, message...)
}

// SignMessage signs a message under a domain with an Ed25519 key (64 bytes) or
// an ECDSA P-256 key (ASN.1 DER over SHA-256).
func SignMessage(signer crypto.Signer, domain Domain, message []byte) ([]byte, error) {
	input := signed(domain, message)
	var options crypto.SignerOpts = crypto.Hash(0)
	switch signer.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(input)
		input, options = digest[:], crypto.SHA256
	default:
		return nil, fmt.Errorf("fsm: sign %s: key of type %T: want Ed25519 or ECDSA P-256", domain, signer.Public())
	}
	signature, err := signer.Sign(rand.Reader, input, options)
	if err != nil {
		return nil, fmt.Errorf("fsm: sign %s: %w", domain, err)
	}
	return signature, nil
}

// VerifyMessage checks a signature under a public key, given as DER
// SubjectPublicKeyInfo.
func VerifyMessage(public []byte, domain Domain, message, signature []byte) error {
	if err := verify(public, domain, message, signature); err != nil {
		return err
	}
	return nil
}

func verify(public []byte, domain Domain, message, signature []byte) *Error {
	key, err := parseIdentity(public)
	if err != nil {
		return err
	}
	if len(signature) > MaxSignature {
		return refuse(BadRequest, "%s: signature longer than %d bytes", domain, MaxSignature)
	}
	input, good := signed(domain, message), false
	switch key := key.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(key, input, signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(input)
		good = ecdsa.VerifyASN1(key, digest[:], signature)
	}
	if !good {
		return refuse(NotAllowed, "%s: signature does not verify under %v", domain, FingerprintOf(public))
	}
	return nil
}

// FingerprintOf is the SHA-256 of a DER SubjectPublicKeyInfo.
func FingerprintOf(public []byte) dkek.Fingerprint { return sha256.Sum256(public) }

// Signed is a statement in the exact bytes that were signed, with the
// signature.
type Signed struct {
	Statement []byte `cbor:"1,keyasint"` // core deterministic CBOR
	Signature []byte `cbor:"2,keyasint"`
}

// SignStatement encodes a statement (a pointer to a *Statement type of this
// package) and signs it.
func SignStatement(signer crypto.Signer, domain Domain, statement any) (Signed, error) {
	encoded, err := marshal(statement)
	if err != nil {
		return Signed{}, fmt.Errorf("fsm: sign %s: %w", domain, err)
	}
	signature, err := SignMessage(signer, domain, encoded)
	return Signed{Statement: encoded, Signature: signature}, err
}

// Open checks the signature and decodes the statement into a pointer.
func (s Signed) Open(domain Domain, public []byte, into any) error {
	if err := s.open(domain, public, into); err != nil {
		return err
	}
	return nil
}

// Peek decodes the statement without checking the signature: to find out whose
// key to check it with.
func (s Signed) Peek(into any) error {
	if err := s.peek(into); err != nil {
		return err
	}
	return nil
}

func (s Signed) peek(into any) *Error {
	if err := unmarshal(s.Statement, into); err != nil {
		// The decoder's words may differ between its versions, and refusals are
		// replicated.
		return refuse(BadRequest, "a signed statement is malformed")
	}
	return nil
}

func (s Signed) open(domain Domain, public []byte, into any) *Error {
	if err := verify(public, domain, s.Statement, s.Signature); err != nil {
		return err
	}
	return s.peek(into)
}
