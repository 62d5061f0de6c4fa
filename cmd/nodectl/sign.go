package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

// input is what is signed or verified, and how.
type input struct {
	in, digest, hash string
	pss              bool
}

func (i *input) add(c *cobra.Command) {
	c.Flags().StringVar(&i.in, "in", "", "`FILE` that is signed; - is stdin")
	c.Flags().StringVar(&i.digest, "digest", "", "`HEX` digest that is signed, in place of a file")
	c.Flags().StringVar(&i.hash, "hash", "", "`HASH`: sha256 (the default), sha384 or sha512; sha1 and md5 for legacy keys")
	c.Flags().BoolVar(&i.pss, "pss", false, "RSA-PSS, salt as long as the hash; else PKCS#1 v1.5")
}

func (i *input) validate() error {
	if (i.in == "") == (i.digest == "") {
		return usage("want one of --in FILE and --digest HEX")
	}
	if _, err := hashNamed(i.hash); err != nil {
		return err
	}
	return nil
}

// hashNamed is api's, as a usage error.
func hashNamed(name string) (crypto.Hash, error) {
	hash, err := api.HashNamed(name)
	if err != nil {
		return 0, &usageError{err: err}
	}
	return hash, nil
}

// scheme is the name on the wire.
func (i *input) scheme() string {
	if i.pss {
		return api.SchemePSS
	}
	return ""
}

// read returns what goes to the device: a digest and the name of its hash, or
// for Ed25519 the whole file.
func (a *app) readInput(i input, family hsm.Family) (data []byte, hash string, err error) {
	switch {
	case family == hsm.FamilyAES:
		return nil, "", hint("use key mac", usage("an AES key does not sign"))
	case family == hsm.FamilyEd25519 && (i.hash != "" || i.digest != "" || i.pss):
		return nil, "", usage("Ed25519 signs the file itself: give --in, and no --hash, --digest or --pss")
	case family == hsm.FamilyEd25519:
		data, err = a.readIn(i.in, api.MaxMessage, "hash it first, and sign the hash: openssl dgst -sha256 -binary; keys of other types sign files of any length")
		return data, "", err
	case i.pss && family == hsm.FamilyEC:
		return nil, "", usage("--pss is for RSA keys")
	case i.digest != "":
		return parseDigest(i.digest, i.hash)
	}
	if hash = i.hash; hash == "" {
		hash = api.SHA256
	}
	h, err := hashNamed(hash)
	if err != nil {
		return nil, "", err
	}
	r, done, err := a.openIn(i.in)
	if err != nil {
		return nil, "", err
	}
	defer done()
	digest := h.New()
	if _, err := io.Copy(digest, r); err != nil {
		return nil, "", err
	}
	return digest.Sum(nil), hash, nil
}

// parseDigest finds the hash by the length where none is named.
func parseDigest(text, hash string) ([]byte, string, error) {
	digest, err := hex.DecodeString(text)
	if err != nil {
		return nil, "", usage("--digest is not hexadecimal")
	}
	if hash == "" {
		for _, name := range []string{api.SHA256, api.SHA384, api.SHA512} {
			if h, _ := hashNamed(name); h.Size() == len(digest) {
				return digest, name, nil
			}
		}
		return nil, "", usage("a digest of %d bytes is of no known hash", len(digest))
	}
	h, err := hashNamed(hash)
	if err != nil {
		return nil, "", err
	}
	if h.Size() != len(digest) {
		return nil, "", usage("a digest of %s has %d bytes, not %d", hash, h.Size(), len(digest))
	}
	return digest, hash, nil
}

// version looks up NAME or NAME@VERSION.
func (s *session) version(ctx context.Context, name string) (api.Key, api.KeyVersion, error) {
	var key api.Key
	if err := s.do(ctx, api.KeyShow, api.KeyQuery{Key: name}, &key); err != nil {
		return key, api.KeyVersion{}, err
	}
	want := key.Newest
	if _, text, ok := strings.Cut(name, "@"); ok {
		n, _ := strconv.ParseUint(text, 10, 32) // checkKey has seen it
		want = uint32(n)
	}
	for _, v := range key.Versions {
		if v.Number == want {
			return key, v, nil
		}
	}
	return key, api.KeyVersion{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("key %s has no version %d", key.Name, want), Hint: "see nodectl key show " + key.Name}
}

