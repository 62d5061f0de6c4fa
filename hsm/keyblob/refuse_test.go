package keyblob_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// No formatter or encoder gets at a private key, by value, by pointer or from
// within something else.
func TestKeysAreNotPrinted(t *testing.T) {
	raw := random(32)
	planted := []string{string(raw), hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)), fmt.Sprint(raw)}
	key := keyblob.AES{Key: raw}
	for _, value := range []any{key, &key, []keyblob.AES{key}, map[string]keyblob.PrivateKey{"k": key}, struct{ K keyblob.PrivateKey }{key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			refuseText(t, verb, fmt.Sprintf(verb, value), planted)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", value)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "key", value)
		refuseText(t, "slog", log.String(), planted)
		if text, err := json.Marshal(value); err == nil {
			t.Errorf("json of %T: %s", value, text)
		}
	}
	for _, value := range []any{key, keyblob.EC{Key: newEC(t, elliptic.P256())}, keyblob.RSA{Key: newRSA(t, 1024)}, keyblob.Ed25519{Key: make([]byte, 64)}} {
		if _, err := xml.Marshal(value); err == nil {
			t.Errorf("xml of %T", value)
		}
		if err := gob.NewEncoder(new(bytes.Buffer)).Encode(value); err == nil {
			t.Errorf("gob of %T", value)
		}
		if text := fmt.Sprintf("%+v", value); text != "[private key]" {
			t.Errorf("%T prints as %s", value, text)
		}
	}
}

func refuseText(t *testing.T, how, text string, planted []string) {
	t.Helper()
	for _, p := range planted {
		if strings.Contains(text, p) {
			t.Errorf("%s shows the key: %s", how, text)
		}
	}
}

// Wipe reaches the numbers that the caller handed in.
func TestWipe(t *testing.T) {
	one, ec, raw := newRSA(t, 1024), newEC(t, elliptic.P256()), random(32)
	//lint:ignore SA1019 big.Int is what has to be wiped
	words := ec.D.Bits()
	keyblob.RSA{Key: one}.Wipe()
	keyblob.EC{Key: ec}.Wipe()
	keyblob.AES{Key: raw}.Wipe()
	//lint:ignore SA1019 big.Int is what has to be wiped
	if one.D.Sign() != 0 || one.Primes[0].Sign() != 0 || one.Precomputed.Dp.Sign() != 0 || ec.D.Sign() != 0 || !bytes.Equal(raw, make([]byte, 32)) {
		t.Error("something is left")
	}
	for _, w := range words {
		if w != 0 {
			t.Error("the scalar's words are left")
		}
	}
}
