package main

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

// fakeKey is a software key; secrets[i] is that of version i+1: a crypto.Signer
// or 32 bytes for AES.
type fakeKey struct {
	api.Key
	secrets []any
}

func (k *fakeKey) rotate() {
	var private any
	v := api.KeyVersion{Number: uint32(len(k.secrets) + 1), State: api.VersionEnabled, CreatedAt: time.Unix(1e9, 0).UTC(), HeldBy: []string{"node-1"}, KCV: "0123456789ABCDEF"}
	switch k.Type {
	case "rsa-2048":
		private, _ = rsa.GenerateKey(rand.Reader, 2048)
	case "ecdsa-p256":
		private, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		private, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ed25519":
		_, private, _ = ed25519.GenerateKey(rand.Reader)
	default:
		secret := make([]byte, 32)
		rand.Read(secret)
		private = secret
	}
	if signer, ok := private.(crypto.Signer); ok {
		v.Public, _ = x509.MarshalPKIXPublicKey(signer.Public())
	}
	k.secrets, k.Versions, k.Newest = append(k.secrets, private), append(k.Versions, v), v.Number
}

func (f *fake) named(text string) (*fakeKey, uint32, error) {
	name, version, ok := strings.Cut(text, "@")
	k := f.keys[name]
	if k == nil {
		return nil, 0, refuse(api.CodeNotFound, "no key "+name)
	}
	n := uint64(k.Newest)
	if ok {
		n, _ = strconv.ParseUint(version, 10, 32)
	}
	if n < 1 || n > uint64(len(k.secrets)) {
		return nil, 0, refuse(api.CodeNotFound, "no such version")
	}
	return k, uint32(n), nil
}

func (f *fake) keyHandlers() handlers {
	state := func(to string) func(api.Who, any, any) (any, error) {
		return func(_ api.Who, _, request any) (any, error) {
			name := ""
			switch r := request.(type) {
			case *api.KeyRequest:
				name = r.Key
			case *api.KeyDeleteRequest:
				name = r.Key
			}
			k, n, err := f.named(name)
			if err != nil {
				return nil, err
			}
			k.Versions[n-1].State = to
			return k.Key, nil
		}
	}
	return handlers{
		api.KeyCreate: func(_ api.Who, _, request any) (any, error) {
			r := request.(*api.KeyCreateRequest)
			if f.keys[r.Name] != nil {
				return nil, refuse(api.CodeExists, "key "+r.Name+" is there already")
			}
			k := &fakeKey{Key: api.Key{Name: r.Name, Type: r.Type, Usage: []api.Verb{api.VerbSign}, Labels: r.Labels, Copies: 1, CreatedAt: time.Unix(1e9, 0).UTC()}}
			k.rotate()
			f.keys[r.Name] = k
			return k.Key, nil
		},
		api.KeyRotate: func(_ api.Who, _, request any) (any, error) {
			k, _, err := f.named(request.(*api.KeyRequest).Key)
			if err == nil {
				k.rotate()
				return k.Key, nil
			}
			return nil, err
		},
		api.KeyEnable: state(api.VersionEnabled), api.KeyDisable: state(api.VersionDisabled),
		api.KeyDelete: state(api.VersionPending), api.KeyUndelete: state(api.VersionEnabled),
		api.KeyList: func(_ api.Who, query, _ any) (any, error) {
			q, page := query.(*api.KeyListQuery), api.Keys{Keys: []api.Key{}}
			for _, name := range slices.Sorted(maps.Keys(f.keys)) {
				if strings.HasPrefix(name, q.Prefix) && name > q.After {
					if len(page.Keys) == 1 { // pages of one
						page.Next = page.Keys[0].Name
						break
					}
					page.Keys = append(page.Keys, f.keys[name].Key)
				}
			}
			return page, nil
		},
		api.KeyShow: func(_ api.Who, query, _ any) (any, error) {
			k, _, err := f.named(query.(*api.KeyQuery).Key)
			if err != nil {
				return nil, err
			}
			return k.Key, nil
		},
		api.KeyLabels: func(_ api.Who, _, request any) (any, error) {
			q := request.(*api.KeyLabelsRequest)
			k, _, err := f.named(q.Key)
			if err != nil {
				return nil, err
			}
			k.Labels = q.Labels
			return k.Key, nil
		},
		api.KeyPublic: func(_ api.Who, query, _ any) (any, error) {
			k, n, err := f.named(query.(*api.KeyQuery).Key)
			if err == nil && k.Versions[n-1].Public == nil {
				err = refuse(api.CodeNotAllowed, "an AES key has no public half")
			}
			if err != nil {
				return nil, err
			}
			return api.PublicKey{Key: k.Name, Version: n, Type: k.Type, Public: k.Versions[n-1].Public}, nil
		},
		api.KeyDestroyExcept: f.destroyExcept,

		api.KeySign: f.sign, api.KeyEncrypt: f.encrypt, api.KeyDecrypt: f.decrypt, api.KeyDerive: f.derive,
		api.KeyMAC: func(_ api.Who, _, request any) (any, error) {
			sum := sha256.Sum256(request.(*api.MACRequest).Message)
			return api.MACResponse{Version: 1, MAC: sum[:16]}, nil
		},
		api.Random: func(_ api.Who, query, _ any) (any, error) {
			out := make([]byte, query.(*api.RandomQuery).Bytes)
			rand.Read(out)
			return api.RandomResponse{Random: out}, nil
		},
	}
}

