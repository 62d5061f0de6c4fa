package keyblob

import (
	"fmt"
)

// Type is what kind of key a blob holds.
type Type byte

const (
	TypeRSA     Type = 5  // d, n, e
	TypeRSACRT  Type = 6  // dP, dQ, p, qInv, q, n, e; read, never written
	TypeEC      Type = 12 // domain parameters, d, Q
	TypeAES     Type = 15 // the raw key
	TypeEd25519 Type = 0xED
)

func (t Type) String() string {
	switch t {
	case TypeRSA:
		return "RSA"
	case TypeRSACRT:
		return "RSA-CRT"
	case TypeEC:
		return "EC"
	case TypeAES:
		return "AES"
	case TypeEd25519:
		return "Ed25519"
	}
	return fmt.Sprintf("unknown type %d", byte(t))
}

// OfVendor reports whether a SmartCard-HSM reads blobs of this type. Hardware
// drivers refuse the others before they send anything.
func (t Type) OfVendor() bool {
	return t == TypeRSA || t == TypeRSACRT || t == TypeEC || t == TypeAES
}

// The object identifiers of the default algorithms, DER contents.
const (
	rsaOID     = "\x04\x00\x7F\x00\x07\x02\x02\x02\x01\x02" // id-TA-RSA-v1-5-SHA-256
	ecOID      = "\x04\x00\x7F\x00\x07\x02\x02\x02\x02\x03" // id-TA-ECDSA-SHA-256
	aesOID     = "\x60\x86\x48\x01\x65\x03\x04\x01"         // aes
	ed25519OID = "\x2B\x65\x70"                             // id-Ed25519, RFC 8410
)

func (t Type) oid() string {
	switch t {
	case TypeRSA, TypeRSACRT:
		return rsaOID
	case TypeEC:
		return ecOID
	case TypeAES:
		return aesOID
	}
	return ed25519OID
}

// Header is what a blob says about its key in the clear. Nothing of it is
// proven until the blob is unwrapped.
type Header struct {
	KCV              [KCVSize]byte
	Type             Type   // may be one that is not known here
	DefaultAlgorithm []byte // object identifier, DER contents
	Algorithms       []byte // what the key may do; empty: no list
	AccessConditions []byte // empty in every known blob
	KeyOID           []byte // empty in every known blob
}

// ParseHeader reads a blob's header and checks that a ciphertext of whole
// blocks and a MAC follow it. It keeps nothing of blob. Errors: [ErrMalformed].
func ParseHeader(blob []byte) (Header, error) {
	header, _, err := split(blob)
	if err != nil {
		return Header{}, fmt.Errorf("keyblob: header: %w", err)
	}
	return header, nil
}

// split returns the header and the ciphertext, which lies in blob.
func split(blob []byte) (Header, []byte, error) {
	if len(blob) > MaxBlob {
		return Header{}, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(blob), MaxBlob)
	}
	r := &reader{rest: blob}
	var h Header
	copy(h.KCV[:], r.raw(KCVSize, "check value"))
	if b := r.raw(1, "type"); b != nil {
		h.Type = Type(b[0])
	}
	h.DefaultAlgorithm = clone(r.lv(maxOID, "default algorithm"))
	h.Algorithms = clone(r.lv(MaxAlgorithms, "algorithm list"))
	h.AccessConditions = clone(r.lv(MaxAlgorithms, "access conditions"))
	h.KeyOID = clone(r.lv(maxOID, "key identifier"))
	if r.err != nil {
		return Header{}, nil, r.err
	}
	n := len(r.rest) - macSize
	if n < 16 || n%16 != 0 {
		return Header{}, nil, fmt.Errorf("%w: ciphertext is not of whole blocks", ErrMalformed)
	}
	return h, r.rest[:n], nil
}

// clone copies b; an empty field is empty and not nil, since nil asks for the
// default list.
func clone(b []byte) []byte { return append([]byte{}, b...) }
