package hsmtest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
)

const (
	userPIN      = "648219"
	defaultSOPIN = "3537363231383830"
)

// bench is a device with what the tests know about it.
type bench struct {
	hsm.Device
	t     *testing.T
	soPIN string
	dkek  []byte
}

// open returns a device as the fixture gives it.
func (s Suite) open(t *testing.T) (*bench, Fixture) {
	t.Helper()
	f := s.Open(t)
	b := &bench{Device: f.Device, t: t, soPIN: f.SOPIN}
	if b.soPIN == "" {
		b.soPIN = defaultSOPIN
	}
	return b, f
}

// ready returns a logged-in device that has this DKEK, or a random one for nil.
func (s Suite) ready(t *testing.T, dkek []byte) *bench {
	t.Helper()
	b, _ := s.open(t)
	b.prepare(dkek)
	return b
}

func (b *bench) prepare(dkek []byte) {
	b.t.Helper()
	if dkek == nil {
		dkek = random(hsm.ShareSize)
	}
	b.dkek = dkek
	b.init(2)
	b.login()
	first := random(hsm.ShareSize)
	second := make([]byte, hsm.ShareSize)
	subtle.XORBytes(second, dkek, first)
	for _, share := range [][]byte{first, second} {
		_, err := b.ImportShare(b.t.Context(), hsm.NewSecret(share))
		b.ok(err, "ImportShare")
	}
}

func (b *bench) init(shares int) {
	b.t.Helper()
	b.ok(b.Initialise(b.t.Context(), hsm.InitOptions{
		Label: "conformance", SOPIN: text(b.soPIN), PIN: text(userPIN), Shares: shares,
	}), "Initialise")
}

func (b *bench) login() {
	b.t.Helper()
	b.ok(b.Login(b.t.Context(), text(userPIN)), "Login")
}

func (b *bench) generate(slot hsm.Slot, keyType hsm.KeyType) hsm.Object {
	b.t.Helper()
	object, err := b.Generate(b.t.Context(), slot, keyType, hsm.Attributes{Label: string(keyType)})
	b.ok(err, "Generate "+string(keyType))
	return object
}

func (b *bench) list() []hsm.Object {
	b.t.Helper()
	objects, err := b.List(b.t.Context())
	b.ok(err, "List")
	return objects
}

func (b *bench) state(want hsm.State) {
	b.t.Helper()
	info, err := b.Info(b.t.Context())
	b.ok(err, "Info")
	if info.State != want {
		b.t.Errorf("state is %q, want %q", info.State, want)
	}
}

func (b *bench) ok(err error, what string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// refused wants err to be this sentinel, as an operation that was not done.
func (b *bench) refused(err error, want error, what string) {
	b.t.Helper()
	var known *hsm.Error
	if !errors.Is(err, want) {
		b.t.Errorf("%s: got %v, want %v", what, err, want)
	} else if !errors.As(err, &known) {
		b.t.Errorf("%s: %T is no *hsm.Error", what, err)
	}
}

// small is a quick key type that the device makes.
func (s Suite) small(b *bench) hsm.KeyType {
	b.t.Helper()
	for _, t := range []hsm.KeyType{hsm.ECDSAP256, hsm.ECDSAP384, hsm.AES256, hsm.RSA2048} {
		if b.Capabilities().Supports(t) {
			return t
		}
	}
	b.t.Fatal("the device makes no key that every device should")
	return ""
}

func text(s string) *hsm.Secret { return hsm.NewSecret([]byte(s)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func kcv(dkek []byte) (v hsm.KCV) {
	sum := sha256.Sum256(dkek)
	copy(v[:], sum[:])
	return v
}
