package keyblob_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/elliptic"
	"crypto/sha256"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

func FuzzUnwrap(f *testing.F) {
	keys := newKeys(f, fixedDKEK())
	for _, key := range []keyblob.PrivateKey{keyblob.AES{Key: make([]byte, 16)}, keyblob.EC{Key: newEC(f, elliptic.P256())}} {
		blob, err := keys.Wrap(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blob)
	}
	f.Fuzz(func(t *testing.T, blob []byte) { _, _ = keys.Unwrap(blob) })
}

// What the right DKEK wrapped may be nonsense too: the fuzzer writes the type
// and the plaintext, the right check value and MAC are put around them. A key
// that is accepted must be wrappable again and come back the same.
func FuzzPlaintext(f *testing.F) {
	keys := newKeys(f, fixedDKEK())
	for _, key := range []keyblob.PrivateKey{
		keyblob.AES{Key: make([]byte, 16)}, keyblob.EC{Key: newEC(f, elliptic.P224())}, keyblob.RSA{Key: newRSA(f, 1024)},
	} {
		blob, err := keys.Wrap(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(key.Type()), open(f, blob))
	}
	f.Add(byte(keyblob.TypeRSACRT), make([]byte, 32))
	f.Add(byte(keyblob.TypeEd25519), make([]byte, 96))
	f.Fuzz(func(t *testing.T, kind byte, plaintext []byte) {
		if len(plaintext) > 2048 {
			return
		}
		key, err := keys.Unwrap(seal(t, kind, plaintext))
		if err != nil {
			return
		}
		again, err := keys.Wrap(key)
		if err != nil {
			t.Fatalf("%s: unwraps and does not wrap: %v", key.Type(), err)
		}
		back, err := keys.Unwrap(again)
		if err != nil || !same(key, back) {
			t.Fatalf("%s: does not come back: %v", key.Type(), err)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	blob, err := newKeys(f, fixedDKEK()).Wrap(keyblob.AES{Key: make([]byte, 16)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Fuzz(func(t *testing.T, blob []byte) {
		header, err := keyblob.ParseHeader(blob)
		if err == nil && (!bytes.Equal(header.KCV[:], blob[:8]) || len(header.Algorithms) > keyblob.MaxAlgorithms) {
			t.Errorf("got %+v", header)
		}
	})
}

// A file that is read is written again byte for byte: there is one way only.
func FuzzParseFile(f *testing.F) {
	f.Add(fromHex(f, "3007040141a0006700"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := keyblob.ParseFile(data)
		if err != nil {
			return
		}
		if again, err := file.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("written differently: %v", err)
		}
	})
}

func fixedDKEK() *secret.Bytes { return secret.Take([]byte("0123456789abcdef0123456789abcdef")) }

// seal and open put the published layout around a plaintext of the fixed DKEK.
func seal(t testing.TB, kind byte, plaintext []byte) []byte {
	oid := map[byte]string{
		5: "04007f00070202020102", 6: "04007f00070202020102", 12: "04007f00070202020203", 15: "6086480165030401", 0xED: "2b6570",
	}[kind]
	return sealWith(t, kind, plaintext, fromHex(t, oid), nil, nil, nil)
}

// sealWith is seal with header fields of any content.
func sealWith(t testing.TB, kind byte, plaintext []byte, fields ...[]byte) []byte {
	blob, enc, mac := wrapping(t)
	blob = append(blob, kind)
	for _, field := range fields {
		blob = append(append(blob, 0, byte(len(field))), field...)
	}
	ciphertext := make([]byte, (len(plaintext)+15)/16*16)
	copy(ciphertext, plaintext)
	cipher.NewCBCEncrypter(enc, make([]byte, 16)).CryptBlocks(ciphertext, ciphertext)
	blob = append(blob, ciphertext...)
	tag := keyblob.CMAC(mac, blob)
	return append(blob, tag[:]...)
}

func open(t testing.TB, blob []byte) []byte {
	header, err := keyblob.ParseHeader(blob)
	if err != nil {
		t.Fatal(err)
	}
	_, enc, _ := wrapping(t)
	start := 17 + len(header.DefaultAlgorithm) + len(header.Algorithms)
	plaintext := bytes.Clone(blob[start : len(blob)-16])
	cipher.NewCBCDecrypter(enc, make([]byte, 16)).CryptBlocks(plaintext, plaintext)
	return plaintext
}

func wrapping(t testing.TB) (kcv []byte, enc, mac cipher.Block) {
	dkek := "0123456789abcdef0123456789abcdef"
	sum := sha256.Sum256([]byte(dkek))
	one, two := sha256.Sum256([]byte(dkek+"\x00\x00\x00\x01")), sha256.Sum256([]byte(dkek+"\x00\x00\x00\x02"))
	enc, err := aes.NewCipher(one[:])
	if err != nil {
		t.Fatal(err)
	}
	mac, err = aes.NewCipher(two[:])
	if err != nil {
		t.Fatal(err)
	}
	return sum[:8], enc, mac
}

// What a hardware key costs on its way back into a software device.
func BenchmarkUnwrap(b *testing.B) {
	keys := newKeys(b, fixedDKEK())
	for name, key := range map[string]keyblob.PrivateKey{
		"aes-256": keyblob.AES{Key: random(32)}, "p-256": keyblob.EC{Key: newEC(b, elliptic.P256())},
		"p-521": keyblob.EC{Key: newEC(b, elliptic.P521())}, "rsa-2048": keyblob.RSA{Key: newRSA(b, 2048)}, "rsa-4096": keyblob.RSA{Key: newRSA(b, 4096)},
	} {
		blob, err := keys.Wrap(key)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := keys.Unwrap(blob); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
