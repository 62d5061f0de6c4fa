package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/client"
)

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 64 << 10

// loadKey reads the caller's key file: PKCS#8 PEM, or that inside age's
// armoured scrypt form.
func (a *app) loadKey(ctx context.Context) (crypto.Signer, error) {
	path := a.keyPath()
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint("give your key file with NODECTL_KEY or --key; nodectl operator new makes one", err)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Mode().Perm()&0o007 != 0 {
		return nil, hint("chmod 600 it; if others had the time to read it, replace the key", fmt.Errorf("%s is open to every user", path))
	}
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(content)
	if bytes.HasPrefix(content, []byte(armor.Header)) {
		if content, err = a.decryptKey(ctx, content); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		defer secret.Wipe(content)
	}
	signer, err := parseKey(content)
	if err != nil {
		return nil, hint("a key file is PKCS#8 PEM as nodectl operator new writes it", fmt.Errorf("%s: %w", path, err))
	}
	return signer, nil
}

func parseKey(content []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not a private key")
	}
	defer secret.Wipe(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a private key that can be read")
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	return nil, errors.New("a caller's key is Ed25519 or ECDSA P-256")
}

func (a *app) passphraseSource(confirm bool) (secret.Source, error) {
	if path := a.first(a.passphrase, "NODECTL_PASSPHRASE_FILE", ""); path != "" {
		return secret.ParseSource("file:"+path, "passphrase")
	}
	if a.unasked {
		return nil, errors.New("the passphrase would have to be asked for")
	}
	ask, err := secret.ParseSource("prompt", "passphrase")
	if err != nil || !confirm {
		return ask, err
	}
	again, err := secret.ParseSource("prompt", "passphrase again")
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*secret.Bytes, error) {
		once, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		twice, err := again(ctx)
		if err != nil {
			once.Wipe()
			return nil, err
		}
		defer twice.Wipe()
		if !once.Equal(twice) {
			once.Wipe()
			return nil, errors.New("the two passphrases differ")
		}
		return once, nil
	}, nil
}

// passphraseText fetches the passphrase; age wants a string, which no wipe
// reaches.
func passphraseText(ctx context.Context, source secret.Source) (string, error) {
	passphrase, err := source(ctx)
	if err != nil {
		return "", err
	}
	defer passphrase.Wipe()
	if passphrase.Len() == 0 {
		return "", errors.New("the passphrase is empty")
	}
	var text string
	passphrase.With(func(p []byte) { text = string(p) })
	return text, nil
}

func (a *app) decryptKey(ctx context.Context, content []byte) ([]byte, error) {
	source, err := a.passphraseSource(false)
	if err != nil {
		return nil, err
	}
	text, err := passphraseText(ctx, source)
	if err != nil {
		return nil, hint("give the passphrase with --passphrase-file, or on a terminal", err)
	}
	defer a.busy("unlocking the key file")() // scrypt is slow on purpose
	identity, err := age.NewScryptIdentity(text)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(content)), identity)
	if err != nil {
		return nil, hint("check the passphrase", errors.New("the passphrase does not open it, or the file is damaged"))
	}
	return io.ReadAll(io.LimitReader(r, maxKeyFile))
}

// makeKey draws an Ed25519 key and returns the content of its two files. With a
// source the private one is encrypted.
func makeKey(ctx context.Context, name string, passphrase secret.Source) (private, public []byte, fingerprint client.Fingerprint, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fingerprint, err
	}
	defer secret.Wipe(priv)
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, fingerprint, err
	}
	defer secret.Wipe(der)
	private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if passphrase != nil {
		plain := private
		defer secret.Wipe(plain)
		if private, err = encryptKey(ctx, plain, passphrase); err != nil {
			return nil, nil, fingerprint, err
		}
	}
	if fingerprint, err = client.KeyFingerprint(pub); err != nil {
		return nil, nil, fingerprint, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, fingerprint, err
	}
	public = append([]byte("# "+name+"\n"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})...)
	return private, public, fingerprint, nil
}

func encryptKey(ctx context.Context, plain []byte, passphrase secret.Source) ([]byte, error) {
	text, err := passphraseText(ctx, passphrase)
	if err != nil {
		return nil, hint("give the passphrase with --passphrase-file, or on a terminal", err)
	}
	recipient, err := age.NewScryptRecipient(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	armoured := armor.NewWriter(&out)
	w, err := age.Encrypt(armoured, recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), armoured.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// readPublic reads a FILE.pub: a "# name" line, which may be missing, and a
// SubjectPublicKeyInfo PEM. It returns the name and the DER.
func readPublic(path string) (name string, spki []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return "", nil, err
	}
	name, spki, err = parsePublic(content)
	if err != nil {
		return "", nil, hint("give the .pub file that nodectl operator new wrote beside the key", fmt.Errorf("%s: %w", path, err))
	}
	return name, spki, nil
}

func parsePublic(content []byte) (name string, spki []byte, err error) {
	if line, ok := strings.CutPrefix(string(content), "# "); ok {
		name, _, _ = strings.Cut(line, "\n")
		name = strings.TrimSpace(name)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return "", nil, errors.New("no PEM in it")
	}
	if block.Type != "PUBLIC KEY" {
		return "", nil, fmt.Errorf("holds a %.40q, not a PUBLIC KEY", block.Type)
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return "", nil, errors.New("not a public key that can be read")
	}
	return name, block.Bytes, nil
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, content []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return hint("choose another name: a key that is overwritten is gone", fmt.Errorf("%s is there already", path))
	}
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		os.Remove(path) // ours, and not whole
	}
	return err
}
