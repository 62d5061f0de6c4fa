package keyblob_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// request and answer are those of testdata/blob.py, a program that shares
// nothing with this package: it has the layout from docs/format.md.
type request struct {
	Op         string            `json:"op"`
	DKEK       string            `json:"dkek,omitempty"`
	Type       int               `json:"type"`
	Bits       int               `json:"bits"`
	Curve      string            `json:"curve,omitempty"`
	Algorithms string            `json:"algorithms"`
	Numbers    map[string]string `json:"numbers"`
	Replace    map[string]string `json:"replace,omitempty"`
	Lean       bool              `json:"lean"`
	Blob       string            `json:"blob,omitempty"`
	Password   string            `json:"password,omitempty"`
	Salt       string            `json:"salt,omitempty"`
	Share      string            `json:"share,omitempty"`
	Rounds     int               `json:"rounds,omitempty"`
}

type answer struct {
	Blob       string            `json:"blob"`
	File       string            `json:"file"`
	Type       int               `json:"type"`
	Bits       int               `json:"bits"`
	Algorithms string            `json:"algorithms"`
	Numbers    map[string]string `json:"numbers"`
}

// Blobs of every type and size that another program built are read: as the
// vendor lays them out, leanly, and RSA with CRT values too.
func TestUnwrapForeignBlobs(t *testing.T) {
	dkek := random(32)
	keys := newKeys(t, secret.Take(bytes.Clone(dkek)))
	var requests []request
	var want []keyblob.PrivateKey
	for _, key := range everyKey(t) {
		for _, lean := range []bool{false, true} {
			q := describe(key)
			q.Op, q.DKEK, q.Lean, q.Algorithms = "build", hex.EncodeToString(dkek), lean, "1092"
			requests, want = append(requests, q), append(want, key)
			if q.Type == 5 {
				q.Type = 6
				requests, want = append(requests, q), append(want, key)
			}
		}
	}
	for i, a := range ask(t, requests) {
		back, err := keys.Unwrap(fromHex(t, a.Blob))
		if err != nil {
			t.Errorf("type %d of %d bits, lean %v: %v", requests[i].Type, requests[i].Bits, requests[i].Lean, err)
			continue
		}
		if !same(want[i], back) {
			t.Errorf("type %d of %d bits, lean %v: another key", requests[i].Type, requests[i].Bits, requests[i].Lean)
		}
		if list := algorithmsOf(back); string(list) != "\x10\x92" {
			t.Errorf("type %d: algorithm list %x", requests[i].Type, list)
		}
	}
}

// What Wrap writes is what another program reads there, in full width and with
// the default list.
func TestForeignProgramReadsBlobs(t *testing.T) {
	dkek := random(32)
	keys := newKeys(t, secret.Take(bytes.Clone(dkek)))
	lists := map[int]string{5: "202133404392", 12: "70738092", 15: "1011189992", 0xED: "ed92"}
	var requests, want []request
	for _, key := range everyKey(t) {
		blob, err := keys.Wrap(key)
		if err != nil {
			t.Fatal(err)
		}
		q := describe(key)
		want = append(want, q)
		requests = append(requests, request{Op: "read", DKEK: hex.EncodeToString(dkek), Blob: hex.EncodeToString(blob), Curve: q.Curve})
	}
	for i, a := range ask(t, requests) {
		if a.Type != want[i].Type || a.Bits != want[i].Bits || a.Algorithms != lists[a.Type] {
			t.Errorf("type %d, %d bits, list %s; want %d, %d, %s", a.Type, a.Bits, a.Algorithms, want[i].Type, want[i].Bits, lists[a.Type])
		}
		for name, value := range want[i].Numbers {
			if name == "p" || name == "q" {
				continue // not in a blob of type 5
			}
			if number(t, a.Numbers[name]).Cmp(number(t, value)) != 0 {
				t.Errorf("type %d of %d bits: %s differs", a.Type, a.Bits, name)
			}
		}
	}
}

