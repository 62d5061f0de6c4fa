package drivers

import (
	"context"
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

// openSoft opens a software device; host is the seal secret of a host that has
// one, or nil.
func openSoft(ctx context.Context, rest string, host *secret.Bytes) (hsm.Token, error) {
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
	from, hosts := values["seal-source"], false // sealed under the host's secret
	if value, found := values["memory"]; found {
		if path != "" || value != "" || from != "" {
			return hsm.Token{}, errors.New("a device in memory has no path, no seal-source and no value: soft:?memory")
		}
		seal, token.Weakness = secret.Random(secret.KeySize), inMemory
	} else {
		if path == "" {
			return hsm.Token{}, errors.New("a path is needed, as in soft:/var/lib/keycustodian/device")
		}
		options.Path = inFolder(path)
		_, err := os.Stat(besideOf(options.Path))
		switch hosts = from == "" && host != nil && errors.Is(err, fs.ErrNotExist); {
		case hosts:
			seal = host.Clone()
		default:
			if from == "" {
				token.Weakness = sealBeside
			}
			if seal, err = sealOf(ctx, options.Path, from); err != nil {
				return hsm.Token{}, err
			}
		}
	}
	defer seal.Wipe()
	pins, err := derivePINs(&token, seal)
	if err != nil {
		return hsm.Token{}, err
	}
	token.PINDerived = pins.pin != nil
	if options.Path == "" {
		token.Device = soft.NewMemory(options)
		return token, nil
	}
	options.Seal = seal
	device, err := soft.Open(options)
	if err != nil {
		return hsm.Token{}, err // not a Token that holds a nil *soft.Device
	}
	token.Device = device
	switch {
	case from != "":
		token.Reseal = func(_ context.Context, present, _ *secret.Bytes) error { return keepApart(device, present) }
	case hosts:
		token.Reseal = func(ctx context.Context, present, next *secret.Bytes) error {
			return pins.reseal(ctx, device, present, next)
		}
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

// besideOf is where the seal secret of a device without a source lies.
func besideOf(path string) string { return path + ".seal" }

// sealOf fetches the seal secret from its source, or from the file beside the
// device, which it makes for a device that does not exist yet.
func sealOf(ctx context.Context, path, from string) (*secret.Bytes, error) {
	const what = "seal secret"
	if from != "" {
		source, err := given(from, what)
		if err != nil {
			return nil, err
		}
		return secret.Key(ctx, source, what)
	}
	beside := besideOf(path)
	_, err := os.Stat(beside)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(path); err == nil {
			return nil, fmt.Errorf("%w: %s is there but its seal secret %s is not: put that file back or name the secret by seal-source; if it is lost, delete the device file and replace this device, its keys come back from the cluster", hsm.ErrNoSecret, path, beside)
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

// given parses a source; nil where there is none. What it cannot fetch is
// hsm.ErrNoSecret.
func given(from, what string) (secret.Source, error) {
	if from == "" {
		return nil, nil
	}
	source, err := secret.ParseSource(from, what)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*secret.Bytes, error) {
		fetched, err := source(ctx)
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", hsm.ErrNoSecret, err)
		}
		return fetched, err
	}, nil
}
