package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

	"github.com/keycustodian/keycustodian/node/api"
)

// Key is one version of a remote key: a crypto.Signer, and for RSA a
// crypto.Decrypter. Safe for concurrent use.
type Key struct {
	client *Client
	ctx    context.Context // of the calls that crypto's interfaces give no context
	name   string          // NAME@VERSION
	public crypto.PublicKey
	typ    string
}

// Key looks up the public half of NAME, or of NAME@VERSION. The handle keeps to
// the version that is newest now. AES keys have no public half: use
// [Client.Encrypt], [Client.Decrypt] and [Client.MAC].
//
// ctx bounds the look-up only; [Key.WithContext] gives the handle one.
func (c *Client) Key(ctx context.Context, name string) (*Key, error) {
	var found api.PublicKey
	if _, err := c.Do(ctx, api.KeyPublic, api.KeyQuery{Key: name}, &found); err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(found.Public)
	if err != nil {
		return nil, fmt.Errorf("client: public key of %.140s: %w", name, err)
	}
	return &Key{client: c, ctx: context.Background(), name: fmt.Sprintf("%s@%d", found.Key, found.Version), public: public, typ: found.Type}, nil
}

// WithContext returns a handle whose Sign and Decrypt run under ctx.
func (k *Key) WithContext(ctx context.Context) *Key {
	other := *k
	other.ctx = ctx
	return &other
}

// Name is NAME@VERSION.
func (k *Key) Name() string { return k.name }

// Type is the key's type, as "ecdsa-p256".
func (k *Key) Type() string { return k.typ }

// Public returns *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign signs a digest of opts.HashFunc(), or for Ed25519 with a zero hash or nil
// the message itself. ECDSA signatures are ASN.1 DER; RSA signs by PKCS #1 v1.5,
// or PSS with a salt as long as the hash where opts are *rsa.PSSOptions. The
// randomness is the device's; the reader is not used. It may take as long as
// Config.Timeout at each address: see [Key.WithContext].
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		opts = crypto.Hash(0)
	}
	request := api.SignRequest{Key: k.name, Inputs: [][]byte{digest}}
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		if opts.HashFunc() != 0 {
			return nil, errors.New("client: sign: Ed25519 signs whole messages, no digests")
		}
	case *rsa.PublicKey, *ecdsa.PublicKey:
		var err error
		if request.Hash, err = hashName(opts.HashFunc()); err != nil {
			return nil, err
		}
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			if pss.SaltLength > 0 && pss.SaltLength != pss.Hash.Size() {
				return nil, errors.New("client: sign: the salt of PSS is as long as the hash")
			}
			request.Scheme = api.SchemePSS
		}
	default:
		return nil, fmt.Errorf("client: sign: no signatures with a %T", public)
	}
	var response api.SignResponse
	if _, err := k.client.Do(k.ctx, api.KeySign, request, &response); err != nil {
		return nil, err
	}
	if len(response.Signatures) != 1 {
		return nil, fmt.Errorf("client: sign: %d signatures for one input", len(response.Signatures))
	}
	return response.Signatures[0], nil
}

// Decrypt decrypts with an RSA key. opts is an *rsa.OAEPOptions, or nil or an
// *rsa.PKCS1v15DecryptOptions; with a SessionKeyLen a failed decryption gives
// a random session key, as in crypto/rsa.
func (k *Key) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	request := api.DecryptRequest{Key: k.name, Ciphertext: ciphertext}
	session := 0
	switch o := opts.(type) {
	case *rsa.OAEPOptions:
		if o.MGFHash != 0 && o.MGFHash != o.Hash {
			return nil, errors.New("client: decrypt: MGF1 uses the hash of OAEP")
		}
		name, err := hashName(o.Hash)
		if err != nil {
			return nil, err
		}
		request.Scheme, request.Hash, request.Additional = api.SchemeOAEP, name, o.Label
	//lint:ignore SA1019 asked for by whoever holds such ciphertexts; OAEP is the default
	case *rsa.PKCS1v15DecryptOptions:
		request.Scheme, session = api.SchemePKCS1v15, o.SessionKeyLen
	case nil:
		request.Scheme = api.SchemePKCS1v15
	default:
		return nil, fmt.Errorf("client: decrypt: no options of type %T", opts)
	}
	var response api.DecryptResponse
	_, err := k.client.Do(k.ctx, api.KeyDecrypt, request, &response)
	if session > 0 && (errors.Is(err, &api.Error{Code: api.CodeDecryption}) || err == nil && len(response.Plaintext) != session) {
		key := make([]byte, session)
		rand.Read(key)
		return key, nil
	}
	if err != nil {
		return nil, err
	}
	return response.Plaintext, nil
}

func hashName(hash crypto.Hash) (string, error) {
	if name := api.HashName(hash); name != "" {
		return name, nil
	}
	if hash == 0 {
		return "", errors.New("client: name the hash that made the digest, as crypto.SHA256")
	}
	return "", fmt.Errorf("client: no hash %v: use SHA-256, SHA-384 or SHA-512", hash)
}

var (
	_ crypto.Signer    = (*Key)(nil)
	_ crypto.Decrypter = (*Key)(nil)
)