// Keys whose parts do not belong together are refused, though MAC and layout
// are right.
func TestUnwrapRefusesForeignNonsense(t *testing.T) {
	dkek := random(32)
	keys := newKeys(t, secret.Take(bytes.Clone(dkek)))
	all := everyKey(t)
	one, other := describe(all["rsa-1024"]), describe(all["rsa-2048"])
	crt := one
	crt.Type = 6
	ec, ed := describe(all["P-256"]), describe(all["ed25519"])
	wide := describe(all["P-384"])
	brainpool := ec
	brainpool.Curve = "brainpoolP256r1"
	koblitz := ec
	koblitz.Curve = "secp256k1"
	old := ec
	old.Curve, old.Bits = "prime192v1", 192
	bits := func(q request, bits int) request { q.Bits = bits; return q }
	with := func(q request, name, value string) request {
		q.Replace = map[string]string{name: value}
		return q
	}
	zero := "00"
	tests := []struct {
		name string
		q    request
		want error
	}{
		{"another modulus", with(one, "n", hex.EncodeToString(append([]byte{0x80}, random(127)...))), keyblob.ErrMalformed},
		{"an even modulus", with(one, "n", one.Numbers["n"][:254]+"fe"), keyblob.ErrMalformed},
		{"private exponent one", with(one, "d", "01"), keyblob.ErrMalformed},
		{"private exponent zero", with(one, "d", zero), keyblob.ErrMalformed},
		{"public exponent zero", with(one, "e", zero), keyblob.ErrMalformed},
		{"public exponent even", with(one, "e", "010000"), keyblob.ErrUnsupported},
		{"public exponent huge", with(one, "e", "0100000001"), keyblob.ErrUnsupported},
		{"size of another modulus", bits(one, 1032), keyblob.ErrMalformed},
		{"modulus of 512 bits", bits(one, 512), keyblob.ErrUnsupported},
		{"modulus of 8192 bits", bits(one, 8192), keyblob.ErrUnsupported},
		{"longer modulus than said", with(one, "n", other.Numbers["n"]), keyblob.ErrMalformed},
		{"dP wrong", with(crt, "dP", one.Numbers["p"]), keyblob.ErrMalformed},
		{"dQ zero", with(crt, "dQ", zero), keyblob.ErrMalformed},
		{"qInv zero", with(crt, "qInv", zero), keyblob.ErrMalformed},
		{"p zero", with(crt, "p", zero), keyblob.ErrMalformed},
		{"p one", with(crt, "p", "01"), keyblob.ErrMalformed},
		{"q is p", with(crt, "q", one.Numbers["p"]), keyblob.ErrMalformed},
		{"scalar zero", with(ec, "d", zero), keyblob.ErrMalformed},
		{"scalar one", with(ec, "d", "01"), keyblob.ErrMalformed},
		{"scalar over the order", with(ec, "d", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"), keyblob.ErrMalformed},
		{"public key off the curve", with(ec, "Q", "04"+ec.Numbers["d"]+ec.Numbers["d"]), keyblob.ErrMalformed},
		{"public key empty", with(ec, "Q", ""), keyblob.ErrMalformed},
		{"public key compressed", with(ec, "Q", "02"+ec.Numbers["Q"][2:66]), keyblob.ErrMalformed},
		{"another A", with(ec, "A", "01"), keyblob.ErrMalformed},
		{"another B", with(ec, "B", "01"), keyblob.ErrMalformed},
		{"another order", with(ec, "order", "01"), keyblob.ErrMalformed},
		{"another base point", with(ec, "G", ec.Numbers["Q"]), keyblob.ErrMalformed},
		{"another size", bits(ec, 255), keyblob.ErrMalformed},
		{"the size of another curve", bits(ec, 384), keyblob.ErrUnsupported},
		{"field of another curve", with(ec, "P", "01"), keyblob.ErrUnsupported},
		{"parts of two curves", with(ec, "d", wide.Numbers["d"]), keyblob.ErrMalformed},
		{"brainpool", brainpool, keyblob.ErrUnsupported},
		{"secp256k1", koblitz, keyblob.ErrUnsupported},
		{"P-192", old, keyblob.ErrUnsupported},
		{"Ed25519 public half of another", with(ed, "public", ec.Numbers["d"]), keyblob.ErrMalformed},
		{"Ed25519 seed short", with(ed, "seed", "01"), keyblob.ErrMalformed},
		{"Ed25519 size", bits(ed, 256), keyblob.ErrUnsupported},
		{"AES of 20 bytes", bits(describe(all["aes-192"]), 20), keyblob.ErrUnsupported},
		{"AES longer than said", bits(describe(all["aes-256"]), 16), keyblob.ErrMalformed},
		{"AES shorter than said", bits(describe(all["aes-128"]), 32), keyblob.ErrMalformed},
	}
	requests := make([]request, len(tests))
	for i, test := range tests {
		requests[i] = test.q
		requests[i].Op, requests[i].DKEK = "build", hex.EncodeToString(dkek)
	}
	for i, a := range ask(t, requests) {
		test := tests[i]
		_, err := keys.Unwrap(fromHex(t, a.Blob))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), ec.Numbers["d"][:16]) {
			t.Errorf("%s: the error tells the key", test.name)
		}
	}
}

