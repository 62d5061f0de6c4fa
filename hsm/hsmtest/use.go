package hsmtest

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
	_ "crypto/sha1" // the hashes that are tried
	_ "crypto/sha256"
	_ "crypto/sha512"
	"math/big"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

var hashes = []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}

// use tries everything that a key of this type can do, and some of what it
// cannot, against Go's standard library.
func (b *bench) use(object hsm.Object) {
	b.t.Helper()
	switch public := object.Public.(type) {
	case *rsa.PublicKey:
		b.signRSA(object.Slot, public)
		b.decryptRSA(object.Slot, public)
	case *ecdsa.PublicKey:
		b.signECDSA(object.Slot, public)
		b.agree(object.Slot, public)
	case ed25519.PublicKey:
		b.signEd25519(object.Slot, public)
	default:
		b.cipher(object.Slot)
		b.mac(object.Slot)
	}
	if object.Public != nil {
		_, err := b.CMAC(b.t.Context(), object.Slot, nil)
		b.refused(err, hsm.ErrBadInput, "CMAC with a key that is not AES")
		_, err = b.Seal(b.t.Context(), object.Slot, nil, nil)
		b.refused(err, hsm.ErrBadInput, "Seal with a key that is not AES")
	}
}

func (b *bench) sign(slot hsm.Slot, input []byte, options hsm.SignOptions) []byte {
	b.t.Helper()
	signature, err := b.Sign(b.t.Context(), slot, input, options)
	b.ok(err, "Sign "+string(options.Scheme))
	return signature
}

func (b *bench) mustNotSign(slot hsm.Slot, input []byte, options hsm.SignOptions, what string) {
	b.t.Helper()
	_, err := b.Sign(b.t.Context(), slot, input, options)
	b.refused(err, hsm.ErrBadInput, "Sign "+what)
}

func (b *bench) signRSA(slot hsm.Slot, public *rsa.PublicKey) {
	b.t.Helper()
	for _, hash := range hashes {
		digest := random(hash.Size())
		signature := b.sign(slot, digest, hsm.SignOptions{Scheme: hsm.PKCS1v15, Hash: hash})
		if err := rsa.VerifyPKCS1v15(public, hash, digest, signature); err != nil {
			b.t.Errorf("PKCS#1 v1.5 with %v: %v", hash, err)
		}
		options := hsm.SignOptions{Scheme: hsm.PSS, Hash: hash}
		if 2*hash.Size()+2 > public.Size() {
			b.mustNotSign(slot, digest, options, "with a salt that does not fit")
			continue
		}
		signature = b.sign(slot, digest, options)
		if err := rsa.VerifyPSS(public, hash, digest, signature, &rsa.PSSOptions{SaltLength: hash.Size()}); err != nil {
			b.t.Errorf("PSS with %v: %v", hash, err)
		}
	}
	raw := random(public.Size() - 11)
	if err := rsa.VerifyPKCS1v15(public, 0, raw, b.sign(slot, raw, hsm.SignOptions{Scheme: hsm.PKCS1v15})); err != nil {
		b.t.Errorf("PKCS#1 v1.5 without DigestInfo: %v", err)
	}
	b.mustNotSign(slot, append(raw, 0), hsm.SignOptions{Scheme: hsm.PKCS1v15}, "more than the modulus takes")
	b.mustNotSign(slot, random(31), hsm.SignOptions{Scheme: hsm.PSS, Hash: crypto.SHA256}, "a digest too short")
	b.mustNotSign(slot, random(32), hsm.SignOptions{Scheme: hsm.PSS}, "PSS without a hash")
	b.mustNotSign(slot, random(32), hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256}, "ECDSA with an RSA key")
	b.mustNotSign(slot, random(32), hsm.SignOptions{Scheme: hsm.PKCS1v15, Hash: 99}, "with a hash that does not exist")
}

