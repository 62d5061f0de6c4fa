package soft

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	_ "crypto/md5" // the hashes that PSS and OAEP may name
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha3"
	_ "crypto/sha512"
	"math/big"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// known reports whether h is a hash that this program has.
func known(h crypto.Hash) bool { return h > 0 && h <= crypto.BLAKE2b_512 && h.Available() }

// Sign signs a digest (RSA, ECDSA) or a message (Ed25519).
func (d *Device) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	const op = "sign"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := d.key(op, slot)
	if err != nil {
		return nil, err
	}
	if options.Hash != 0 && (!known(options.Hash) || options.Hash.Size() != len(input)) {
		return nil, d.fail(op, hsm.ErrBadInput, "the input is not as long as a digest of the hash")
	}
	var signature []byte
	switch p := k.private.(type) {
	case *ecdsa.PrivateKey:
		if options.Scheme != hsm.ECDSA || options.Hash == 0 {
			return nil, d.fail(op, hsm.ErrBadInput, "an ECDSA key signs a digest with scheme ecdsa")
		}
		signature, err = ecdsa.SignASN1(rand.Reader, p, input)
	case ed25519.PrivateKey:
		if options.Scheme != hsm.EdDSA || options.Hash != 0 {
			return nil, d.fail(op, hsm.ErrBadInput, "an Ed25519 key signs a message with scheme ed25519 and no hash")
		}
		signature = ed25519.Sign(p, input)
	case *rsa.PrivateKey:
		switch {
		case options.Scheme == hsm.PKCS1v15:
			signature, err = rsa.SignPKCS1v15(nil, p, options.Hash, input)
		case options.Scheme == hsm.PSS && options.Hash != 0:
			signature, err = rsa.SignPSS(rand.Reader, p, options.Hash, input, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		default:
			return nil, d.fail(op, hsm.ErrBadInput, "an RSA key signs with scheme pkcs1v15, or pss and a hash")
		}
	default:
		return nil, d.fail(op, hsm.ErrBadInput, "an AES key does not sign")
	}
	if err != nil {
		return nil, d.fail(op, hsm.ErrBadInput, err.Error())
	}
	return signature, nil
}

// Decrypt decrypts with an RSA key. Why it failed is not told: a padding oracle
// would decrypt anything.
func (d *Device) Decrypt(ctx context.Context, slot hsm.Slot, ciphertext []byte, options hsm.DecryptOptions) ([]byte, error) {
	const op = "decrypt"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := d.key(op, slot)
	if err != nil {
		return nil, err
	}
	p, ok := k.private.(*rsa.PrivateKey)
	if !ok {
		return nil, d.fail(op, hsm.ErrBadInput, "only an RSA key decrypts this way")
	}
	oaep := options.Scheme == hsm.OAEP && known(options.Hash)
	if !oaep && (options.Scheme != hsm.PKCS1v15 || options.Hash != 0) {
		return nil, d.fail(op, hsm.ErrBadInput, "an RSA key decrypts with scheme pkcs1v15, or oaep and a hash")
	}
	if len(ciphertext) != p.Size() { // Go takes shorter ones, RFC 8017 does not
		return nil, d.fail(op, hsm.ErrDecryption, "")
	}
	var plaintext []byte
	if oaep {
		plaintext, err = rsa.DecryptOAEP(options.Hash.New(), nil, p, ciphertext, options.Label)
	} else {
		//lint:ignore SA1019 asked for by whoever holds such ciphertexts; OAEP is the default
		plaintext, err = rsa.DecryptPKCS1v15(nil, p, ciphertext)
	}
	if err != nil {
		return nil, d.fail(op, hsm.ErrDecryption, "")
	}
	return plaintext, nil
}

// ECDH agrees with a peer's point on the key's own curve.
func (d *Device) ECDH(ctx context.Context, slot hsm.Slot, peer []byte) (*hsm.Secret, error) {
	const op = "ECDH"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := d.key(op, slot)
	if err != nil {
		return nil, err
	}
	p, ok := k.private.(*ecdsa.PrivateKey)
	if !ok {
		return nil, d.fail(op, hsm.ErrBadInput, "only a key on a NIST curve agrees")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(p.Curve, peer)
	if err != nil {
		return nil, d.fail(op, hsm.ErrBadInput, "the peer's point is not on the key's curve")
	}
	var shared []byte
	if p.Curve == elliptic.P224() {
		shared, err = agreeP224(p, public)
	} else {
		shared, err = agree(p, public)
	}
	if err != nil {
		return nil, d.fail(op, hsm.ErrBadInput, err.Error())
	}
	return hsm.NewSecret(shared), nil
}

func agree(p *ecdsa.PrivateKey, peer *ecdsa.PublicKey) ([]byte, error) {
	var own *ecdh.PrivateKey
	own, err := p.ECDH()
	if err != nil {
		return nil, err
	}
	other, err := peer.ECDH()
	if err != nil {
		return nil, err
	}
	return own.ECDH(other)
}

// agreeP224 is agree on the one curve that crypto/ecdh lacks. peer is on it.
func agreeP224(p *ecdsa.PrivateKey, peer *ecdsa.PublicKey) ([]byte, error) {
	private, err := scalar(p)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(private)
	point, err := peer.Bytes()
	if err != nil {
		return nil, err
	}
	half := (len(point) - 1) / 2
	x, y := new(big.Int).SetBytes(point[1:1+half]), new(big.Int).SetBytes(point[1+half:])
	// The curve has cofactor 1 and the scalar is neither 0 nor the order, so
	// the product is never the point at infinity.
	//lint:ignore SA1019 there is no other P-224 in the standard library
	sharedX, _ := elliptic.P224().ScalarMult(x, y, private)
	return sharedX.FillBytes(make([]byte, half)), nil
}