// Blobs made once by blob.py, so that a change of what is read is seen also
// where there is no python3.
func TestGoldenBlobs(t *testing.T) {
	text, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden []request
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden) < 6 {
		t.Fatalf("only %d blobs", len(golden))
	}
	for _, q := range golden {
		key, err := keyblob.Unwrap(secret.Take(fromHex(t, q.DKEK)), fromHex(t, q.Blob))
		if err != nil {
			t.Errorf("type %d: %v", q.Type, err)
			continue
		}
		for name, value := range describe(key).Numbers {
			if number(t, value).Cmp(number(t, q.Numbers[name])) != 0 {
				t.Errorf("type %d: %s differs", q.Type, name)
			}
		}
	}
}

// describe gives a key's numbers under the names of the layout.
func describe(key keyblob.PrivateKey) request {
	text := hex.EncodeToString
	switch k := key.(type) {
	case keyblob.RSA:
		// In the order that the blob's reader will choose.
		p, q := k.Key.Primes[0], k.Key.Primes[1]
		if p.Cmp(q) < 0 {
			p, q = q, p
		}
		return request{Type: 5, Bits: k.Key.N.BitLen(), Numbers: map[string]string{
			"n": text(k.Key.N.Bytes()), "d": text(k.Key.D.Bytes()), "e": text(big.NewInt(int64(k.Key.E)).FillBytes(make([]byte, 4))),
			"p": text(p.Bytes()), "q": text(q.Bytes()),
		}}
	case keyblob.EC:
		d, _ := k.Key.Bytes()
		q, _ := k.Key.PublicKey.Bytes()
		curve := map[string]string{"P-224": "secp224r1", "P-256": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1"}
		params := k.Key.Curve.Params()
		return request{Type: 12, Bits: params.BitSize, Curve: curve[params.Name], Numbers: map[string]string{"d": text(d), "Q": text(q)}}
	case keyblob.Ed25519:
		return request{Type: 0xED, Bits: 255, Numbers: map[string]string{"seed": text(k.Key[:32]), "public": text(k.Key[32:])}}
	case keyblob.AES:
		return request{Type: 15, Bits: len(k.Key), Numbers: map[string]string{"key": text(k.Key)}}
	}
	return request{}
}

func algorithmsOf(key keyblob.PrivateKey) []byte {
	switch k := key.(type) {
	case keyblob.RSA:
		return k.Algorithms
	case keyblob.EC:
		return k.Algorithms
	case keyblob.Ed25519:
		return k.Algorithms
	case keyblob.AES:
		return k.Algorithms
	}
	return nil
}

// ask runs blob.py once for all requests.
func ask(t *testing.T, requests []request) []answer {
	t.Helper()
	for _, name := range []string{"python3", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("needs %s: make deps", name)
		}
	}
	input, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("python3", "testdata/blob.py")
	command.Stdin, command.Stderr = bytes.NewReader(input), os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("blob.py: %v", err)
	}
	var answers []answer
	if err := json.Unmarshal(output, &answers); err != nil {
		t.Fatal(err)
	}
	if len(answers) != len(requests) {
		t.Fatalf("%d answers to %d requests", len(answers), len(requests))
	}
	return answers
}

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func number(t testing.TB, text string) *big.Int {
	t.Helper()
	return new(big.Int).SetBytes(fromHex(t, text))
}
