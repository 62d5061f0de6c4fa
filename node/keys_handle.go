package node

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"io"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Key is one version of a key, to be used. It is a crypto.Signer and a
// crypto.Decrypter. After a rotation it stays the version that it was: take a
// new one with [Node.Key]. Safe for concurrent use.
//
// The methods with a context say no when the local state is older than the
// policy allows ([ErrStale]), when the key may not be used so, and when neither
// this node's device nor one that another node was asked for can ([ErrNotHere]).
type Key struct {
	node    *Node
	caller  Caller
	name    string
	id      fsm.KeyID
	version uint64
	keyType hsm.KeyType
	public  crypto.PublicKey
}

var (
	_ crypto.Signer    = (*Key)(nil)
	_ crypto.Decrypter = (*Key)(nil)
)

// Key returns a key by NAME, then it is the newest version, or NAME@VERSION. Where
// there is none the error is fsm.NotFound.
func (n *Node) Key(ctx context.Context, ref string) (*Key, error) {
	if err := n.keys.ready(); err != nil {
		return nil, err
	}
	return n.keys.handle(ctx, n.Self(), ref)
}

func (r *keyRoom) handle(ctx context.Context, caller Caller, ref string) (*Key, error) {
	key, version, err := findVersion(r.node.view(), ref)
	if errors.Is(err, fsm.NotFound) {
		var view *fsm.View
		if view, err = r.newest(ctx, err); err == nil {
			key, version, err = findVersion(view, ref)
		}
	}
	if err != nil {
		return nil, doing(err, "key")
	}
	public, err := publicOf(version)
	if err != nil {
		return nil, err
	}
	return &Key{r.node, caller, key.Name, key.ID, version.N, key.Type, public}, nil
}

// Name is the key's name.
func (k *Key) Name() string { return k.name }

// Version is the number of the version, from 1.
func (k *Key) Version() uint64 { return k.version }

// Type is the key's type.
func (k *Key) Type() hsm.KeyType { return k.keyType }

// Info returns what the state says about the key.
func (k *Key) Info() (KeyInfo, error) { return k.node.keys.show(k.caller, k.name) }

// Public implements crypto.Signer: *rsa.PublicKey, *ecdsa.PublicKey or
// ed25519.PublicKey; nil for AES.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Use does one operation and says how old the state was that allowed it. use.Key
// is not looked at.
func (k *Key) Use(ctx context.Context, use KeyUse) (KeyUsed, error) {
	if err := k.node.keys.ready(); err != nil {
		return KeyUsed{}, err
	}
	use.Key = k.name
	return k.node.keys.use(ctx, k.caller, use, k.version)
}

func (k *Key) output(ctx context.Context, use KeyUse) ([]byte, error) {
	used, err := k.Use(ctx, use)
	return used.Output, err
}

// Sign implements crypto.Signer. RSA signs by PKCS #1 v1.5, or PSS with a salt
// as long as the hash where options are *rsa.PSSOptions. The reader is not used:
// devices have their own. Nothing but Close cuts it short: see SignContext.
func (k *Key) Sign(_ io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(k.node.ctx, digest, options)
}

// SignContext is Sign with a context. ECDSA signatures are ASN.1 DER, Ed25519
// ones sign the message itself with crypto.Hash(0).
func (k *Key) SignContext(ctx context.Context, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	use := KeyUse{Verb: fsm.Sign, Input: digest}
	if options != nil {
		use.Hash = options.HashFunc()
	}
	if pss, ok := options.(*rsa.PSSOptions); ok {
		use.Scheme = hsm.PSS
		if pss.Hash != 0 {
			use.Hash = pss.Hash
		}
		if salt := pss.SaltLength; salt != rsa.PSSSaltLengthEqualsHash && salt != rsa.PSSSaltLengthAuto && (!use.Hash.Available() || salt != use.Hash.Size()) {
			return nil, badRequest("PSS with a salt of %d bytes: only as long as the hash", salt)
		}
	}
	return k.output(ctx, use)
}

