package api

import (
	"crypto"
	"fmt"
)

// Names of schemes and hashes in requests.
const (
	SchemePSS      = "pss"      // salt as long as the hash, MGF1 with the same hash
	SchemePKCS1v15 = "pkcs1v15" // the default of RSA signatures
	SchemeOAEP     = "oaep"     // the default of RSA decryption

	SHA256 = "sha256"
	SHA384 = "sha384"
	SHA512 = "sha512"
	SHA1   = "sha1" // legacy keys only
	MD5    = "md5"  // legacy keys only
)

// hashes are the digests that a request may name.
var hashes = []struct {
	name string
	hash crypto.Hash
}{{SHA256, crypto.SHA256}, {SHA384, crypto.SHA384}, {SHA512, crypto.SHA512}, {SHA1, crypto.SHA1}, {MD5, crypto.MD5}}

// HashNamed is a hash by its name in requests; none for the empty name.
func HashNamed(name string) (crypto.Hash, error) {
	if name == "" {
		return 0, nil
	}
	for _, h := range hashes {
		if h.name == name {
			return h.hash, nil
		}
	}
	return 0, fmt.Errorf("api: unknown hash %.40q: one of sha256, sha384, sha512, and for legacy keys sha1, md5", name)
}

// HashName is a hash's name in requests; empty for none and for any other.
func HashName(hash crypto.Hash) string {
	for _, h := range hashes {
		if h.hash == hash {
			return h.name
		}
	}
	return ""
}

// SignRequest signs one or several inputs with one version.
type SignRequest struct {
	// Key is NAME or NAME@VERSION.
	Key string `json:"key"`
	// Inputs are digests of Hash, or whole messages for Ed25519; 1 to 1000.
	Inputs [][]byte `json:"inputs"`
	// Hash that made the digests: "sha256", "sha384", "sha512"; empty for
	// Ed25519.
	Hash string `json:"hash,omitempty"`
	// Scheme of RSA: "pkcs1v15" (the default) or "pss".
	Scheme string `json:"scheme,omitempty"`
}

// SignResponse holds the signatures in the order of the inputs: RSA ones are as
// long as the modulus, ECDSA ones ASN.1 DER, Ed25519 ones 64 bytes.
type SignResponse struct {
	// Key is the name.
	Key string `json:"key"`
	// Version that signed.
	Version    uint32   `json:"version"`
	Signatures [][]byte `json:"signatures"`
}

// VerifyRequest checks a signature under the replicated public key.
type VerifyRequest struct {
	// Key is NAME or NAME@VERSION.
	Key string `json:"key"`
	// Input is the digest, or the whole message for Ed25519.
	Input []byte `json:"input"`
	// Signature as sign gave it.
	Signature []byte `json:"signature"`
	// Hash that made the digest; empty for Ed25519.
	Hash string `json:"hash,omitempty"`
	// Scheme of RSA: "pkcs1v15" (the default) or "pss".
	Scheme string `json:"scheme,omitempty"`
}

// VerifyResponse is the outcome.
type VerifyResponse struct {
	// Valid is true where the signature is good.
	Valid bool `json:"valid"`
	// Version under whose public key it was checked.
	Version uint32 `json:"version"`
}

// EncryptRequest encrypts with an AES key (AES-GCM) or under an RSA public key
// (OAEP).
type EncryptRequest struct {
	// Key is NAME or NAME@VERSION.
	Key string `json:"key"`
	// Plaintext, up to 262144 bytes for AES and what OAEP leaves for RSA.
	Plaintext []byte `json:"plaintext"`
	// Additional is authenticated by AES-GCM and is the label of OAEP.
	Additional []byte `json:"additional,omitempty"`
	// Hash of OAEP; empty is "sha256".
	Hash string `json:"hash,omitempty"`
}

// EncryptResponse is the ciphertext.
type EncryptResponse struct {
	// Version that encrypted; keep it with the ciphertext.
	Version uint32 `json:"version"`
	// Ciphertext is nonce (12) || ciphertext || tag (16) for AES, and as long
	// as the modulus for RSA.
	Ciphertext []byte `json:"ciphertext"`
}

// DecryptRequest decrypts.
type DecryptRequest struct {
	// Key is NAME or NAME@VERSION.
	Key string `json:"key"`
	// Ciphertext as encrypt gave it, up to 262172 bytes.
	Ciphertext []byte `json:"ciphertext"`
	// Additional is what encrypt was given.
	Additional []byte `json:"additional,omitempty"`
	// Scheme of RSA: "oaep" (the default) or "pkcs1v15".
	Scheme string `json:"scheme,omitempty"`
	// Hash of OAEP; empty is "sha256".
	Hash string `json:"hash,omitempty"`
}

// DecryptResponse is the plaintext.
type DecryptResponse struct {
	// Version that decrypted.
	Version   uint32 `json:"version"`
	Plaintext []byte `json:"plaintext"`
}

// DeriveRequest agrees with a peer by ECDH.
type DeriveRequest struct {
	// Key is NAME or NAME@VERSION of an ECDSA key.
	Key string `json:"key"`
	// Peer is the peer's DER SubjectPublicKeyInfo on the same curve.
	Peer []byte `json:"peer"`
}

// DeriveResponse is the raw agreement: pass it through a KDF.
type DeriveResponse struct {
	// Version that agreed.
	Version uint32 `json:"version"`
	// Shared is the X coordinate of the shared point, as long as the curve's
	// field.
	Shared []byte `json:"shared"`
}

// MACRequest computes an AES-CMAC.
type MACRequest struct {
	// Key is NAME or NAME@VERSION of an AES key.
	Key string `json:"key"`
	// Message, up to 262144 bytes.
	Message []byte `json:"message"`
}

// MACResponse is the AES-CMAC.
type MACResponse struct {
	// Version that computed it.
	Version uint32 `json:"version"`
	// MAC, 16 bytes.
	MAC []byte `json:"mac"`
}

// RandomQuery asks for random bytes of the node's device.
type RandomQuery struct {
	// Bytes is how many, 1 to 65536.
	Bytes int `query:"bytes"`
}

// RandomResponse holds them.
type RandomResponse struct {
	Random []byte `json:"random"`
}
