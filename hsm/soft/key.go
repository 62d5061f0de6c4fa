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
	"sync"
	"sync/atomic"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
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

// cache keeps the parsed keys of entries used lately, with a clock hand for
// what to let go. Go's parsed keys cannot be wiped while another call may hold
// them; letting go leaves them to the collector.
type cache struct {
	mu   sync.Mutex
	ring [cachedKeys]*entry
	hand int
}

func (c *cache) add(e *entry, k *key) {
	if !e.key.CompareAndSwap(nil, k) {
		return // somebody else was faster
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for range len(c.ring) {
		if victim := c.ring[c.hand]; victim == nil || !victim.seen.Swap(false) {
			break
		}
		c.hand = (c.hand + 1) % len(c.ring)
	}
	if victim := c.ring[c.hand]; victim != nil && victim != e {
		victim.key.Store(nil)
	}
	c.ring[c.hand] = e
	c.hand = (c.hand + 1) % len(c.ring)
}

// key returns the private key in a slot, ready for use.
func (d *Device) key(op string, slot hsm.Slot) (*key, error) {
	d.mu.RLock()
	if err := d.ready(op); err != nil {
		d.mu.RUnlock()
		return nil, err
	}
	e := d.entries[slot]
	if e == nil {
		d.mu.RUnlock()
		return nil, d.fail(op, hsm.ErrNoKey, "")
	}
	if k := e.key.Load(); k != nil {
		d.mu.RUnlock()
		if !e.seen.Load() { // a plain store would bounce the line between cores
			e.seen.Store(true)
		}
		return k, nil
	}
	record, err := d.log.read(e.at)
	cache := d.cache
	d.mu.RUnlock()
	if err != nil {
		return nil, d.fail(op, hsm.ErrStorage, "the key's record does not read: "+err.Error())
	}
	k, err := parse(e.keyType, record)
	if err != nil {
		return nil, d.fail(op, hsm.ErrStorage, "the key's record does not parse")
	}
	cache.add(e, k)
	return k, nil
}

// parse reads the private key out of a record and wipes that.
func parse(keyType hsm.KeyType, record []byte) (*key, error) {
	defer secret.Wipe(record)
	r, err := decodeKey(record[1:])
	if err != nil {
		return nil, err
	}
	return decodePrivate(keyType, r.private)
}
