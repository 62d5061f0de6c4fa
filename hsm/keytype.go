package hsm

import (
	"fmt"
	"strings"
)

// KeyType names a kind and size of key. The text is part of the API and of
// replicated state.
type KeyType string

const (
	RSA1024   KeyType = "rsa-1024"
	RSA2048   KeyType = "rsa-2048"
	RSA3072   KeyType = "rsa-3072"
	RSA4096   KeyType = "rsa-4096"
	ECDSAP192 KeyType = "ecdsa-p192"
	ECDSAP224 KeyType = "ecdsa-p224"
	ECDSAP256 KeyType = "ecdsa-p256"
	ECDSAP384 KeyType = "ecdsa-p384"
	ECDSAP521 KeyType = "ecdsa-p521"
	Ed25519   KeyType = "ed25519"
	AES128    KeyType = "aes-128"
	AES192    KeyType = "aes-192"
	AES256    KeyType = "aes-256"
)

// KeyTypes are all types there are, in the order of the list above.
func KeyTypes() []KeyType {
	return []KeyType{
		RSA1024, RSA2048, RSA3072, RSA4096,
		ECDSAP192, ECDSAP224, ECDSAP256, ECDSAP384, ECDSAP521,
		Ed25519, AES128, AES192, AES256,
	}
}

// Family is what keys of a type have in common.
type Family string

const (
	FamilyRSA     Family = "rsa"
	FamilyEC      Family = "ecdsa"
	FamilyEd25519 Family = "ed25519"
	FamilyAES     Family = "aes"
)

// Family returns the type's family; empty for an unknown type.
func (t KeyType) Family() Family {
	if _, err := ParseKeyType(string(t)); err != nil {
		return ""
	}
	family, _, _ := strings.Cut(string(t), "-")
	return Family(family)
}

// Bits returns the size in bits: modulus, curve field, or AES key; 0 for an
// unknown type.
func (t KeyType) Bits() int {
	switch t {
	case AES128:
		return 128
	case AES192, ECDSAP192:
		return 192
	case ECDSAP224:
		return 224
	case AES256, ECDSAP256, Ed25519:
		return 256
	case ECDSAP384:
		return 384
	case ECDSAP521:
		return 521
	case RSA1024:
		return 1024
	case RSA2048:
		return 2048
	case RSA3072:
		return 3072
	case RSA4096:
		return 4096
	}
	return 0
}

// Symmetric reports whether keys of this type have no public half.
func (t KeyType) Symmetric() bool { return t.Family() == FamilyAES }

// Legacy reports whether a key of this type needs the legacy permission: RSA
// under 2048 bits and P-192.
func (t KeyType) Legacy() bool { return t == RSA1024 || t == ECDSAP192 }

// ParseKeyType accepts exactly the names of KeyTypes.
func ParseKeyType(name string) (KeyType, error) {
	known := KeyTypes()
	names := make([]string, len(known))
	for i, t := range known {
		if string(t) == name {
			return t, nil
		}
		names[i] = string(t)
	}
	return "", fmt.Errorf("unknown key type %.40q: one of %s", name, strings.Join(names, ", "))
}
