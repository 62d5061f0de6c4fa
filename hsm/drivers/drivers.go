// Package drivers opens devices by URI.
//
// Use [Open], or [OpenWith] where the host has a seal secret of its own; print a
// URI only through [Redact].
//
//	soft:/var/lib/keycustodian/device?seal-source=file:/run/credentials/seal
//	soft:/var/lib/keycustodian        a folder: the file "device" in it
//	soft:?memory                      gone with the process
//
// Parameters of soft are seal-source, pin-source and so-pin-source (file:PATH,
// credential:NAME, fd:N or prompt, see [hsm.ParseSource]), slots=N, and memory.
// A URI never holds a secret itself: pin-value is refused.
//
// A software device needs PINs like a card. Where no source is named they are
// derived from the seal secret, so that the host always logs in the same way.
//
// Guaranteed: no error repeats a parameter's value; one that is hsm.ErrNoSecret
// means that a source has nothing now, and that asking later may do. Not
// guaranteed: that the device is initialised; ask its Info.
//
//	token, err := drivers.Open(ctx, "soft:/var/lib/keycustodian/device?seal-source=credential:seal")
//	defer token.Close()
package drivers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/hsm"
)

// ErrNoHardware means that this binary has no driver for hardware.
var ErrNoHardware = errors.New("this binary was built without hardware drivers: build with -tags pkcs11")

// Open opens the device that a URI names. The caller closes it. A software
// device without a seal-source gets a secret of its own in a file beside it.
func Open(ctx context.Context, uri string) (hsm.Token, error) { return openURI(ctx, uri, nil) }

// OpenWith is Open for a host with a 32-byte seal secret, which also seals a
// software device whose URI names no seal-source: one secret for both, that lies
// on no data disk. The caller keeps and wipes it. Where the host changes it, the
// token's Reseal takes the device along. A device that Open has made keeps the
// secret beside it.
func OpenWith(ctx context.Context, uri string, seal *hsm.Secret) (hsm.Token, error) {
	return openURI(ctx, uri, seal)
}

func openURI(ctx context.Context, uri string, seal *hsm.Secret) (hsm.Token, error) {
	if err := ctx.Err(); err != nil {
		return hsm.Token{}, err
	}
	scheme, rest, found := strings.Cut(uri, ":")
	switch {
	case found && scheme == "soft":
		token, err := openSoft(ctx, rest, seal)
		if err != nil {
			return hsm.Token{}, fmt.Errorf("drivers: open %s: %w", Redact(uri), err)
		}
		return token, nil
	case found && (scheme == "smartcard-hsm" || scheme == "pkcs11"):
		return hsm.Token{}, fmt.Errorf("drivers: open %s: device: %w", scheme, ErrNoHardware)
	}
	return hsm.Token{}, errors.New("drivers: open: a device URI begins with soft:, with smartcard-hsm: or with pkcs11: in front of its path")
}

// parse takes the part after the scheme apart and refuses parameters that are
// not among known.
func parse(rest string, known ...string) (path string, values map[string]string, err error) {
	rawPath, rawQuery, _ := strings.Cut(rest, "?")
	if path, err = url.PathUnescape(rawPath); err != nil {
		return "", nil, errors.New("the path has a broken % escape")
	}
	if strings.ContainsAny(path, "#\x00") {
		return "", nil, errors.New("the path has a character that a device path cannot have")
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "", nil, errors.New("the parameters do not parse: name=value, joined by &")
	}
	values = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case name == "pin-value" || name == "so-pin-value":
			return "", nil, fmt.Errorf("%s is refused, a URI ends up in process lists and logs: use %s=file:PATH", name, strings.TrimSuffix(name, "value")+"source")
		case !slices.Contains(known, name):
			return "", nil, fmt.Errorf("unknown parameter %.40q: one of %s", name, strings.Join(known, ", "))
		case len(query[name]) > 1:
			return "", nil, fmt.Errorf("parameter %s is given twice", name)
		}
		values[name] = query[name][0]
	}
	return path, values, nil
}
