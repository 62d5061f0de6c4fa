// Package keyblob reads and writes the byte formats of a SmartCard-HSM: the key
// blob that a device wraps a key in, the .pbe file that keeps one DKEK share
// under a password, and the file of sc-hsm-tool --wrap-key. It knows no device.
//
// Start with [NewKeys], which derives what a DKEK wraps with once for any number
// of [Keys.Wrap] and [Keys.Unwrap]; [Wrap] and [Unwrap] do it for a single key,
// [ParseHeader] reads what a blob says without any key.
//
// Guaranteed: Unwrap decrypts nothing before the blob's check value and its MAC
// over every byte of it are right, and returns only keys whose private and
// public halves belong together, on a curve or of a size named in docs/format.md.
// Not guaranteed: that a key is the one that the caller expects (compare
// Public, then have it prove itself), or secrecy of the DKEK's blobs against
// whoever has the DKEK: one blob and the DKEK are the private key.
//
//	keys, err := keyblob.NewKeys(dkek)
//	defer keys.Wipe()
//	blob, err := keys.Wrap(keyblob.EC{Key: private})
//	key, err := keys.Unwrap(blob) // a keyblob.EC again
package keyblob

import (
	"errors"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// What can be wrong, for errors.Is.
var (
	// ErrWrongDKEK: the check value names another DKEK.
	ErrWrongDKEK = errors.New("wrapped under another DKEK")
	// ErrDamaged: the check value is right and the MAC is not.
	ErrDamaged = errors.New("blob is damaged")
	// ErrMalformed: not laid out as the format says, or, behind a right MAC, a
	// key whose parts do not belong together.
	ErrMalformed = errors.New("malformed")
	// ErrUnsupported: well formed, of a type, curve or size not supported here.
	ErrUnsupported = errors.New("not supported")
	// ErrWrongPassword: the share file does not decrypt to a share.
	ErrWrongPassword = errors.New("wrong password, or not a DKEK share file of 32 bytes")
	// ErrWiped: the Keys were wiped.
	ErrWiped = errors.New("DKEK was wiped")
)

// Wrap wraps one key under a 32-byte DKEK. See [Keys.Wrap].
func Wrap(dkek *secret.Bytes, key PrivateKey) ([]byte, error) {
	keys, err := NewKeys(dkek)
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	return keys.Wrap(key)
}

// Unwrap reverses [Wrap]. See [Keys.Unwrap].
func Unwrap(dkek *secret.Bytes, blob []byte) (PrivateKey, error) {
	keys, err := NewKeys(dkek)
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	return keys.Unwrap(blob)
}
