package node

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	_ "crypto/md5" // hashes that a signature may be checked with
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	"crypto/sha256"
	_ "crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// errWrongKey: an object in the device is certainly not the key that it should
// be.
var errWrongKey = errors.New("node: the object in the device is not this key")

// proofDomain begins everything that a proof has a key sign, so that no proof is
// ever a signature over something that means anything.
const proofDomain = "keycustodian v1 key proof\x00"

// parsePublic reads a SubjectPublicKeyInfo; nil for none.
func parsePublic(der []byte) (crypto.PublicKey, error) {
	if len(der) == 0 {
		return nil, nil
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("node: public key: %w", err)
	}
	return public, nil
}

// prove makes sure that a slot holds the key: an asymmetric one signs a fresh
// nonce under its replicated public key, and agrees with a fresh ephemeral one
// where it is for that; AES answers the CMAC that was recorded when it was made.
func (d *deviceRoom) prove(ctx context.Context, slot hsm.Slot, key *fsm.Key, version *fsm.Version, public crypto.PublicKey) error {
	var err error
	if key.Type.Symmetric() {
		err = d.proveCMAC(ctx, slot, version.Request, version.Material.Check)
	} else {
		err = d.provePublic(ctx, slot, public, key.Usage)
	}
	if err != nil {
		return fmt.Errorf("node: prove %s@%d: %w", key.Name, version.N, err)
	}
	return nil
}

func (d *deviceRoom) proveCMAC(ctx context.Context, slot hsm.Slot, request fsm.RequestID, want []byte) error {
	mac, err := d.cmac(ctx, slot, fsm.CheckMessage(request))
	if err != nil {
		return err
	}
	if len(want) == 0 || subtle.ConstantTimeCompare(mac, want) != 1 {
		return errWrongKey
	}
	return nil
}

func (d *deviceRoom) cmac(ctx context.Context, slot hsm.Slot, message []byte) ([]byte, error) {
	return withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.CMAC(ctx, slot, message) })
}

func (d *deviceRoom) provePublic(ctx context.Context, slot hsm.Slot, public crypto.PublicKey, usage fsm.Verbs) error {
	if err := d.proveSignature(ctx, slot, public); err != nil {
		return err
	}
	if own, ok := public.(*ecdsa.PublicKey); ok && usage&fsm.Derive != 0 && own.Curve != elliptic.P224() {
		return d.proveAgreement(ctx, slot, own)
	}
	return nil
}

func (d *deviceRoom) proveSignature(ctx context.Context, slot hsm.Slot, public crypto.PublicKey) error {
	input := append([]byte(proofDomain), make([]byte, 32)...)
	rand.Read(input[len(proofDomain):])
	options := hsm.SignOptions{Scheme: hsm.EdDSA}
	if _, plain := public.(ed25519.PublicKey); !plain {
		digest := sha256.Sum256(input)
		input, options.Hash = digest[:], crypto.SHA256
		options.Scheme = hsm.ECDSA
		if _, isRSA := public.(*rsa.PublicKey); isRSA {
			options.Scheme = hsm.PKCS1v15
		}
	}
	signature, err := withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Sign(ctx, slot, input, options) })
	if err != nil {
		return err
	}
	if !verifySignature(public, input, signature, options) {
		return errWrongKey
	}
	return nil
}

func (d *deviceRoom) proveAgreement(ctx context.Context, slot hsm.Slot, public *ecdsa.PublicKey) error {
	theirs, err := public.ECDH()
	if err != nil {
		return err
	}
	var ephemeral *ecdh.PrivateKey
	if ephemeral, err = theirs.Curve().GenerateKey(rand.Reader); err != nil {
		return err
	}
	want, err := ephemeral.ECDH(theirs)
	if err != nil {
		return err
	}
	got, err := withLogin(ctx, d, func(device hsm.Device) (*hsm.Secret, error) {
		return device.ECDH(ctx, slot, ephemeral.PublicKey().Bytes())
	})
	if err != nil {
		return err
	}
	defer got.Wipe()
	expected := hsm.NewSecret(want)
	defer expected.Wipe()
	if !got.Equal(expected) {
		return errWrongKey
	}
	return nil
}

// verifySignature checks a signature as hsm.Device.Sign makes them.
func verifySignature(public crypto.PublicKey, input, signature []byte, options hsm.SignOptions) bool {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return options.Scheme == hsm.ECDSA && ecdsa.VerifyASN1(public, input, signature)
	case ed25519.PublicKey:
		return options.Scheme == hsm.EdDSA && len(signature) == ed25519.SignatureSize && ed25519.Verify(public, input, signature)
	case *rsa.PublicKey:
		if options.Scheme == hsm.PSS {
			return rsa.VerifyPSS(public, options.Hash, input, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return options.Scheme == hsm.PKCS1v15 && rsa.VerifyPKCS1v15(public, options.Hash, input, signature) == nil
	}
	return false
}
