package drivers

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Weaknesses of software devices, as hsm.Token.Weakness has them.
const (
	sealBeside = "one disk is the DKEK: the seal secret lies beside the device file"
	inMemory   = "the device is gone with this process: it is in memory only"
)

func openSoft(ctx context.Context, rest string, atHand hsm.Source) (hsm.Token, error) {
	path, values, err := parse(rest, "memory", "pin-source", "seal-source", "slots", "so-pin-source")
	if err != nil {
		return hsm.Token{}, err
	}
	options := soft.Options{}
	if text, found := values["slots"]; found {
		if options.Slots, err = strconv.Atoi(text); err != nil || options.Slots < 1 || options.Slots > soft.MaxSlots {
			return hsm.Token{}, fmt.Errorf("slots wants a number from 1 to %d", soft.MaxSlots)
		}
	}
	token, seal := hsm.Token{}, (*secret.Bytes)(nil)
	if token.PIN, err = given(values["pin-source"], "PIN"); err != nil {
		return hsm.Token{}, err
	}
	if token.SOPIN, err = given(values["so-pin-source"], "SO-PIN"); err != nil {
		return hsm.Token{}, err
	}
	if value, found := values["memory"]; found {
		if path != "" || value != "" || values["seal-source"] != "" {
			return hsm.Token{}, errors.New("a device in memory has no path, no seal-source and no value: soft:?memory")
		}
		seal, token.Weakness = secret.Random(secret.KeySize), inMemory
	} else {
		if path == "" {
			return hsm.Token{}, errors.New("a path is needed, as in soft:/var/lib/keycustodian/device")
		}
		options.Path = inFolder(path)
		if seal, err = sealOf(ctx, options.Path, values["seal-source"], atHand); err != nil {
			return hsm.Token{}, err
		}
		if values["seal-source"] == "" {
			token.Weakness = sealBeside
		}
	}
	defer seal.Wipe()
	if err := derivePINs(&token, seal); err != nil {
		return hsm.Token{}, err
	}
	if options.Path == "" {
		token.Device = soft.NewMemory(options)
		return token, nil
	}
	options.Seal = seal
	token.Device, err = soft.Open(options)
	if err != nil {
		return hsm.Token{}, err // not a Token that holds a nil *soft.Device
	}
	return token, nil
}

// inFolder lets a path name the folder of a device.
func inFolder(path string) string {
	info, err := os.Stat(path)
	if strings.HasSuffix(path, "/") || err == nil && info.IsDir() {
		return filepath.Join(path, "device")
	}
	return path
}

// sealOf fetches the seal secret from its source, or from the file beside the
// device, which it makes for a device that does not exist yet.
func sealOf(ctx context.Context, path, from string, atHand hsm.Source) (*secret.Bytes, error) {
	const what = "seal secret"
	if from == "prompt" && atHand != nil {
		return secret.Key(ctx, atHand, what)
	}
	if from != "" {
		source, err := secret.ParseSource(from, what)
		if err != nil {
			return nil, err
		}
		return secret.Key(ctx, source, what)
	}
	beside := path + ".seal"
	_, err := os.Stat(beside)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(path); err == nil {
			return nil, fmt.Errorf("%s is there but its seal secret %s is not: put that file back or name the secret by seal-source; if it is lost, delete the device file and replace this device, its keys come back from the cluster", path, beside)
		}
		err = makeSeal(beside)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	source, err := secret.ParseSource("file:"+beside, what)
	if err != nil {
		return nil, err
	}
	return secret.Key(ctx, source, what)
}

// makeSeal writes a new seal secret, whole or not at all, and never over one
// that another process made meanwhile.
func makeSeal(path string) error {
	seal := secret.Random(secret.KeySize)
	defer seal.Wipe()
	text := make([]byte, 2*secret.KeySize+1)
	defer secret.Wipe(text)
	seal.With(func(p []byte) { hex.Encode(text, p) })
	text[len(text)-1] = '\n'
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return secret.SyncFolder(filepath.Dir(path))
}

// given parses the source of a PIN; nil where there is none.
func given(from, what string) (secret.Source, error) {
	if from == "" {
		return nil, nil
	}
	return secret.ParseSource(from, what)
}

// derivePINs fills in the PINs that have no source.
func derivePINs(token *hsm.Token, seal *secret.Bytes) (err error) {
	if token.PIN == nil {
		if token.PIN, err = derived(seal, "PIN", userPIN); err != nil {
			return err
		}
	}
	if token.SOPIN == nil {
		token.SOPIN, err = derived(seal, "SO-PIN", soPIN)
	}
	return err
}

func derived(seal *secret.Bytes, what string, form func(key []byte) []byte) (secret.Source, error) {
	var pin *secret.Bytes
	var err error
	seal.With(func(p []byte) {
		var key []byte
		if key, err = hkdf.Key(sha256.New, p, nil, "keycustodian v1 soft device "+what, 32); err == nil {
			pin = secret.Take(form(key))
			secret.Wipe(key)
		}
	})
	if err != nil {
		return nil, err
	}
	return secret.Fixed(pin), nil
}

// userPIN makes 15 digits, the longest PIN. That ten does not divide 256 costs
// less than a bit.
func userPIN(key []byte) []byte {
	pin := make([]byte, 15)
	for i := range pin {
		pin[i] = '0' + key[i]%10
	}
	return pin
}

// soPIN makes 16 hexadecimal digits.
func soPIN(key []byte) []byte { return hex.AppendEncode(nil, key[:8]) }
