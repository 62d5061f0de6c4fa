package keyblob

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// PrivateKey is what a blob holds: exactly one of [RSA], [EC], [Ed25519] and
// [AES], by value. Like a secret, none of them can be printed or encoded.
//
// Each has the key's algorithm list beside the key, as a SmartCard-HSM codes
// them. nil stands for the default list of its kind, which allows every use of
// docs/format.md and the wrap; an empty one is written as empty.
type PrivateKey interface {
	// Type is what Wrap writes for this key.
	Type() Type
	// Public returns *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey;
	// nil for AES.
	Public() crypto.PublicKey
	// Wipe overwrites the private parts in place. Copies that crypto/rsa
	// keeps for itself are out of its reach.
	Wipe()

	algorithms() []byte
	encode(w *writer) error
}

// RSA is an RSA key with two primes, 1024 to 4096 bits.
type RSA struct {
	hidden
	Key        *rsa.PrivateKey
	Algorithms []byte
}

// EC is a key on P-224, P-256, P-384 or P-521.
type EC struct {
	hidden
	Key        *ecdsa.PrivateKey
	Algorithms []byte
}

// Ed25519 is an Ed25519 key. Its blob is an extension of ours that no
// SmartCard-HSM reads.
type Ed25519 struct {
	hidden
	Key        ed25519.PrivateKey
	Algorithms []byte
}

// AES is an AES key of 16, 24 or 32 bytes.
type AES struct {
	hidden
	Key        []byte
	Algorithms []byte
}

func (RSA) Type() Type     { return TypeRSA }
func (EC) Type() Type      { return TypeEC }
func (Ed25519) Type() Type { return TypeEd25519 }
func (AES) Type() Type     { return TypeAES }

func (k RSA) Public() crypto.PublicKey     { return &k.Key.PublicKey }
func (k EC) Public() crypto.PublicKey      { return &k.Key.PublicKey }
func (k Ed25519) Public() crypto.PublicKey { return k.Key.Public() }
func (AES) Public() crypto.PublicKey       { return nil }

func (k RSA) algorithms() []byte     { return listOr(k.Algorithms, rsaAlgorithms) }
func (k EC) algorithms() []byte      { return listOr(k.Algorithms, ecAlgorithms) }
func (k Ed25519) algorithms() []byte { return listOr(k.Algorithms, ed25519Algorithms) }
func (k AES) algorithms() []byte     { return listOr(k.Algorithms, aesAlgorithms) }

// The default lists. Each ends in 92: a list without it makes a key that can
// never leave its device.
const (
	rsaAlgorithms     = "\x20\x21\x33\x40\x43\x92" // raw, decrypt, PKCS#1 and PSS with SHA-256, PSS
	ecAlgorithms      = "\x70\x73\x80\x92"         // ECDSA of a hash, with SHA-256, ECDH
	ed25519Algorithms = "\xED\x92"
	aesAlgorithms     = "\x10\x11\x18\x99\x92" // CBC both ways, CMAC, derive
)

func listOr(list []byte, otherwise string) []byte {
	if list == nil {
		return []byte(otherwise)
	}
	return list
}

func (k RSA) Wipe() {
	wipeInts(k.Key.D, k.Key.Precomputed.Dp, k.Key.Precomputed.Dq, k.Key.Precomputed.Qinv)
	wipeInts(k.Key.Primes...)
}

//lint:ignore SA1019 big.Int is what has to be wiped
func (k EC) Wipe()      { wipeInts(k.Key.D) }
func (k Ed25519) Wipe() { secret.Wipe(k.Key) }
func (k AES) Wipe()     { secret.Wipe(k.Key) }

func wipeInts(numbers ...*big.Int) {
	for _, n := range numbers {
		if n != nil {
			clear(n.Bits())
			n.SetInt64(0)
		}
	}
}

// hidden makes the key types refuse every formatter and encoder. Its methods
// are promoted; its own name is not exported, so a key is still made as
// EC{Key: k}.
type hidden struct{}

const shown = "[private key]"

var errRefused = errors.New("keyblob: refused to encode a private key")

func (hidden) Format(f fmt.State, _ rune)                      { io.WriteString(f, shown) }
func (hidden) String() string                                  { return shown }
func (hidden) GoString() string                                { return shown }
func (hidden) LogValue() slog.Value                            { return slog.StringValue(shown) }
func (hidden) MarshalJSON() ([]byte, error)                    { return nil, errRefused }
func (hidden) MarshalText() ([]byte, error)                    { return nil, errRefused }
func (hidden) MarshalBinary() ([]byte, error)                  { return nil, errRefused }
func (hidden) MarshalCBOR() ([]byte, error)                    { return nil, errRefused }
func (hidden) MarshalYAML() (any, error)                       { return nil, errRefused }
func (hidden) MarshalXML(*xml.Encoder, xml.StartElement) error { return errRefused }
func (hidden) GobEncode() ([]byte, error)                      { return nil, errRefused }
