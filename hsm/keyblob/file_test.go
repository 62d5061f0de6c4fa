package keyblob_test

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// raw is one element, written by the standard library's encoder.
func raw(t testing.TB, class, tag, length int) []byte {
	t.Helper()
	b, err := asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: make([]byte, length)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Files of every shape that sc-hsm-tool writes, put together by the standard
// library's encoder, are read and written again byte for byte.
func TestFile(t *testing.T) {
	rsa, ec, aes := raw(t, 0, 16, 60), raw(t, 2, 0, 127), raw(t, 2, 8, 128)
	cv, x509 := raw(t, 1, 7, 400), raw(t, 0, 16, 255)
	for name, want := range map[string]keyblob.File{
		"blob only":           {Blob: random(94)},
		"RSA with X.509":      {Blob: random(1099), Description: rsa, Certificate: x509},
		"EC with CV request":  {Blob: random(363), Description: ec, Certificate: cv},
		"AES":                 {Blob: random(94), Description: aes},
		"CV request alone":    {Blob: random(363), Certificate: cv},
		"blob of 127 bytes":   {Blob: random(127)},
		"blob of 256 bytes":   {Blob: random(256)},
		"blob of 4,096 bytes": {Blob: random(4096), Description: rsa},
	} {
		inner, err := asn1.Marshal(want.Blob)
		if err != nil {
			t.Fatal(err)
		}
		inner = append(append(inner, want.Description...), want.Certificate...)
		data, err := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: inner})
		if err != nil {
			t.Fatal(err)
		}
		got, err := keyblob.ParseFile(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.Blob, want.Blob) || !bytes.Equal(got.Description, want.Description) || !bytes.Equal(got.Certificate, want.Certificate) {
			t.Errorf("%s: other parts", name)
		}
		again, err := want.Bytes()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: written differently: %v", name, err)
		}
	}
}

func TestFileRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":                            "",
		"one byte":                         "30",
		"no blob":                          "3000",
		"empty blob":                       "30020400",
		"a set":                            "3103040141",
		"byte left over":                   "300304014100",
		"shorter than said":                "3004040141",
		"length not minimal":               "308103040141",
		"length with a leading zero":       "30820003040141",
		"long length with a zero":          "30820083" + "048180" + strings.Repeat("00", 128),
		"length indefinite":                "30800401410000",
		"length of three bytes":            "3083000003040141",
		"long tag":                         "30051f81010141",
		"blob of another type":             "3003030141",
		"certificate before description":   "300704014167003000",
		"two descriptions, not RSA":        "3007040141a000a800",
		"three parts":                      "30090401413000" + "30003000",
		"unknown part":                     "3005040141a100",
		"part longer than the file":        "3005040141a001",
		"two CV requests":                  "300704014167006700",
		"blob's length beyond the content": "3003040241",
	} {
		if _, err := keyblob.ParseFile(fromHex(t, text)); !errors.Is(err, keyblob.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keyblob.ParseFile(make([]byte, keyblob.MaxFile+1)); !errors.Is(err, keyblob.ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
	x509 := raw(t, 0, 16, 10)
	for name, file := range map[string]keyblob.File{
		"no blob":                            {},
		"large blob":                         {Blob: random(keyblob.MaxBlob + 1)},
		"X.509 without description":          {Blob: random(94), Certificate: x509},
		"two elements as one":                {Blob: random(94), Description: append(bytes.Clone(x509), x509...)},
		"description that is not an element": {Blob: random(94), Description: []byte{1}},
		"too long":                           {Blob: random(94), Description: raw(t, 0, 16, keyblob.MaxFile)},
		"far too long":                       {Blob: random(94), Description: raw(t, 0, 16, 70000)},
	} {
		if _, err := file.Bytes(); !errors.Is(err, keyblob.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
