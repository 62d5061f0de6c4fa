package soft

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"sync/atomic"

	"github.com/keycustodian/keycustodian/hsm"
)

// entry is a key in a slot: what List shows, and where its record lies. The
// private key is read from there and parsed when it is first used.
type entry struct {
	keyType hsm.KeyType
	label   string
	tag     []byte
	public  crypto.PublicKey
	at      place // guarded by Device.mu

	key  atomic.Pointer[key] // in the cache, or nil
	seen atomic.Bool         // used since the cache's hand last passed
}

func (e *entry) object(slot hsm.Slot) hsm.Object {
	return hsm.Object{Slot: slot, Type: e.keyType, Public: e.public,
		Attributes: hsm.Attributes{Label: e.label, Tag: append([]byte(nil), e.tag...)}}
}

// key is a private key ready for use.
type key struct {
	// private is *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey, or
	// nil for AES.
	private any
	block   cipher.Block // AES
	raw     []byte       // AES: the key itself, for Wrap
}

// generate makes a key of a supported type.
func generate(keyType hsm.KeyType) (k *key, err error) {
	switch keyType.Family() {
	case hsm.FamilyRSA:
		k = &key{}
		k.private, err = rsa.GenerateKey(rand.Reader, keyType.Bits())
	case hsm.FamilyEC:
		k = &key{}
		k.private, err = ecdsa.GenerateKey(curve(keyType), rand.Reader)
	case hsm.FamilyEd25519:
		k = &key{}
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		raw := make([]byte, keyType.Bits()/8)
		rand.Read(raw)
		k, err = newAES(raw)
	}
	return k, err
}

func newAES(raw []byte) (*key, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	return &key{block: block, raw: raw}, nil
}

func curve(keyType hsm.KeyType) elliptic.Curve {
	switch keyType {
	case hsm.ECDSAP224:
		return elliptic.P224()
	case hsm.ECDSAP256:
		return elliptic.P256()
	case hsm.ECDSAP384:
		return elliptic.P384()
	}
	return elliptic.P521()
}

// encode returns the public and the private part of a key record. The caller
// wipes the private part.
func (k *key) encode() (public, private []byte, err error) {
	switch p := k.private.(type) {
	case *rsa.PrivateKey:
		public = binary.BigEndian.AppendUint32(nil, uint32(p.E))
		return append(public, p.N.Bytes()...), x509.MarshalPKCS1PrivateKey(p), nil
	case *ecdsa.PrivateKey:
		if public, err = p.PublicKey.Bytes(); err != nil {
			return nil, nil, err
		}
		private, err = scalar(p)
		return public, private, err
	case ed25519.PrivateKey:
		return p.Public().(ed25519.PublicKey), append([]byte(nil), p.Seed()...), nil
	}
	return nil, append([]byte(nil), k.raw...), nil
}

// scalar returns a private scalar that the caller may wipe. What Bytes returns
// is the very memory that crypto/ecdsa signs with: wiping that would break the
// signatures of others that are under way.
func scalar(p *ecdsa.PrivateKey) ([]byte, error) {
	own, err := p.Bytes()
	return bytes.Clone(own), err
}

// decodePublic reverses the public half of encode; nil for AES.
func decodePublic(keyType hsm.KeyType, b []byte) (crypto.PublicKey, error) {
	switch keyType.Family() {
	case hsm.FamilyRSA:
		if len(b) != 4+keyType.Bits()/8 || b[0]&0x80 != 0 {
			return nil, errRecord
		}
		return &rsa.PublicKey{E: int(binary.BigEndian.Uint32(b)), N: new(big.Int).SetBytes(b[4:])}, nil
	case hsm.FamilyEC:
		return ecdsa.ParseUncompressedPublicKey(curve(keyType), b)
	case hsm.FamilyEd25519:
		if len(b) != ed25519.PublicKeySize {
			return nil, errRecord
		}
		return append(ed25519.PublicKey(nil), b...), nil
	}
	if len(b) != 0 {
		return nil, errRecord
	}
	return nil, nil
}

// decodePrivate reverses the private half of encode.
func decodePrivate(keyType hsm.KeyType, b []byte) (k *key, err error) {
	switch keyType.Family() {
	case hsm.FamilyRSA:
		k = &key{}
		k.private, err = x509.ParsePKCS1PrivateKey(b)
	case hsm.FamilyEC:
		k = &key{}
		k.private, err = ecdsa.ParseRawPrivateKey(curve(keyType), b)
	case hsm.FamilyEd25519:
		if len(b) != ed25519.SeedSize {
			return nil, errRecord
		}
		k = &key{private: ed25519.NewKeyFromSeed(b)}
	default:
		if len(b)*8 != keyType.Bits() {
			return nil, errRecord
		}
		k, err = newAES(append([]byte(nil), b...))
	}
	return k, err
}
