package node

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// inputLimit is the longest input of one use in bytes, beside what the device
// itself bounds. All that was encrypted can be decrypted.
func inputLimit(verb fsm.Verbs) int {
	if verb == fsm.Decrypt {
		return api.MaxCiphertext
	}
	return api.MaxMessage
}

// legacyHash tells whether a hash needs the key's legacy permission. None at all
// under PKCS #1 v1.5 means whatever the caller put in, MD5 with SHA-1 for one.
func legacyHash(hash crypto.Hash) bool {
	return hash == 0 || hash == crypto.MD5 || hash == crypto.SHA1 || hash == crypto.MD5SHA1
}

// plan fills in a use's defaults, and refuses what the key's type cannot do or
// its permissions do not cover.
func (u *KeyUse) plan(key *fsm.Key) error {
	if limit := inputLimit(u.Verb); len(u.Input) > limit {
		return badRequest("input longer than %d bytes", limit)
	}
	if len(u.Additional) > api.MaxMessage {
		return badRequest("additional data longer than %d bytes", api.MaxMessage)
	}
	if u.Verb&fsm.Usable(key.Type) != u.Verb || u.Verb&(u.Verb-1) != 0 || u.Verb == 0 {
		return badRequest("a key of type %s cannot %s: it can %s", key.Type, u.Verb, fsm.Usable(key.Type))
	}
	var err error
	switch u.Verb {
	case fsm.Sign, fsm.Verify:
		err = u.planSignature(key)
	case fsm.Encrypt, fsm.Decrypt:
		err = u.planEncryption(key)
	case fsm.Derive, fsm.MAC:
		if u.Hash != 0 || u.Scheme != "" {
			return badRequest("%s takes no hash and no scheme", u.Verb)
		}
	}
	if err != nil {
		return err
	}
	if u.Hash != 0 && !u.Hash.Available() {
		return badRequest("unknown hash")
	}
	wantsHash := key.Type.Family() == hsm.FamilyRSA || key.Type.Family() == hsm.FamilyEC && u.Verb != fsm.Derive
	if wantsHash && !(u.Verb == fsm.Decrypt && u.Scheme == hsm.PKCS1v15) && legacyHash(u.Hash) && !key.Legacy {
		return &fsm.Error{Code: fsm.NotAllowed, Message: fmt.Sprintf("SHA-1, MD5 and unnamed digests need the legacy permission, which key %s lacks", key.Name)}
	}
	return nil
}

func (u *KeyUse) planSignature(key *fsm.Key) error {
	switch key.Type.Family() {
	case hsm.FamilyEd25519:
		if u.Scheme == "" {
			u.Scheme = hsm.EdDSA
		}
		if u.Scheme != hsm.EdDSA || u.Hash != 0 {
			return badRequest("an Ed25519 key signs the message itself: no hash")
		}
		return nil
	case hsm.FamilyEC:
		if u.Scheme == "" {
			u.Scheme = hsm.ECDSA
		}
		if u.Scheme != hsm.ECDSA || u.Hash == 0 {
			return badRequest("an ECDSA key signs a digest: name its hash")
		}
	default:
		if u.Scheme == "" {
			u.Scheme = hsm.PKCS1v15
		}
		if u.Scheme != hsm.PKCS1v15 && u.Scheme != hsm.PSS || u.Scheme == hsm.PSS && u.Hash == 0 {
			return badRequest("an RSA key signs with scheme pkcs1v15, or pss and a hash")
		}
	}
	if u.Hash != 0 && u.Hash.Available() && len(u.Input) != u.Hash.Size() {
		return badRequest("a digest of %v has %d bytes, not %d", u.Hash, u.Hash.Size(), len(u.Input))
	}
	return nil
}

func (u *KeyUse) planEncryption(key *fsm.Key) error {
	if key.Type.Symmetric() {
		if u.Hash != 0 || u.Scheme != "" {
			return badRequest("AES-GCM takes no hash and no scheme")
		}
		return nil
	}
	if u.Scheme == "" {
		u.Scheme = hsm.OAEP
	}
	switch {
	case u.Scheme == hsm.OAEP && u.Hash == 0:
		u.Hash = crypto.SHA256
	case u.Scheme == hsm.PKCS1v15 && u.Verb == fsm.Decrypt && u.Hash == 0 && len(u.Additional) == 0:
	case u.Scheme != hsm.OAEP:
		return badRequest("an RSA key encrypts with scheme oaep; it also decrypts pkcs1v15, without a hash or label")
	}
	return nil
}

// withPublic does what needs no device: checking a signature and encrypting to a
// public key. done is false for everything else.
func (u *KeyUse) withPublic(public crypto.PublicKey) (used KeyUsed, done bool, err error) {
	switch {
	case u.Verb == fsm.Verify:
		used.Valid = verifySignature(public, u.Input, u.Signature, hsm.SignOptions{Scheme: u.Scheme, Hash: u.Hash})
		return used, true, nil
	case u.Verb == fsm.Encrypt && public != nil:
		key, ok := public.(*rsa.PublicKey)
		if !ok {
			return used, true, badRequest("only RSA public keys encrypt")
		}
		if room := key.Size() - 2*u.Hash.Size() - 2; len(u.Input) > room {
			return used, true, badRequest("the key encrypts %d bytes at most, not %d", room, len(u.Input))
		}
		used.Output, err = rsa.EncryptOAEP(u.Hash.New(), rand.Reader, key, u.Input, u.Additional)
		return used, true, err
	}
	return used, false, nil
}

// peerPoint reads the other side of an ECDH: a SubjectPublicKeyInfo, or an
// uncompressed point as devices take it.
func peerPoint(peer []byte) ([]byte, error) {
	if len(peer) > 0 && peer[0] == 4 {
		return peer, nil
	}
	public, err := x509.ParsePKIXPublicKey(peer)
	if err != nil {
		return nil, badRequest("the peer's public key does not read: want a SubjectPublicKeyInfo")
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return nil, badRequest("the peer's public key is not on its curve")
		}
		return point, nil
	case *ecdh.PublicKey:
		return nil, badRequest("the peer's public key is not on the key's curve")
	}
	return nil, badRequest("the peer's public key is not an elliptic curve's")
}
