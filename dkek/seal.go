package dkek

import (
	"crypto/hpke"
	"encoding/binary"
	"fmt"
)

// Kind tells what is inside a [Sealed].
type Kind uint8

const (
	KindSubShare Kind = 1 // what one dealer dealt one holder
	KindBundle   Kind = 2 // a holder's whole share, released
)

// Sealed is a sub-share or a released bundle, encrypted with HPKE (base mode) to
// one recipient. Everything in clear here is bound into the encryption; it says
// what this claims to be, so that a mistake gets its reason. It does not prove
// who made it: the sender signs [Sealed.Encode].
type Sealed struct {
	Kind       Kind      `cbor:"1,keyasint"`
	Cluster    ClusterID `cbor:"2,keyasint"`
	Epoch      uint64    `cbor:"3,keyasint"`
	Attempt    uint64    `cbor:"4,keyasint"`
	Dealer     NodeID    `cbor:"5,keyasint"` // zero in a bundle
	Holder     NodeID    `cbor:"6,keyasint"`
	Suite      Suite     `cbor:"7,keyasint"`
	Ciphertext []byte    `cbor:"8,keyasint"` // encapsulated key || AEAD ciphertext
}

// sealDomain starts the HPKE info of everything that is sealed here.
const sealDomain = "keycustodian dkek seal v1\x00"

// claim is a Sealed without ciphertext: what is expected, or what is made.
func claim(kind Kind, plan *Plan, dealer, holder NodeID) Sealed {
	return Sealed{Kind: kind, Cluster: plan.Cluster, Epoch: plan.Epoch, Attempt: plan.Attempt, Dealer: dealer, Holder: holder}
}

// info is the whole HPKE info: fixed lengths first, the caller's transcript last.
// about is the plan's hash for a sub-share and the sharing's for a bundle.
func (s *Sealed) info(about Hash, transcript []byte) []byte {
	b := make([]byte, 0, len(sealDomain)+1+16+8+8+16+16+32+len(transcript))
	b = append(b, sealDomain...)
	b = append(b, byte(s.Kind))
	b = append(b, s.Cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Epoch)
	b = binary.BigEndian.AppendUint64(b, s.Attempt)
	b = append(b, s.Dealer[:]...)
	b = append(b, s.Holder[:]...)
	b = append(b, about[:]...)
	return append(b, transcript...)
}

// seal encrypts a secret to a recipient under this claim.
func (s Sealed) seal(to PublicKey, about Hash, transcript []byte, plaintext *Secret) (Sealed, error) {
	public, err := to.parse()
	if err != nil {
		return Sealed{}, err
	}
	_, kdf, aead, err := to.Suite.parts()
	if err != nil {
		return Sealed{}, err
	}
	if plaintext.Len() == 0 {
		return Sealed{}, &ShareError{Op: "seal", Holder: s.Holder, Reason: Wiped}
	}
	s.Suite = to.Suite
	plaintext.With(func(p []byte) {
		s.Ciphertext, err = hpke.Seal(public, kdf, aead, s.info(about, transcript), p)
	})
	if err != nil {
		return Sealed{}, fmt.Errorf("dkek: seal: %w", err)
	}
	return s, nil
}

// open checks that s claims what want claims, and decrypts it.
func (s *Sealed) open(op string, want Sealed, key *RecipientKey, about Hash, transcript []byte) (*Secret, error) {
	fail := func(reason Reason) (*Secret, error) {
		return nil, &ShareError{Op: op, Holder: want.Holder, Dealer: want.Dealer, Reason: reason}
	}
	switch {
	case s.Kind != want.Kind:
		return fail(WrongKind)
	case s.Cluster != want.Cluster:
		return fail(WrongCluster)
	case s.Epoch != want.Epoch:
		return fail(WrongEpoch)
	case s.Attempt != want.Attempt:
		return fail(WrongAttempt)
	case s.Dealer != want.Dealer:
		return fail(WrongDealer)
	case s.Holder != want.Holder:
		return fail(WrongHolder)
	case s.Suite != key.suite:
		return fail(WrongSuite)
	case len(s.Ciphertext) > maxCiphertext:
		return fail(BadLength)
	}
	plaintext, err := key.open(s.info(about, transcript), s.Ciphertext)
	if err != nil {
		return fail(reasonOf(err))
	}
	return plaintext, nil
}