// destroyExcept waives nodes of a version that two were to confirm.
func (f *fake) destroyExcept(_ api.Who, _, request any) (any, error) {
	r := request.(*api.DestroyExceptRequest)
	k, n, err := f.named(r.Key)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(r.Nodes))
	for i, id := range r.Nodes {
		if names[i] = "node-2"; id == f.id.String() {
			names[i] = "node-1"
		}
	}
	v := &k.Versions[n-1]
	if !v.Gone() {
		v.State, v.Awaiting, v.HeldBy = api.VersionDestroying, []string{"node-1", "node-2"}, nil
	}
	v.Awaiting = slices.DeleteFunc(v.Awaiting, func(name string) bool { return slices.Contains(names, name) })
	if v.Except = append(v.Except, names...); len(v.Awaiting) == 0 {
		v.State = api.VersionDestroyedExcept
	}
	return k.Key, nil
}

func (f *fake) sign(_ api.Who, _, request any) (any, error) {
	r := request.(*api.SignRequest)
	k, n, err := f.named(r.Key)
	if err != nil {
		return nil, err
	}
	var opts crypto.SignerOpts = crypto.Hash(0)
	if r.Hash != "" {
		opts, _ = hashNamed(r.Hash)
	}
	if r.Scheme == api.SchemePSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	}
	signature, err := k.secrets[n-1].(crypto.Signer).Sign(rand.Reader, r.Inputs[0], opts)
	if err != nil {
		return nil, refuse(api.CodeBadRequest, err.Error())
	}
	return api.SignResponse{Key: k.Name, Version: n, Signatures: [][]byte{signature}}, nil
}

func (f *fake) gcm(name string) (cipher.AEAD, uint32, error) {
	k, n, err := f.named(name)
	if err != nil {
		return nil, 0, err
	}
	secret, ok := k.secrets[n-1].([]byte)
	if !ok {
		return nil, 0, refuse(api.CodeBadRequest, "no AES key")
	}
	block, _ := aes.NewCipher(secret)
	aead, err := cipher.NewGCM(block)
	return aead, n, err
}

func (f *fake) encrypt(_ api.Who, _, request any) (any, error) {
	r := request.(*api.EncryptRequest)
	aead, n, err := f.gcm(r.Key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 12)
	rand.Read(nonce)
	return api.EncryptResponse{Version: n, Ciphertext: aead.Seal(nonce, nonce, r.Plaintext, r.Additional)}, nil
}

func (f *fake) decrypt(_ api.Who, _, request any) (any, error) {
	r := request.(*api.DecryptRequest)
	k, n, err := f.named(r.Key)
	if err != nil {
		return nil, err
	}
	var plaintext []byte
	if private, ok := k.secrets[n-1].(*rsa.PrivateKey); ok {
		plaintext, err = rsa.DecryptOAEP(sha256.New(), nil, private, r.Ciphertext, r.Additional)
	} else {
		aead, _, _ := f.gcm(r.Key)
		plaintext, err = aead.Open(nil, r.Ciphertext[:12], r.Ciphertext[12:], r.Additional)
	}
	if err != nil {
		return nil, refuse(api.CodeDecryption, "decryption failed")
	}
	return api.DecryptResponse{Version: n, Plaintext: plaintext}, nil
}

func (f *fake) derive(_ api.Who, _, request any) (any, error) {
	r := request.(*api.DeriveRequest)
	k, n, err := f.named(r.Key)
	if err != nil {
		return nil, err
	}
	peer, err := x509.ParsePKIXPublicKey(r.Peer)
	if err != nil {
		return nil, refuse(api.CodeBadRequest, err.Error())
	}
	private, err := k.secrets[n-1].(*ecdsa.PrivateKey).ECDH()
	if err != nil {
		return nil, err
	}
	var public *ecdh.PublicKey
	if key, ok := peer.(*ecdsa.PublicKey); ok {
		public, err = key.ECDH()
	}
	if err != nil || public == nil {
		return nil, refuse(api.CodeBadRequest, fmt.Sprint("peer: ", err))
	}
	shared, err := private.ECDH(public)
	if err != nil {
		return nil, refuse(api.CodeBadRequest, err.Error())
	}
	return api.DeriveResponse{Version: n, Shared: shared}, nil
}