func (b *bench) signECDSA(slot hsm.Slot, public *ecdsa.PublicKey) {
	b.t.Helper()
	for _, hash := range hashes {
		digest := random(hash.Size())
		signature := b.sign(slot, digest, hsm.SignOptions{Scheme: hsm.ECDSA, Hash: hash})
		if !ecdsa.VerifyASN1(public, digest, signature) {
			b.t.Errorf("ECDSA with %v does not verify", hash)
		}
		digest[0] ^= 1
		if ecdsa.VerifyASN1(public, digest, signature) {
			b.t.Errorf("ECDSA with %v verifies for another digest", hash)
		}
	}
	b.mustNotSign(slot, random(31), hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256}, "a digest too short")
	b.mustNotSign(slot, random(32), hsm.SignOptions{Scheme: hsm.ECDSA}, "ECDSA without a hash")
	b.mustNotSign(slot, random(32), hsm.SignOptions{Scheme: hsm.PSS, Hash: crypto.SHA256}, "PSS with an EC key")
	_, err := b.Decrypt(b.t.Context(), slot, random(256), hsm.DecryptOptions{Scheme: hsm.PKCS1v15})
	b.refused(err, hsm.ErrBadInput, "Decrypt with an EC key")
}

func (b *bench) signEd25519(slot hsm.Slot, public ed25519.PublicKey) {
	b.t.Helper()
	for _, size := range []int{0, 1, 32, 10000} {
		message := random(size)
		if !ed25519.Verify(public, message, b.sign(slot, message, hsm.SignOptions{Scheme: hsm.EdDSA})) {
			b.t.Errorf("Ed25519 of %d bytes does not verify", size)
		}
	}
	b.mustNotSign(slot, random(64), hsm.SignOptions{Scheme: hsm.EdDSA, Hash: crypto.SHA512}, "Ed25519 with a hash")
	b.mustNotSign(slot, random(32), hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256}, "ECDSA with an Ed25519 key")
	_, err := b.ECDH(b.t.Context(), slot, random(32))
	b.refused(err, hsm.ErrBadInput, "ECDH with an Ed25519 key")
}

func (b *bench) decryptRSA(slot hsm.Slot, public *rsa.PublicKey) {
	b.t.Helper()
	ctx := b.t.Context()
	message := []byte("a session key, say")
	//lint:ignore SA1019 the suite checks what devices still offer
	ciphertext, err := rsa.EncryptPKCS1v15(rand.Reader, public, message)
	b.ok(err, "EncryptPKCS1v15")
	plaintext, err := b.Decrypt(ctx, slot, ciphertext, hsm.DecryptOptions{Scheme: hsm.PKCS1v15})
	b.ok(err, "Decrypt PKCS#1 v1.5")
	if !bytes.Equal(plaintext, message) {
		b.t.Error("PKCS#1 v1.5 decrypts to something else")
	}
	for _, hash := range hashes {
		if 2*hash.Size()+2+len(message) > public.Size() {
			continue
		}
		label := random(5)
		ciphertext, err := rsa.EncryptOAEP(hash.New(), rand.Reader, public, message, label)
		b.ok(err, "EncryptOAEP")
		plaintext, err := b.Decrypt(ctx, slot, ciphertext, hsm.DecryptOptions{Scheme: hsm.OAEP, Hash: hash, Label: label})
		b.ok(err, "Decrypt OAEP "+hash.String())
		if !bytes.Equal(plaintext, message) {
			b.t.Errorf("OAEP with %v decrypts to something else", hash)
		}
		_, err = b.Decrypt(ctx, slot, ciphertext, hsm.DecryptOptions{Scheme: hsm.OAEP, Hash: hash})
		b.refused(err, hsm.ErrDecryption, "OAEP with another label")
		ciphertext[len(ciphertext)-1] ^= 1
		_, err = b.Decrypt(ctx, slot, ciphertext, hsm.DecryptOptions{Scheme: hsm.OAEP, Hash: hash, Label: label})
		b.refused(err, hsm.ErrDecryption, "OAEP of a changed ciphertext")
	}
	// As a number it is the same without its leading zero; as a ciphertext not.
	for ciphertext[0] != 0 {
		//lint:ignore SA1019 the suite checks what devices still offer
		ciphertext, err = rsa.EncryptPKCS1v15(rand.Reader, public, message)
		b.ok(err, "EncryptPKCS1v15")
	}
	_, err = b.Decrypt(ctx, slot, ciphertext[1:], hsm.DecryptOptions{Scheme: hsm.PKCS1v15})
	b.refused(err, hsm.ErrDecryption, "a ciphertext too short")
	_, err = b.Decrypt(ctx, slot, ciphertext, hsm.DecryptOptions{Scheme: hsm.OAEP})
	b.refused(err, hsm.ErrBadInput, "OAEP without a hash")
	_, err = b.Decrypt(ctx, slot, ciphertext, hsm.DecryptOptions{Scheme: hsm.PSS, Hash: crypto.SHA256})
	b.refused(err, hsm.ErrBadInput, "Decrypt with a signature scheme")
}

