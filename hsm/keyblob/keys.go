package keyblob

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// Keys are what a DKEK wraps with, derived once. Safe for concurrent use.
type Keys struct {
	kcv     [KCVSize]byte
	derived *secret.Bytes // K_enc (32) || K_mac (32)
}

// NewKeys derives the wrapping keys of a DKEK of DKEKSize bytes and keeps
// nothing else of it. The caller wipes both.
func NewKeys(dkek *secret.Bytes) (*Keys, error) {
	k := &Keys{derived: secret.New(2 * sha256.Size)}
	var err error
	dkek.With(func(p []byte) {
		if len(p) != DKEKSize {
			err = fmt.Errorf("keyblob: a DKEK has %d bytes, not %d", DKEKSize, len(p))
			return
		}
		k.derived.With(func(q []byte) {
			sum := sha256.Sum256(p)
			copy(k.kcv[:], sum[:])
			secret.Wipe(sum[:])
			derive(q[:sha256.Size], p, 1)
			derive(q[sha256.Size:], p, 2)
		})
	})
	if err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// derive sets out to SHA-256(dkek || 00 00 00 n).
func derive(out, dkek []byte, n byte) {
	var input [DKEKSize + 4]byte
	copy(input[:], dkek)
	input[len(input)-1] = n
	sum := sha256.Sum256(input[:])
	copy(out, sum[:])
	secret.Wipe(input[:])
	secret.Wipe(sum[:])
}

// KCV returns the DKEK's key check value: the first 8 bytes of SHA-256(DKEK).
func (k *Keys) KCV() [KCVSize]byte { return k.kcv }

// Wipe forgets the keys; later calls of Wrap and Unwrap return [ErrWiped].
func (k *Keys) Wipe() { k.derived.Wipe() }

// Wrap returns the key's blob, laid out as the vendor's devices do. Two blobs of
// one key differ. The key is checked as Unwrap does: nothing is wrapped that
// would not come back. Errors: [ErrUnsupported], [ErrMalformed].
func (k *Keys) Wrap(key PrivateKey) ([]byte, error) {
	if key == nil {
		return nil, errors.New("keyblob: wrap: no key")
	}
	var blob []byte
	err := k.with(func(enc, mac cipher.Block) (err error) {
		blob, err = k.wrap(key, enc, mac)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keyblob: wrap: %s: %w", key.Type(), err)
	}
	return blob, nil
}

func (k *Keys) wrap(key PrivateKey, enc, mac cipher.Block) ([]byte, error) {
	algorithms := key.algorithms()
	if len(algorithms) > MaxAlgorithms {
		return nil, fmt.Errorf("%w: a list of %d algorithms, at most %d", ErrUnsupported, len(algorithms), MaxAlgorithms)
	}
	w := newWriter()
	w.raw(k.kcv[:])
	w.byte(byte(key.Type()))
	w.lv([]byte(key.Type().oid()))
	w.lv(algorithms)
	w.lv(nil) // access conditions
	w.lv(nil) // key identifier

	start := len(w.b)
	// The format's initialisation vector is zero: these random bytes stand in.
	rand.Read(w.space(saltSize))
	if err := key.encode(w); err != nil {
		secret.Wipe(w.b)
		return nil, err
	}
	w.byte(0x80)
	w.space((16 - (len(w.b)-start)%16) % 16)
	cipher.NewCBCEncrypter(enc, make([]byte, aes.BlockSize)).CryptBlocks(w.b[start:], w.b[start:])
	tag := CMAC(mac, w.b)
	w.raw(tag[:])
	return clone(w.b), nil
}

// Unwrap returns the key in a blob, proven to be whole and wrapped under this
// DKEK, with its halves belonging together. The caller wipes it. Errors:
// [ErrWrongDKEK], [ErrDamaged], both before anything is decrypted;
// [ErrUnsupported], [ErrMalformed].
func (k *Keys) Unwrap(blob []byte) (PrivateKey, error) {
	var key PrivateKey
	err := k.with(func(enc, mac cipher.Block) (err error) {
		key, err = k.unwrap(blob, enc, mac)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keyblob: unwrap: %w", err)
	}
	return key, nil
}

func (k *Keys) unwrap(blob []byte, enc, mac cipher.Block) (PrivateKey, error) {
	if len(blob) < KCVSize+macSize || len(blob) > MaxBlob {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(blob))
	}
	if !equal(blob[:KCVSize], k.kcv[:]) {
		return nil, fmt.Errorf("%w: its check value is %s, this DKEK's is %s", ErrWrongDKEK,
			hex.EncodeToString(blob[:KCVSize]), hex.EncodeToString(k.kcv[:]))
	}
	tag := CMAC(mac, blob[:len(blob)-macSize])
	if !equal(tag[:], blob[len(blob)-macSize:]) {
		return nil, ErrDamaged
	}
	header, ciphertext, err := split(blob)
	if err != nil {
		return nil, err
	}
	if err := header.check(); err != nil {
		return nil, err
	}
	plaintext := make([]byte, len(ciphertext))
	defer secret.Wipe(plaintext)
	cipher.NewCBCDecrypter(enc, make([]byte, aes.BlockSize)).CryptBlocks(plaintext, ciphertext)
	key, err := decode(header, plaintext)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", header.Type, err)
	}
	return key, nil
}

// check refuses what would be read wrongly.
func (h Header) check() error {
	if !h.Type.OfVendor() && h.Type != TypeEd25519 {
		return fmt.Errorf("%w: %s", ErrUnsupported, h.Type)
	}
	// Some devices encode the AES identifier wrongly.
	if h.Type != TypeAES && string(h.DefaultAlgorithm) != h.Type.oid() {
		return fmt.Errorf("%w: %s: default algorithm %x", ErrUnsupported, h.Type, h.DefaultAlgorithm)
	}
	// A condition that is not understood must not be lost on the way.
	if len(h.AccessConditions) > 0 || len(h.KeyOID) > 0 {
		return fmt.Errorf("%w: %s: access conditions or a key identifier", ErrUnsupported, h.Type)
	}
	return nil
}

func decode(h Header, plaintext []byte) (PrivateKey, error) {
	r := &reader{rest: plaintext}
	r.raw(saltSize, "random bytes")
	size := r.uint16("size")
	if r.err != nil {
		return nil, r.err
	}
	switch h.Type {
	case TypeRSA:
		return decodeRSA(r, size, h.Algorithms)
	case TypeRSACRT:
		return decodeRSACRT(r, size, h.Algorithms)
	case TypeEC:
		return decodeEC(r, size, h.Algorithms)
	case TypeAES:
		return decodeAES(r, size, h.Algorithms)
	}
	return decodeEd25519(r, size, h.Algorithms)
}

// with runs f with the two ciphers. They are made anew each time, inside
// secret.Do, which costs under a microsecond: a key schedule that is kept lies
// on the heap for as long as it is, and nothing can wipe it.
func (k *Keys) with(f func(enc, mac cipher.Block) error) (err error) {
	k.derived.With(func(p []byte) {
		if len(p) == 0 {
			err = ErrWiped
			return
		}
		var enc, mac cipher.Block
		if enc, err = aes.NewCipher(p[:32]); err != nil {
			return
		}
		if mac, err = aes.NewCipher(p[32:]); err != nil {
			return
		}
		err = f(enc, mac)
	})
	return err
}
