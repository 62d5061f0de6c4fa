package client_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// keeper answers for one key as a member would.
func keeper(t *testing.T, private crypto.Signer) *client.Key {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, map[string]answer{
		api.KeyPublic: say(api.PublicKey{Key: "k", Version: 3, Type: "t", Public: public}),
		api.KeySign: func(w http.ResponseWriter, r *http.Request) {
			var request api.SignRequest
			json.NewDecoder(r.Body).Decode(&request)
			var opts crypto.SignerOpts = map[string]crypto.Hash{"sha256": crypto.SHA256}[request.Hash]
			if request.Scheme == api.SchemePSS {
				opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
			}
			signature, err := private.Sign(rand.Reader, request.Inputs[0], opts)
			if err != nil || request.Key != "k@3" {
				refuse(api.CodeBadRequest)(w, r)
				return
			}
			say(api.SignResponse{Signatures: [][]byte{signature}})(w, r)
		},
		api.KeyDecrypt: func(w http.ResponseWriter, r *http.Request) {
			var request api.DecryptRequest
			json.NewDecoder(r.Body).Decode(&request)
			var opts crypto.DecrypterOpts
			if request.Scheme == api.SchemeOAEP {
				opts = &rsa.OAEPOptions{Hash: crypto.SHA256, Label: request.Additional}
			}
			plaintext, err := private.(crypto.Decrypter).Decrypt(rand.Reader, request.Ciphertext, opts)
			if err != nil {
				refuse(api.CodeDecryption)(w, r)
				return
			}
			say(api.DecryptResponse{Plaintext: plaintext})(w, r)
		},
	})
	c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}})
	key, err := c.Key(t.Context(), "k")
	if err != nil || key.Name() != "k@3" {
		t.Fatal(key, err)
	}
	return key
}

func TestSignersSign(t *testing.T) {
	message := []byte("tables")
	digest := sha256.Sum256(message)

	private, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	signature, err := keeper(t, private).Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(&private.PublicKey, digest[:], signature) {
		t.Errorf("ECDSA: %v", err)
	}

	edwards := newKey(t)
	key := keeper(t, edwards)
	if signature, err = key.Sign(nil, message, crypto.Hash(0)); err != nil || !ed25519.Verify(edwards.Public().(ed25519.PublicKey), message, signature) {
		t.Errorf("Ed25519: %v", err)
	}
	if signature, err = key.Sign(nil, message, nil); err != nil || !ed25519.Verify(edwards.Public().(ed25519.PublicKey), message, signature) {
		t.Errorf("Ed25519 without options: %v", err)
	}
	if _, err = key.Sign(nil, digest[:], crypto.SHA256); err == nil {
		t.Error("Ed25519 signed a digest")
	}
}

func TestRSAKeySignsAndDecrypts(t *testing.T) {
	private, _ := rsa.GenerateKey(rand.Reader, 2048)
	key := keeper(t, private)
	digest := sha256.Sum256([]byte("tables"))
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest[:], signature) != nil {
		t.Errorf("PKCS#1 v1.5: %v", err)
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	if signature, err = key.Sign(nil, digest[:], pss); err != nil || rsa.VerifyPSS(&private.PublicKey, crypto.SHA256, digest[:], signature, pss) != nil {
		t.Errorf("PSS: %v", err)
	}
	if _, err = key.Sign(nil, digest[:], &rsa.PSSOptions{SaltLength: 7, Hash: crypto.SHA256}); err == nil {
		t.Error("a salt of 7 bytes was promised")
	}
	if _, err = key.Sign(nil, digest[:], nil); err == nil {
		t.Error("a digest without the name of its hash was signed")
	}

	ciphertext, _ := rsa.EncryptOAEP(sha256.New(), rand.Reader, &private.PublicKey, []byte("secret"), []byte("l"))
	plaintext, err := key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("l")})
	if err != nil || string(plaintext) != "secret" {
		t.Errorf("OAEP: %q, %v", plaintext, err)
	}
	if _, err = key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256}); !isCode(err, api.CodeDecryption) {
		t.Errorf("OAEP with another label: %v", err)
	}
	// A padding failure looks like a success with another session key.
	garbage := bytes.Clone(ciphertext)
	//lint:ignore SA1019 asked for by whoever holds such ciphertexts; OAEP is the default
	session, err := key.Decrypt(nil, garbage, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 16})
	if err != nil || len(session) != 16 {
		t.Errorf("session key: %x, %v", session, err)
	}
}

// All pages are read, and a server that repeats itself is not followed for ever.
func TestKeysArePaged(t *testing.T) {
	pages := map[string]api.Keys{
		"":  {Keys: []api.Key{{Name: "a"}, {Name: "b"}}, Next: "b"},
		"b": {Keys: []api.Key{{Name: "c"}}, Next: "b"},
	}
	f := start(t, map[string]answer{api.KeyList: func(w http.ResponseWriter, r *http.Request) {
		say(pages[r.URL.Query().Get("after")])(w, r)
	}})
	c := dial(t, client.Config{Addresses: []string{f.address()}, Members: []string{f.fingerprint}})
	names := ""
	for key, err := range c.Keys(t.Context(), api.KeyListQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		names += key.Name
	}
	if names != "abc" {
		t.Errorf("read %s", names)
	}
}