// agree makes the peer's half with package elliptic, which knows every curve.
func (b *bench) agree(slot hsm.Slot, public *ecdsa.PublicKey) {
	b.t.Helper()
	ctx := b.t.Context()
	peer, err := ecdsa.GenerateKey(public.Curve, rand.Reader)
	b.ok(err, "GenerateKey")
	point, err := peer.PublicKey.Bytes()
	b.ok(err, "Bytes")
	shared, err := b.ECDH(ctx, slot, point)
	b.ok(err, "ECDH")
	defer shared.Wipe()
	if want := sharedX(b, peer, public); !shared.Equal(hsm.NewSecret(want)) {
		b.t.Errorf("ECDH on %s agrees on something else", public.Curve.Params().Name)
	}
	_, err = b.ECDH(ctx, slot, point[:len(point)-1])
	b.refused(err, hsm.ErrBadInput, "ECDH with a short point")
	point[len(point)-1] ^= 1
	_, err = b.ECDH(ctx, slot, point)
	b.refused(err, hsm.ErrBadInput, "ECDH with a point off the curve")
	_, err = b.ECDH(ctx, slot, []byte{0})
	b.refused(err, hsm.ErrBadInput, "ECDH with the point at infinity")
}

func sharedX(b *bench, own *ecdsa.PrivateKey, peer *ecdsa.PublicKey) []byte {
	b.t.Helper()
	if private, err := own.ECDH(); err == nil {
		public, err := peer.ECDH()
		b.ok(err, "ECDH key")
		shared, err := private.ECDH(public)
		b.ok(err, "crypto/ecdh")
		return shared
	}
	// P-224, which crypto/ecdh lacks.
	scalar, err := own.Bytes()
	b.ok(err, "Bytes")
	point, err := peer.Bytes()
	b.ok(err, "Bytes")
	size := len(point) / 2
	//lint:ignore SA1019 there is no other P-224 in the standard library
	x, _ := elliptic.P224().ScalarMult(new(big.Int).SetBytes(point[1:1+size]), new(big.Int).SetBytes(point[1+size:]), scalar)
	return x.FillBytes(make([]byte, size))
}

