package fsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/hsm"
)

// DER of a SubjectPublicKeyInfo up to the key itself. Keys are recognised by
// these bytes and not by crypto/x509, whose taste may change between Go
// releases: two builds must accept the same commands.
var (
	ed25519Head = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}
	// AlgorithmIdentifier of rsaEncryption, and OIDs of id-ecPublicKey and the
	// curves, each with its tag and length.
	rsaAlgorithm = []byte{0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00}
	ecOID        = []byte{0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01}
)

func curveOID(t hsm.KeyType) []byte {
	switch t {
	case hsm.ECDSAP192:
		return []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01}
	case hsm.ECDSAP224:
		return []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21}
	case hsm.ECDSAP256:
		return []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	case hsm.ECDSAP384:
		return []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	case hsm.ECDSAP521:
		return []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}
	}
	return nil
}

// der reads one element with a definite, minimal length and returns its content
// and what follows it.
func der(in []byte, tag byte) (content, rest []byte, ok bool) {
	if len(in) < 2 || in[0] != tag {
		return nil, nil, false
	}
	length, in := int(in[1]), in[2:]
	if length >= 0x80 {
		size := length & 0x7f
		if size == 0 || size > 2 || len(in) < size || in[0] == 0 {
			return nil, nil, false
		}
		length = 0
		for _, b := range in[:size] {
			length = length<<8 | int(b)
		}
		if in = in[size:]; length < 0x80 {
			return nil, nil, false
		}
	}
	if len(in) < length {
		return nil, nil, false
	}
	return in[:length], in[length:], true
}

// checkPublic tells whether public is the DER SubjectPublicKeyInfo of a key of
// this type. That the key works was proven by whoever made it.
func checkPublic(public []byte, keyType hsm.KeyType) *Error {
	bad := refuse(BadRequest, "public key is not the SubjectPublicKeyInfo of a key of type %s", keyType)
	if len(public) > MaxPublic {
		return refuse(BadRequest, "public key longer than %d bytes", MaxPublic)
	}
	if keyType.Family() == hsm.FamilyEd25519 {
		if len(public) != len(ed25519Head)+ed25519.PublicKeySize || !bytes.HasPrefix(public, ed25519Head) {
			return bad
		}
		return nil
	}
	whole, rest, ok := der(public, 0x30)
	if !ok || len(rest) > 0 {
		return bad
	}
	head := rsaAlgorithm
	if keyType.Family() == hsm.FamilyEC {
		curve := curveOID(keyType)
		head = append([]byte{0x30, byte(len(ecOID) + len(curve))}, append(bytes.Clone(ecOID), curve...)...)
	}
	body, found := bytes.CutPrefix(whole, head)
	bits, rest, ok := der(body, 0x03)
	if !found || !ok || len(rest) > 0 || len(bits) < 2 || bits[0] != 0 {
		return bad
	}
	switch bits = bits[1:]; keyType.Family() {
	case hsm.FamilyEC:
		if len(bits) != 1+2*((keyType.Bits()+7)/8) || bits[0] != 4 {
			return bad
		}
	case hsm.FamilyRSA:
		if !rsaBits(bits, keyType.Bits()) {
			return bad
		}
	default:
		return bad
	}
	return nil
}

// rsaBits checks an RSAPublicKey: a modulus of so many bits and an odd exponent
// of at most 8 bytes.
func rsaBits(in []byte, bits int) bool {
	key, rest, ok := der(in, 0x30)
	if !ok || len(rest) > 0 {
		return false
	}
	modulus, rest, ok := der(key, 0x02)
	if !ok || len(modulus) != bits/8+1 || modulus[0] != 0 || modulus[1] < 0x80 || modulus[len(modulus)-1]&1 == 0 {
		return false
	}
	exponent, rest, ok := der(rest, 0x02)
	return ok && len(rest) == 0 && len(exponent) > 0 && len(exponent) <= 8 && exponent[0] < 0x80 && exponent[len(exponent)-1]&1 == 1
}

// parseIdentity reads the key of a node or an operator: Ed25519 or ECDSA P-256.
func parseIdentity(public []byte) (crypto.PublicKey, *Error) {
	if checkPublic(public, hsm.Ed25519) == nil {
		return ed25519.PublicKey(public[len(ed25519Head):]), nil
	}
	if checkPublic(public, hsm.ECDSAP256) == nil {
		if key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public[len(public)-65:]); err == nil {
			return key, nil
		}
	}
	return nil, refuse(BadRequest, "a node's or operator's key is Ed25519 or ECDSA P-256, as DER SubjectPublicKeyInfo")
}

func checkIdentity(public []byte) (dkek.Fingerprint, *Error) {
	if _, err := parseIdentity(public); err != nil {
		return dkek.Fingerprint{}, err
	}
	return FingerprintOf(public), nil
}