// Verify checks a signature that SignContext made with the same options; nil
// means that it is good. It needs no device.
func (k *Key) Verify(ctx context.Context, digest, signature []byte, options crypto.SignerOpts) error {
	use := KeyUse{Verb: fsm.Verify, Input: digest, Signature: signature}
	if options != nil {
		use.Hash = options.HashFunc()
	}
	if _, ok := options.(*rsa.PSSOptions); ok {
		use.Scheme = hsm.PSS
	}
	used, err := k.Use(ctx, use)
	if err == nil && !used.Valid {
		return errors.New("node: verify: the signature is not good")
	}
	return err
}

// Encrypt encrypts: AES-GCM gives nonce (12) || ciphertext || tag (16) and
// authenticates additional as well; RSA-OAEP with SHA-256 takes it as label.
// Keep the version with the ciphertext: another one does not decrypt it.
func (k *Key) Encrypt(ctx context.Context, plaintext, additional []byte) ([]byte, error) {
	return k.output(ctx, KeyUse{Verb: fsm.Encrypt, Input: plaintext, Additional: additional})
}

// DecryptContext reverses Encrypt: AES-GCM, or OAEP with SHA-256. It is not Decrypt
// with a context, whose default is another one; that is Use.
func (k *Key) DecryptContext(ctx context.Context, ciphertext, additional []byte) ([]byte, error) {
	return k.output(ctx, KeyUse{Verb: fsm.Decrypt, Input: ciphertext, Additional: additional})
}

// Decrypt implements crypto.Decrypter for RSA: *rsa.OAEPOptions,
// *rsa.PKCS1v15DecryptOptions, or nil for PKCS #1 v1.5. Nothing but Close cuts it
// short.
func (k *Key) Decrypt(_ io.Reader, ciphertext []byte, options crypto.DecrypterOpts) ([]byte, error) {
	use := KeyUse{Verb: fsm.Decrypt, Input: ciphertext, Scheme: hsm.PKCS1v15}
	session := 0
	switch o := options.(type) {
	case nil:
	case *rsa.OAEPOptions:
		if o.MGFHash != 0 && o.MGFHash != o.Hash {
			return nil, badRequest("OAEP: the mask's hash must be the label's")
		}
		use.Scheme, use.Hash, use.Additional = hsm.OAEP, o.Hash, o.Label
	//lint:ignore SA1019 asked for by whoever holds such ciphertexts; OAEP is the default
	case *rsa.PKCS1v15DecryptOptions:
		session = o.SessionKeyLen
	default:
		return nil, badRequest("decrypt with options of type %T", options)
	}
	plaintext, err := k.output(k.node.ctx, use)
	if session <= 0 {
		return plaintext, err
	}
	if err != nil && !errors.Is(err, hsm.ErrDecryption) {
		return nil, err
	}
	// As crypto/rsa does it: whether the padding was right must not show, so a
	// random key takes the place of a wrong one.
	key := make([]byte, session)
	rand.Read(key)
	same := subtle.ConstantTimeEq(int32(len(plaintext)), int32(session))
	padded := make([]byte, session)
	copy(padded, plaintext)
	subtle.ConstantTimeCopy(same, key, padded)
	secret.Wipe(padded)
	secret.Wipe(plaintext)
	return key, nil
}

// Derive agrees with a peer by ECDH: a public key on the same curve. The answer
// is the X coordinate, as long as the curve's field: pass it through a KDF.
func (k *Key) Derive(ctx context.Context, peer crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(peer)
	if err != nil {
		return nil, badRequest("derive: %v", err)
	}
	return k.output(ctx, KeyUse{Verb: fsm.Derive, Input: der})
}

// MAC returns the 16-byte AES-CMAC of a message.
func (k *Key) MAC(ctx context.Context, message []byte) ([]byte, error) {
	return k.output(ctx, KeyUse{Verb: fsm.MAC, Input: message})
}
