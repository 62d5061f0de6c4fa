package dkek

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// Suite is an HPKE suite by its registered identifiers.
type Suite struct {
	KEM  uint16 `cbor:"1,keyasint"`
	KDF  uint16 `cbor:"2,keyasint"`
	AEAD uint16 `cbor:"3,keyasint"`
}

// Hybrid, the default, stays secret while either ML-KEM-768 or X25519 does.
func Hybrid() Suite { return Suite{KEM: 0x647a, KDF: 0x0001, AEAD: 0x0002} }

// X25519 is DHKEM(X25519, HKDF-SHA256) with HKDF-SHA256 and AES-256-GCM.
func X25519() Suite { return Suite{KEM: 0x0020, KDF: 0x0001, AEAD: 0x0002} }

// P256 is DHKEM(P-256, HKDF-SHA256) with HKDF-SHA256 and AES-256-GCM: for keys
// that live in a token.
func P256() Suite { return Suite{KEM: 0x0010, KDF: 0x0001, AEAD: 0x0002} }

func (s Suite) String() string { return fmt.Sprintf("%04x/%04x/%04x", s.KEM, s.KDF, s.AEAD) }

// Validate refuses every suite but the three above with [WrongSuite].
func (s Suite) Validate() error {
	if s != Hybrid() && s != X25519() && s != P256() {
		return &ShareError{Op: "suite", Reason: WrongSuite, Detail: "unknown suite " + s.String()}
	}
	return nil
}

// parts returns crypto/hpke's view of a valid suite.
func (s Suite) parts() (kem hpke.KEM, kdf hpke.KDF, aead hpke.AEAD, err error) {
	if err = s.Validate(); err != nil {
		return
	}
	if kem, err = hpke.NewKEM(s.KEM); err != nil {
		return
	}
	if kdf, err = hpke.NewKDF(s.KDF); err != nil {
		return
	}
	aead, err = hpke.NewAEAD(s.AEAD)
	return
}

// PublicKey is what shares are sealed to: HPKE's serialised public key (1216
// bytes for the hybrid suite, 32 for X25519, 65 for P-256).
type PublicKey struct {
	Suite Suite  `cbor:"1,keyasint"`
	Bytes []byte `cbor:"2,keyasint"`
}

// Validate checks the suite and that the bytes are a key of it.
func (k PublicKey) Validate() error {
	_, err := k.parse()
	return err
}

func (k PublicKey) parse() (hpke.PublicKey, error) {
	kem, _, _, err := k.Suite.parts()
	if err != nil {
		return nil, err
	}
	if len(k.Bytes) > maxPublicKey {
		return nil, fmt.Errorf("dkek: public key: longer than %d bytes", maxPublicKey)
	}
	public, err := kem.NewPublicKey(k.Bytes)
	if err != nil {
		return nil, fmt.Errorf("dkek: public key: %w", err)
	}
	return public, nil
}

// RecipientKey is a fresh key for one ceremony and attempt. Its private half
// lies in locked memory, or in a token, and is never written: a recipient that
// restarts has lost it. Safe for concurrent use.
type RecipientKey struct {
	hidden
	suite  Suite
	public []byte
	seed   *Secret         // HPKE's serialised private key; nil for a token's
	token  hpke.PrivateKey // nil unless the private half is elsewhere
}

// NewRecipientKey makes a key pair; the zero Suite means [Hybrid].
func NewRecipientKey(suite Suite) (*RecipientKey, error) {
	if suite == (Suite{}) {
		suite = Hybrid()
	}
	kem, _, _, err := suite.parts()
	if err != nil {
		return nil, err
	}
	key := &RecipientKey{suite: suite}
	secret.Do(func() {
		var private hpke.PrivateKey
		if private, err = kem.GenerateKey(); err != nil {
			return
		}
		var seed []byte
		if seed, err = private.Bytes(); err != nil {
			return
		}
		key.seed, key.public = secret.Take(seed), private.PublicKey().Bytes()
	})
	if err != nil {
		return nil, fmt.Errorf("dkek: new recipient key: %w", err)
	}
	return key, nil
}

// TokenRecipientKey wraps a key whose private half lies in a token, on P-256 or
// X25519.
func TokenRecipientKey(exchanger ecdh.KeyExchanger) (*RecipientKey, error) {
	private, err := hpke.NewDHKEMPrivateKey(exchanger)
	if err != nil {
		return nil, fmt.Errorf("dkek: token recipient key: %w", err)
	}
	suite := Suite{KEM: private.KEM().ID(), KDF: Hybrid().KDF, AEAD: Hybrid().AEAD}
	if err := suite.Validate(); err != nil {
		return nil, err
	}
	return &RecipientKey{suite: suite, public: private.PublicKey().Bytes(), token: private}, nil
}

// Public returns the public half.
func (k *RecipientKey) Public() PublicKey {
	return PublicKey{Suite: k.suite, Bytes: append([]byte(nil), k.public...)}
}

// Wipe ends the key: nothing sealed to it opens again.
func (k *RecipientKey) Wipe() {
	k.seed.Wipe()
}

// open decrypts into locked memory. Any failure is [Unopened]: HPKE does not
// tell a wrong key from a wrong transcript or a changed bit.
func (k *RecipientKey) open(info, ciphertext []byte) (*Secret, error) {
	kem, kdf, aead, err := k.suite.parts()
	if err != nil {
		return nil, err
	}
	if k.token == nil && k.seed.Len() == 0 {
		return nil, Wiped
	}
	var plaintext *Secret
	k.seed.With(func(seed []byte) {
		private := k.token
		if private == nil {
			if private, err = kem.NewPrivateKey(seed); err != nil {
				return
			}
		}
		var opened []byte
		if opened, err = hpke.Open(private, kdf, aead, info, ciphertext); err == nil {
			plaintext = secret.Take(opened)
		}
	})
	if err != nil {
		return nil, Unopened
	}
	return plaintext, nil
}