func (a *app) keySign() *cobra.Command {
	var i input
	var out string
	c := &cobra.Command{
		Use: "sign NAME (--in FILE | --digest HEX) --out SIG", Short: "sign a file or a digest",
		Long: `Signs with the newest version, or with NAME@2. ECDSA signatures are ASN.1 DER, RSA
ones PKCS#1 v1.5 or, with --pss, PSS with a salt as long as the hash. Ed25519
signs the file itself, up to 256 KiB, and refuses --hash.`,
		Example: `  nodectl key sign tables-2026 --in release.tar --out release.sig
  nodectl key public tables-2026 > tables.pub
  openssl dgst -sha256 -verify tables.pub -signature release.sig release.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := errors.Join(checkKey(args[0]), i.validate()); err != nil {
				return err
			}
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			var family hsm.Family
			key, version, err := s.version(ctx, args[0])
			switch {
			case err == nil:
				family = hsm.KeyType(key.Type).Family()
			case !errors.Is(err, &api.Error{Code: api.CodeForbidden}): // may sign and not look: the node knows the type
				return err
			}
			request := api.SignRequest{Key: args[0], Scheme: i.scheme(), Inputs: make([][]byte, 1)}
			if request.Inputs[0], request.Hash, err = a.readInput(i, family); err != nil {
				return err
			}
			if err == nil && version.Number != 0 {
				request.Key = fmt.Sprintf("%s@%d", key.Name, version.Number)
			}
			var response api.SignResponse
			if err := s.do(ctx, api.KeySign, request, &response); err != nil {
				return err
			}
			if len(response.Signatures) != 1 {
				return fmt.Errorf("the node answered with %d signatures", len(response.Signatures))
			}
			return a.give(out, result{key: response.Key, version: response.Version, field: "signature", bytes: response.Signatures[0],
				done: fmt.Sprintf("signed by %s@%d", response.Key, response.Version)})
		},
	}
	i.add(c)
	c.Flags().StringVar(&out, "out", "-", "`FILE` for the signature; - is stdout")
	return c
}

func (a *app) keyVerify() *cobra.Command {
	var i input
	var sig string
	c := &cobra.Command{
		Use: "verify NAME (--in FILE | --digest HEX) --sig SIG", Short: "verify a signature here, with the key's public half",
		Long: `Fetches the public key and verifies here. The newest version is tried, or NAME@2.
Exits 0 for a good signature, 1 for any other; -o json says "valid" true or false.`,
		Example: `  nodectl key verify tables-2026 --in release.tar --sig release.sig`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := errors.Join(checkKey(args[0]), i.validate()); err != nil {
				return err
			}
			if sig == "" {
				return usage("key verify wants --sig FILE")
			}
			signature, err := a.readIn(sig, 4096, "that is no signature: give the file that key sign wrote")
			if err != nil {
				return err
			}
			var found api.PublicKey
			if err := a.ask(ctx, api.KeyPublic, api.KeyQuery{Key: args[0]}, &found); err != nil {
				return err
			}
			data, hash, err := a.readInput(i, hsm.KeyType(found.Type).Family())
			if err != nil {
				return err
			}
			public, err := parseSPKI(found.Public)
			if err != nil {
				return err
			}
			valid := good(public, data, hash, i.pss, signature)
			shown := map[string]any{"valid": valid, "key": found.Key, "version": found.Version}
			if !valid {
				if a.output == "json" {
					if err := a.show(shown, nil); err != nil {
						return err
					}
				}
				return hint("it may be by another version (NAME@1), hash or file", fmt.Errorf("the signature does not verify under %s@%d", found.Key, found.Version))
			}
			a.say("good signature by %s@%d", found.Key, found.Version)
			return a.show(shown, func(w io.Writer) { row(w, "valid") })
		},
	}
	i.add(c)
	c.Flags().StringVar(&sig, "sig", "", "`FILE` with the signature")
	return c
}

// good verifies with the standard library.
func good(public crypto.PublicKey, data []byte, hash string, pss bool, signature []byte) bool {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, data, signature)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, data, signature)
	case *rsa.PublicKey:
		h, err := hashNamed(hash)
		if err != nil {
			return false
		}
		if pss {
			return rsa.VerifyPSS(key, h, data, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, h, data, signature) == nil
	}
	return false
}