func (b *bench) cipher(slot hsm.Slot) {
	b.t.Helper()
	ctx := b.t.Context()
	limit := b.Capabilities().MaxSeal
	for _, size := range []int{0, 1, 16, 100, min(limit, 4000)} {
		plaintext, additional := random(size), random(size%7)
		sealed, err := b.Seal(ctx, slot, plaintext, additional)
		b.ok(err, "Seal")
		if len(sealed) != size+28 {
			b.t.Fatalf("Seal of %d bytes has %d", size, len(sealed))
		}
		opened, err := b.Device.Open(ctx, slot, sealed, additional)
		b.ok(err, "Open")
		if !bytes.Equal(opened, plaintext) {
			b.t.Error("Open gives something else")
		}
		if again, err := b.Seal(ctx, slot, plaintext, additional); err != nil || bytes.Equal(again[:12], sealed[:12]) {
			b.t.Errorf("Seal repeats its nonce (%v)", err)
		}
		_, err = b.Device.Open(ctx, slot, sealed, append(additional, 0))
		b.refused(err, hsm.ErrDecryption, "Open with other additional data")
		sealed[len(sealed)-1] ^= 1
		_, err = b.Device.Open(ctx, slot, sealed, additional)
		b.refused(err, hsm.ErrDecryption, "Open with a wrong tag")
	}
	_, err := b.Device.Open(ctx, slot, random(27), nil)
	b.refused(err, hsm.ErrDecryption, "Open of less than nonce and tag")
	_, err = b.Seal(ctx, slot, make([]byte, limit+1), nil)
	b.refused(err, hsm.ErrTooLarge, "Seal of too much")
	b.outside(slot)
	_, err = b.Sign(ctx, slot, random(32), hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
	b.refused(err, hsm.ErrBadInput, "Sign with an AES key")
}

// outside opens with the standard library what the device sealed, and the other
// way round, with the key out of a blob.
func (b *bench) outside(slot hsm.Slot) {
	b.t.Helper()
	if b.Capabilities().BlobKind != hsm.BlobSmartCardHSM || b.dkek == nil {
		return
	}
	ctx := b.t.Context()
	blob, err := b.Wrap(ctx, slot)
	b.ok(err, "Wrap")
	keys, err := keyblob.NewKeys(hsm.NewSecret(bytes.Clone(b.dkek)))
	b.ok(err, "NewKeys")
	key, err := keys.Unwrap(blob)
	b.ok(err, "opening the blob")
	block, err := aes.NewCipher(key.(keyblob.AES).Key)
	b.ok(err, "NewCipher")
	gcm, err := cipher.NewGCM(block)
	b.ok(err, "NewGCM")

	sealed, err := b.Seal(ctx, slot, []byte("in"), []byte("more"))
	b.ok(err, "Seal")
	if opened, err := gcm.Open(nil, sealed[:12], sealed[12:], []byte("more")); err != nil || string(opened) != "in" {
		b.t.Errorf("the standard library opens %q, %v", opened, err)
	}
	nonce := random(12)
	opened, err := b.Device.Open(ctx, slot, gcm.Seal(nonce, nonce, []byte("out"), nil), nil)
	if err != nil || string(opened) != "out" {
		b.t.Errorf("the device opens %q, %v", opened, err)
	}
	// CMAC of the empty message (RFC 4493): E(K2 xor 80 00..), done by hand.
	want := make([]byte, 16)
	block.Encrypt(want, want)
	double(want)
	double(want)
	want[0] ^= 0x80
	block.Encrypt(want, want)
	if mac, err := b.CMAC(ctx, slot, nil); err != nil || !bytes.Equal(mac, want) {
		b.t.Errorf("CMAC of nothing is %x, want %x (%v)", mac, want, err)
	}
}

// double multiplies by x in the field of CMAC's subkeys.
func double(block []byte) {
	carry := block[0] >> 7
	for i := range block {
		block[i] <<= 1
		if i+1 < len(block) {
			block[i] |= block[i+1] >> 7
		}
	}
	block[len(block)-1] ^= carry * 0x87
}

func (b *bench) mac(slot hsm.Slot) {
	b.t.Helper()
	ctx := b.t.Context()
	seen := map[string]bool{}
	for _, size := range []int{0, 1, 15, 16, 17, 32, 1000} {
		message := make([]byte, size)
		mac, err := b.CMAC(ctx, slot, message)
		b.ok(err, "CMAC")
		again, err := b.CMAC(ctx, slot, message)
		if err != nil || len(mac) != 16 || !bytes.Equal(mac, again) || seen[string(mac)] {
			b.t.Errorf("CMAC of %d bytes is %x and %x (%v)", size, mac, again, err)
		}
		seen[string(mac)] = true
	}
	_, err := b.CMAC(ctx, slot, make([]byte, b.Capabilities().MaxCMAC+1))
	b.refused(err, hsm.ErrTooLarge, "CMAC of too much")
}
