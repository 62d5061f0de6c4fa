package dkek

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// What a hash is of, so that no two things ever have the same one.
const (
	planDomain       = "keycustodian dkek plan v1\x00"
	sharingDomain    = "keycustodian dkek sharing v1\x00"
	commitmentDomain = "keycustodian dkek commitment v1\x00"
)

// encode gives the one canonical form: CBOR, core deterministic (RFC 8949, 4.2.1).
func encode(v any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(v)
}

// decode reads the canonical form alone: what would not be encoded to the same
// bytes again (unknown or repeated fields, longer integers, wrong lengths of
// identifiers, trailing bytes) is refused with [BadFormat].
func decode(op string, data []byte, limit int, v any) error {
	fail := func(reason Reason, detail string) error {
		return &ShareError{Op: op, Reason: reason, Detail: detail}
	}
	if len(data) > limit {
		return fail(BadLength, fmt.Sprintf("longer than %d bytes", limit))
	}
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   8,
	}.DecMode()
	if err != nil {
		return err
	}
	if err := mode.Unmarshal(data, v); err != nil {
		return fail(BadFormat, err.Error())
	}
	again, err := encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fail(BadFormat, "not in canonical form")
	}
	return nil
}

// hashOf is SHA-256(domain || canonical bytes). The types that are hashed
// consist of numbers, arrays and byte strings, which always encode.
func hashOf(domain string, v any) Hash {
	data, err := encode(v)
	if err != nil {
		panic("dkek: a plan or sharing that does not encode: " + err.Error())
	}
	return sha256.Sum256(append([]byte(domain), data...))
}

// Hash identifies the plan: SHA-256 of a domain and its canonical bytes.
func (p *Plan) Hash() Hash { return hashOf(planDomain, p) }

// Hash identifies the sharing: SHA-256 of a domain and [Sharing.Encode].
func (s *Sharing) Hash() Hash { return hashOf(sharingDomain, s) }

// Encode returns the canonical bytes, at most 16 KiB.
func (s *Sharing) Encode() ([]byte, error) { return encode(s) }

// ParseSharing reads the canonical bytes and validates what it read.
func ParseSharing(data []byte) (*Sharing, error) {
	var s Sharing
	if err := decode("parse sharing", data, maxSharing, &s); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return &s, nil
}

// Encode returns the canonical bytes, at most 4.5 KiB: what its sender signs.
func (s *Sealed) Encode() ([]byte, error) { return encode(s) }

// ParseSealed reads the canonical bytes of a sealed sub-share or release.
func ParseSealed(data []byte) (*Sealed, error) {
	const op = "parse sealed share"
	var s Sealed
	if err := decode(op, data, maxSealed, &s); err != nil {
		return nil, err
	}
	fail := func(reason Reason) (*Sealed, error) {
		return nil, &ShareError{Op: op, Holder: s.Holder, Dealer: s.Dealer, Reason: reason}
	}
	switch {
	case s.Kind != KindSubShare && s.Kind != KindBundle:
		return fail(WrongKind)
	case s.Suite.Validate() != nil:
		return fail(WrongSuite)
	case len(s.Ciphertext) == 0 || len(s.Ciphertext) > maxCiphertext:
		return fail(BadLength)
	}
	return &s, nil
}
