package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

// nameIn is the name in NAME@VERSION.
func nameIn(ref string) string {
	name, _, _ := strings.Cut(ref, "@")
	return name
}

func sorted(parts []string) string {
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// files are the flags of a verb that reads one file and writes another.
type files struct{ in, out, aad string }

func (f *files) add(c *cobra.Command, aad bool) {
	c.Flags().StringVar(&f.in, "in", "-", "`FILE` to read; - is stdin")
	c.Flags().StringVar(&f.out, "out", "-", "`FILE` to write; - is stdout")
	if aad {
		c.Flags().StringVar(&f.aad, "aad", "", "`TEXT` that is authenticated with it (AES-GCM), or the label of OAEP")
	}
}

func (a *app) keyEncrypt() *cobra.Command {
	var f files
	c := &cobra.Command{
		Use: "encrypt NAME --in FILE --out FILE", Short: "encrypt a file",
		Long: `AES keys encrypt in the device: nonce(12) || ciphertext || tag(16), up to 256 KiB.
RSA keys encrypt here, under the public key: OAEP with SHA-256. A note on stderr
says which version it was; keep it with the ciphertext and decrypt with NAME@2.`,
		Example: `  nodectl key encrypt db/backup --in data.key --out data.key.enc`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			plaintext, err := a.readIn(f.in, api.MaxMessage, dataKey)
			if err != nil {
				return err
			}
			defer secret.Wipe(plaintext)
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			key, version, err := s.version(ctx, args[0])
			if err != nil && !errors.Is(err, &api.Error{Code: api.CodeForbidden}) {
				return err
			}
			response := api.EncryptResponse{Version: version.Number}
			if err == nil && hsm.KeyType(key.Type).Family() == hsm.FamilyRSA {
				response.Ciphertext, err = encryptOAEP(key, version, plaintext, f.aad)
			} else {
				err = s.do(ctx, api.KeyEncrypt, api.EncryptRequest{Key: args[0], Plaintext: plaintext, Additional: []byte(f.aad)}, &response)
			}
			if err != nil {
				return err
			}
			name := nameIn(args[0])
			return a.give(f.out, result{key: name, version: response.Version, field: "ciphertext", bytes: response.Ciphertext,
				done: fmt.Sprintf("encrypted with %s@%d", name, response.Version)})
		},
	}
	f.add(c, true)
	return c
}

// encryptOAEP encrypts here: it takes no secret.
func encryptOAEP(key api.Key, version api.KeyVersion, plaintext []byte, label string) ([]byte, error) {
	if version.State != api.VersionEnabled {
		return nil, &api.Error{Code: api.CodeWrongState, Message: fmt.Sprintf("%s@%d is %s", key.Name, version.Number, version.State)}
	}
	public, err := parseSPKI(version.Public)
	if err != nil {
		return nil, err
	}
	rsaKey, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the public key of %s is a %T", key.Name, public)
	}
	if most := rsaKey.Size() - 2*sha256.Size - 2; len(plaintext) > most {
		return nil, hint("encrypt a random data key with it and the file with that", fmt.Errorf("%s encrypts up to %d bytes, not %d", key.Name, most, len(plaintext)))
	}
	return rsa.EncryptOAEP(sha256.New(), rand.Reader, rsaKey, plaintext, []byte(label))
}

func (a *app) keyDecrypt() *cobra.Command {
	var f files
	c := &cobra.Command{
		Use: "decrypt NAME --in FILE --out FILE", Short: "decrypt a file", Args: cobra.ExactArgs(1),
		Long:    "Decrypts what key encrypt wrote, with the newest version or with NAME@2. FILE gets\nmode 0600.",
		Example: `  nodectl key decrypt db/backup@1 --in data.key.enc --out data.key`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			ciphertext, err := a.readIn(f.in, api.MaxCiphertext, "that is longer than anything that key encrypt writes: give a file that it wrote")
			if err != nil {
				return err
			}
			var response api.DecryptResponse
			request := api.DecryptRequest{Key: args[0], Ciphertext: ciphertext, Additional: []byte(f.aad)}
			if err := a.ask(ctx, api.KeyDecrypt, request, &response); err != nil {
				return err
			}
			defer secret.Wipe(response.Plaintext)
			return a.give(f.out, result{key: nameIn(args[0]), version: response.Version, field: "plaintext", bytes: response.Plaintext, secret: true})
		},
	}
	f.add(c, true)
	return c
}

