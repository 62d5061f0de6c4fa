package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"go.yaml.in/yaml/v3"

	"github.com/keycustodian/keycustodian/internal/secret"
)

const planted = "planted-7f3a9c"

type embeds struct {
	Name string
	*secret.Bytes
}

type holds struct{ Secret *secret.Bytes }

type holdsAny struct{ Secret any }

// holders are the places where a secret may lie when something is printed.
func holders(b *secret.Bytes) map[string]any {
	return map[string]any{
		"itself": b, "pointer": &b, "slice": []*secret.Bytes{b}, "array": [1]*secret.Bytes{b},
		"map": map[string]*secret.Bytes{"k": b}, "field": holds{b}, "pointer to field": &holds{b},
		"embedded": embeds{"n", b}, "interface": holdsAny{b}, "deep": []any{map[string]any{"k": &holds{b}}},
	}
}

// shows reports whether a text has the planted secret in it, in any dress.
func shows(text string) bool {
	for _, dress := range []string{
		planted, hex.EncodeToString([]byte(planted)), strings.ToUpper(hex.EncodeToString([]byte(planted))),
		strings.Trim(fmt.Sprint([]byte(planted)), "[]"), "cGxhbnRlZC03ZjNhOWM",
	} {
		if strings.Contains(text, dress) {
			return true
		}
	}
	return false
}

func TestSearcherFindsPlanted(t *testing.T) {
	raw := []byte(planted)
	text, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore S1025 the verb is what is tested
	for _, found := range []string{fmt.Sprintf("%s", raw), fmt.Sprintf("%v", raw), fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw), string(text)} {
		if !shows(found) {
			t.Errorf("does not find it in %s", found)
		}
	}
}

func TestFormattersShowNothing(t *testing.T) {
	b := secret.Take([]byte(planted))
	for name, value := range holders(b) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%T", "%p", "% x", "%10.3s"} {
			if text := fmt.Sprintf(verb, value); shows(text) {
				t.Errorf("%s: %s shows %s", name, verb, text)
			}
		}
		var log bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(handler).Info("m", "k", value, slog.Group("g", "k", value))
			slog.New(handler).With("k", value).Info("m")
		}
		if shows(log.String()) {
			t.Errorf("%s: slog shows %s", name, log.String())
		}
		if text := fmt.Errorf("failed: %v", value).Error(); shows(text) {
			t.Errorf("%s: an error shows %s", name, text)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if text := fmt.Sprintf(verb, b); text != "[secret]" {
			t.Errorf("%s: %s", verb, text)
		}
	}
	if b.String() != "[secret]" || b.GoString() != "[secret]" {
		t.Error("String tells more")
	}
}

// Encoders fail: an encoded placeholder would be taken for the secret later.
func TestEncodersRefuse(t *testing.T) {
	encoders := map[string]func(any) ([]byte, error){
		"json": json.Marshal, "cbor": cbor.Marshal, "yaml": yaml.Marshal,
		"xml": func(v any) ([]byte, error) {
			if m, ok := v.(map[string]*secret.Bytes); ok { // xml has no maps
				v = m["k"]
			}
			return xml.Marshal(v)
		},
		"gob": func(v any) (_ []byte, err error) {
			// gob itself panics on a pointer to a pointer to any GobEncoder.
			defer func() {
				if recover() != nil {
					err = secret.ErrRefused
				}
			}()
			var out bytes.Buffer
			err = gob.NewEncoder(&out).Encode(v)
			return out.Bytes(), err
		},
	}
	for how, encode := range encoders {
		for name, value := range holders(secret.Take([]byte(planted))) {
			if text, err := encode(value); err == nil || shows(string(text)) {
				t.Errorf("%s of %s: %q, %v", how, name, text, err)
			}
		}
		if _, err := encode(secret.New(4)); !errors.Is(err, secret.ErrRefused) {
			t.Errorf("%s: another error: %v", how, err)
		}
	}
	b := secret.Take([]byte(planted))
	if _, err := b.MarshalText(); !errors.Is(err, secret.ErrRefused) {
		t.Errorf("text: %v", err)
	}
	if _, err := b.MarshalBinary(); !errors.Is(err, secret.ErrRefused) {
		t.Errorf("binary: %v", err)
	}
	if err := b.GobDecode(nil); !errors.Is(err, secret.ErrRefused) {
		t.Errorf("gob decodes: %v", err)
	}
}
