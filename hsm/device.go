// Package hsm is what a custodian asks of a hardware security module: the
// [Device] interface, key types, and typed errors.
//
// Start with drivers.Open, which turns a URI into a [Token]; hsm/soft is the
// software device, hsm/hsmtest the conformance suite that every driver passes.
//
// A device keeps private keys in numbered slots and one DKEK, the key under
// which it wraps keys for backup. It is initialised for t shares, takes t
// 32-byte shares one by one and XORs them: no call returns the DKEK, a share or
// a private key in the clear. What the host decides (which slot, which key to
// evict, whether a key may be made at all) is not decided here.
//
//	token, err := drivers.Open(ctx, "soft:/var/lib/keycustodian/device")
//	object, err := token.Generate(ctx, 1, hsm.ECDSAP256, hsm.Attributes{Label: "tables"})
//	signature, err := token.Sign(ctx, 1, digest, hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
package hsm

import (
	"context"
	"crypto"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// Secret is a secret in locked memory that refuses to be printed or encoded. Its
// bytes are seen only within a call of With(func(p []byte)); Len, Equal, Clone and
// Wipe do what they say. Whoever made or was given one wipes it. Nil is empty, and
// the methods may be called concurrently.
type Secret = secret.Bytes

// Source fetches a PIN or another secret when it is needed, each time anew:
// func(context.Context) (*Secret, error). The caller wipes what it returns, so it
// never returns the same Secret twice.
type Source = secret.Source

// NewSecret moves b into a Secret: b is wiped.
func NewSecret(b []byte) *Secret { return secret.Take(b) }

// ParseSource understands where a secret comes from, never the secret itself:
//
//	file:/run/pin        a file that others than its owner and group cannot touch
//	credential:NAME      a systemd credential ($CREDENTIALS_DIRECTORY/NAME)
//	fd:3                 an inherited descriptor, readable once
//	prompt               the terminal, without echo
//
// One newline at the end is not part of the secret, except of 32 bytes that are no
// text. An empty secret is refused. what names the secret in prompts and errors.
func ParseSource(source, what string) (Source, error) { return secret.ParseSource(source, what) }

// Token is a device together with where its PINs come from.
type Token struct {
	Device
	// PIN is asked once for each login. Nil: the device needs none.
	PIN Source
	// PINDerived: PIN follows from what seals this device and from nothing else, so
	// there is no place in which another PIN would be found.
	PINDerived bool
	// SOPIN is asked by initialise, provision and unblock only, and never kept.
	// Nil: the device needs none.
	SOPIN Source
	// Weakness says why this device protects less than it could, in words for
	// status ("one disk is the DKEK"); empty where there is nothing to say.
	Weakness string
	// Reseal makes what seals this device, or gives its PINs, follow from the
	// host's next seal secret in place of its present one: whole or not at all,
	// and harmless when repeated. [ErrOwnSeal], before anything changes: it cannot
	// follow. Nil: nothing here depends on that secret.
	Reseal func(ctx context.Context, present, next *Secret) error
}

// Slot names the place of one key in a device, 1 to Info.Slots. The host
// allocates slots; a driver never picks one by itself.
type Slot uint32

// ShareSize is the length in bytes of what ImportShare takes, and of a DKEK.
const ShareSize = 32

// KCV is a DKEK's key check value: the first 8 bytes of SHA-256(DKEK).
type KCV [8]byte

// Device is one HSM. Every method may be called concurrently; a driver orders
// what its hardware cannot do at once. A method that returns an error that is
// not a *[Error] or a context error has an unknown outcome: ask List or Info
// before relying on either. Methods honour ctx before they start and, where
// they can, while they wait; an operation cut off by ctx may still take effect.
//
// Every change is visible to later calls at once and durable after a Sync that
// began later.
type Device interface {
	// Info identifies the device and says what state it is in. It works
	// without login and on a blank device.
	Info(ctx context.Context) (Info, error)
	// Capabilities says what the device can do, probed and not assumed.
	Capabilities() Capabilities

	// Initialise wipes the device and prepares it for a DKEK of
	// options.Shares shares. On a device that is not blank the SO-PIN must be
	// its present one, except where the hardware does not check it.
	Initialise(ctx context.Context, options InitOptions) error
	// ImportShare hands the device one share of ShareSize bytes, which it XORs
	// to those before. A share too many is [ErrTooManyShares]. The caller
	// keeps the share and wipes it. Needs login.
	ImportShare(ctx context.Context, share *Secret) (DKEKStatus, error)
	// DKEK reports how many shares are in and, once none is missing, the KCV.
	// Needs login.
	DKEK(ctx context.Context) (DKEKStatus, error)

	// Generate makes a key in an empty slot. ErrSlotUsed, ErrSharesMissing,
	// ErrFull, ErrUnsupported.
	Generate(ctx context.Context, slot Slot, keyType KeyType, attributes Attributes) (Object, error)
	// List enumerates every key, in slot order, from the device itself.
	List(ctx context.Context) ([]Object, error)
	// Delete empties a slot. An empty slot is [ErrNoKey].
	Delete(ctx context.Context, slot Slot) error
	// Wrap returns the key encrypted under the DKEK: the only form in which a
	// private key leaves. The format is Capabilities().BlobKind.
	Wrap(ctx context.Context, slot Slot) ([]byte, error)
	// Unwrap puts a wrapped key into an empty slot. A blob under another DKEK
	// is [ErrWrongDKEK], a damaged one [ErrBadBlob]; both before anything
	// changes. That the returned public key is the expected one is for the
	// caller to check and prove.
	Unwrap(ctx context.Context, slot Slot, blob []byte, attributes Attributes) (Object, error)
	// Sync returns when everything changed before it is durable. Devices that
	// store before they answer return at once.
	Sync(ctx context.Context) error

	// Sign signs a digest (RSA, ECDSA) or a message (Ed25519). RSA signatures
	// have the modulus' length, ECDSA ones are ASN.1 DER, Ed25519 ones 64 bytes.
	Sign(ctx context.Context, slot Slot, input []byte, options SignOptions) ([]byte, error)
	// Decrypt decrypts with an RSA key. A failed decryption is
	// [ErrDecryption] and says nothing else.
	Decrypt(ctx context.Context, slot Slot, ciphertext []byte, options DecryptOptions) ([]byte, error)
	// ECDH agrees with a peer's public key on the key's own curve. peer is an
	// uncompressed point, 04 || X || Y. The answer is X of the shared point,
	// as long as the curve's field.
	ECDH(ctx context.Context, slot Slot, peer []byte) (*Secret, error)
	// Seal encrypts with AES-GCM and returns nonce (12, random) || ciphertext
	// || tag (16). More than Capabilities().MaxSeal bytes is ErrTooLarge.
	Seal(ctx context.Context, slot Slot, plaintext, additional []byte) ([]byte, error)
	// Open reverses Seal; a wrong tag is [ErrDecryption].
	Open(ctx context.Context, slot Slot, sealed, additional []byte) ([]byte, error)
	// CMAC returns the 16-byte AES-CMAC (RFC 4493, SP 800-38B) of message.
	CMAC(ctx context.Context, slot Slot, message []byte) ([]byte, error)
	// Random returns n bytes from the device's own generator, n up to MaxRandom.
	Random(ctx context.Context, n int) ([]byte, error)

	// Login sends the user PIN once. A wrong one is a *[PINError] and costs a
	// try. Everything but Info, Capabilities, Initialise and the PIN methods
	// needs a login and answers [ErrNotLoggedIn] without, which can happen at
	// any time: a PIN state belongs to the device, not to this handle.
	Login(ctx context.Context, pin *Secret) error
	// Tries says how many wrong PINs are left, without spending one.
	Tries(ctx context.Context) (PINTries, error)
	// ChangePIN replaces the user PIN.
	ChangePIN(ctx context.Context, old, new *Secret) error
	// UnblockPIN sets a new user PIN and full tries with the SO-PIN.
	UnblockPIN(ctx context.Context, soPIN, new *Secret) error

	// Close lets go of the device. Calls under way may fail with ErrGone.
	Close() error
}

// MaxRandom is the most that one Random call may ask for, in bytes.
const MaxRandom = 64 << 10

// State is how far a device is from being usable.
type State string

const (
	Blank         State = "blank"          // never initialised, or wiped
	SharesMissing State = "shares missing" // initialised, DKEK incomplete
	Ready         State = "ready"          // DKEK complete
	NoBackup      State = "no backup"      // initialised without shares: nothing can leave it
)

// Info identifies a device.
type Info struct {
	Kind        string // "soft", "smartcard-hsm", "pkcs11"
	Serial      string // permanent, printable
	Label       string
	Model       string
	Firmware    string
	Certificate []byte // the device's own certificate where it has one, else nil
	State       State
	LoggedIn    bool
	Slots       int // how many keys fit, at most
	FreeSlots   int // at least this many more fit; -1 where the device cannot tell
	FreeBytes   int // free key memory; -1 where the device cannot tell
}

// Blob kinds: which wrapping a device reads and writes. A key can only move
// between devices of one kind (hsm/soft reads them all).
const BlobSmartCardHSM = "smartcard-hsm"

// Capabilities says what a device can do.
type Capabilities struct {
	Types    []KeyType
	BlobKind string
	Combines bool // XORs imported shares itself; else its host must
	MaxSeal  int  // largest plaintext of Seal in bytes
	MaxCMAC  int  // largest message of CMAC in bytes
}

// Supports reports whether keys of this type can be made and brought back.
func (c Capabilities) Supports(keyType KeyType) bool {
	for _, t := range c.Types {
		if t == keyType {
			return true
		}
	}
	return false
}

// InitOptions says how to initialise a device.
type InitOptions struct {
	Label  string  // up to 32 bytes
	SOPIN  *Secret // 8 bytes, or 16 hexadecimal digits for them
	PIN    *Secret // 6 to 15 bytes
	Tries  int     // wrong PINs until blocked, 1 to 10; 0 is 3
	Shares int     // how many shares make the DKEK, 1 to 255
}

// DKEKStatus says how far a DKEK is.
type DKEKStatus struct {
	Shares  int // expected in all; 0 where the device makes no backups
	Missing int
	KCV     KCV // zero until Missing is 0
}

// Attributes are what a device stores with a key for its host.
type Attributes struct {
	// Label is for people, up to MaxLabel bytes.
	Label string
	// Tag is for the host, up to MaxTag bytes, stored as given.
	Tag []byte
}

// Limits of Attributes, in bytes.
const (
	MaxLabel = 64
	MaxTag   = 40
)

// Object is one key as the device shows it.
type Object struct {
	Slot Slot
	Type KeyType
	// Public is *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey; nil for
	// AES and for a public key that the device did not keep.
	Public crypto.PublicKey
	Attributes
}

// Scheme is a signature or encryption scheme.
type Scheme string

const (
	ECDSA    Scheme = "ecdsa"
	EdDSA    Scheme = "ed25519"
	PKCS1v15 Scheme = "pkcs1v15" // RSASSA-PKCS1-v1_5 and RSAES-PKCS1-v1_5
	PSS      Scheme = "pss"      // salt as long as the hash, MGF1 with the same hash
	OAEP     Scheme = "oaep"     // MGF1 with the same hash
)

// SignOptions says how Sign signs.
type SignOptions struct {
	Scheme Scheme
	// Hash made the digest; its size must be the input's. Zero for Ed25519,
	// and for PKCS1v15 over an input without DigestInfo.
	Hash crypto.Hash
}

// DecryptOptions says how Decrypt decrypts.
type DecryptOptions struct {
	Scheme Scheme      // PKCS1v15 or OAEP
	Hash   crypto.Hash // of OAEP
	Label  []byte      // of OAEP
}

// PINTries counts wrong PINs left.
type PINTries struct {
	User, SO       int // left; -1 where the device cannot tell
	UserMax, SOMax int // at most; -1 where the device cannot tell. A right PIN restores User, and not always SO
}