func (a *app) keyDerive() *cobra.Command {
	var peer, out string
	c := &cobra.Command{
		Use: "derive NAME --peer FILE.pub --out FILE", Short: "agree on a secret with a peer's public key (ECDH)", Args: cobra.ExactArgs(1),
		Long: `Writes the raw X coordinate of the shared point, as long as the curve's field.
Pass it through a KDF before using it as a key. FILE gets mode 0600.`,
		Example: `  nodectl key derive exchange --peer bob.pub --out shared`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			if peer == "" {
				return usage("key derive wants --peer FILE.pub")
			}
			content, err := a.readIn(peer, maxKeyFile, "that is no public key: openssl pkey -pubout writes one")
			if err != nil {
				return err
			}
			block, _ := pem.Decode(content)
			if block == nil || block.Type != "PUBLIC KEY" {
				return hint("openssl pkey -pubout writes it", fmt.Errorf("%s is not a SubjectPublicKeyInfo PEM", peer))
			}
			var response api.DeriveResponse
			if err := a.ask(ctx, api.KeyDerive, api.DeriveRequest{Key: args[0], Peer: block.Bytes}, &response); err != nil {
				return err
			}
			defer secret.Wipe(response.Shared)
			return a.give(out, result{key: nameIn(args[0]), version: response.Version, field: "shared", bytes: response.Shared, secret: true})
		},
	}
	c.Flags().StringVar(&peer, "peer", "", "`FILE` with the peer's public key, PEM")
	c.Flags().StringVar(&out, "out", "-", "`FILE` to write; - is stdout")
	return c
}

func (a *app) keyMAC() *cobra.Command {
	var f files
	c := &cobra.Command{
		Use: "mac NAME --in FILE", Short: "print the AES-CMAC of a file, in hex (base64 with -o json)", Args: cobra.ExactArgs(1),
		Example: `  nodectl key mac tags --in message`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			message, err := a.readIn(f.in, api.MaxMessage, "hash it first, and take the MAC of the hash: openssl dgst -sha256 -binary")
			if err != nil {
				return err
			}
			var response api.MACResponse
			if err := a.ask(ctx, api.KeyMAC, api.MACRequest{Key: args[0], Message: message}, &response); err != nil {
				return err
			}
			if f.out == "-" && a.output == "text" {
				row(a.out, hex.EncodeToString(response.MAC))
				return nil
			}
			return a.give(f.out, result{key: nameIn(args[0]), version: response.Version, field: "mac", bytes: response.MAC})
		},
	}
	f.add(c, false)
	return c
}

func (a *app) randomCommand() *cobra.Command {
	return &cobra.Command{
		Use: "random N", Short: "print N random bytes from a device, in hex (base64 with -o json)", Args: cobra.ExactArgs(1),
		Example: "  nodectl random 32",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > api.MaxRandom {
				return usage("%.40q is not a number of bytes from 1 to %d", args[0], api.MaxRandom)
			}
			var response api.RandomResponse
			if err := a.ask(ctx, api.Random, api.RandomQuery{Bytes: n}, &response); err != nil {
				return err
			}
			if len(response.Random) != n {
				return fmt.Errorf("the node answered with %d bytes", len(response.Random))
			}
			return a.show(response,
				func(w io.Writer) { row(w, hex.EncodeToString(response.Random)) })
		},
	}
}
