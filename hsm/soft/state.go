package soft

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// state is everything a device knows but its keys. It is changed by writing a
// changed copy and then taking that: a failed write changes nothing.
type state struct {
	serial      string
	label       string
	initialised bool
	tries       int // of the user PIN
	left        int // of them
	soLeft      int
	shares      int
	missing     int
	salt        [16]byte
	pin         [sha256.Size]byte
	soPIN       [sha256.Size]byte
	// dkek is the XOR of the shares so far. States share it; it is never
	// changed in place.
	dkek *secret.Bytes
}

func newState(serial string) state {
	return state{serial: serial, soLeft: soTries, dkek: secret.New(hsm.ShareSize)}
}

// newSerial draws KCS and ten hexadecimal digits.
func newSerial() string {
	var b [5]byte
	rand.Read(b[:])
	return "KCS" + string(appendUpperHex(nil, b[:]))
}

func appendUpperHex(dst, src []byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, b := range src {
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	return dst
}

func (s state) status() hsm.State {
	switch {
	case !s.initialised:
		return hsm.Blank
	case s.missing > 0:
		return hsm.SharesMissing
	}
	return hsm.Ready
}

// encode returns the kindState record, which holds the DKEK: the caller wipes.
func (s state) encode() []byte {
	const fixed = 1 + 2 + 6 + 16 + 2*sha256.Size + hsm.ShareSize
	b := make([]byte, 0, fixed+len(s.serial)+len(s.label))
	b = append(b, kindState)
	b = append(append(b, byte(len(s.serial))), s.serial...)
	b = append(append(b, byte(len(s.label))), s.label...)
	initialised := byte(0)
	if s.initialised {
		initialised = 1
	}
	b = append(b, initialised, byte(s.tries), byte(s.left), byte(s.soLeft), byte(s.shares), byte(s.missing))
	b = append(b, s.salt[:]...)
	b = append(b, s.pin[:]...)
	b = append(b, s.soPIN[:]...)
	s.dkek.With(func(p []byte) { b = append(b, p...) })
	return b
}

// decodeState reads the record after its kind.
func decodeState(b []byte) (state, error) {
	r := &reader{b: b}
	s := state{serial: string(r.take(int(r.byte()))), label: string(r.take(int(r.byte())))}
	initialised := r.byte()
	s.initialised = initialised == 1
	s.tries, s.left, s.soLeft = int(r.byte()), int(r.byte()), int(r.byte())
	s.shares, s.missing = int(r.byte()), int(r.byte())
	copy(s.salt[:], r.take(len(s.salt)))
	copy(s.pin[:], r.take(len(s.pin)))
	copy(s.soPIN[:], r.take(len(s.soPIN)))
	dkek := r.take(hsm.ShareSize)
	if r.failed || len(r.b) != 0 || initialised > 1 || s.serial == "" || len(s.serial) > maxSerial || len(s.label) > maxInitLabel ||
		s.tries > maxTries || s.left > s.tries || s.soLeft > soTries || s.missing > s.shares || s.initialised != (s.shares > 0) {
		return state{}, errRecord
	}
	s.dkek = secret.New(hsm.ShareSize)
	s.dkek.With(func(p []byte) { copy(p, dkek) })
	return s, nil
}

// setPINs stores check values only. A fast hash is enough for so short a
// secret: it lies in a sealed record, beside the DKEK itself.
func (s *state) setPINs(pin, soPIN *secret.Bytes) {
	rand.Read(s.salt[:])
	s.pin = s.check('U', pin)
	s.soPIN = s.check('S', soPIN)
}

func (s *state) check(kind byte, pin *secret.Bytes) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, s.salt[:])
	mac.Write([]byte{kind})
	pin.With(func(p []byte) { mac.Write(p) })
	mac.Sum(sum[:0])
	return sum
}

func (s *state) isPIN(pin *secret.Bytes) bool {
	sum := s.check('U', pin)
	return subtle.ConstantTimeCompare(sum[:], s.pin[:]) == 1
}

func (s *state) isSOPIN(soPIN *secret.Bytes) bool {
	sum := s.check('S', soPIN)
	return subtle.ConstantTimeCompare(sum[:], s.soPIN[:]) == 1
}

// withShare returns the DKEK with one more share XORed in.
func (s *state) withShare(share *secret.Bytes) *secret.Bytes {
	sum := s.dkek.Clone()
	sum.With(func(p []byte) {
		share.With(func(q []byte) { subtle.XORBytes(p, p, q) })
	})
	return sum
}

// goodPIN reports whether a user PIN has a length that a device takes.
func goodPIN(pin *secret.Bytes) bool { return pin.Len() >= minPIN && pin.Len() <= maxPIN }

// soBytes returns the 8 bytes of an SO-PIN given as such or as 16 hexadecimal
// digits; the caller wipes. nil: it is neither.
func soBytes(soPIN *secret.Bytes) *secret.Bytes {
	switch soPIN.Len() {
	case soPINSize:
		return soPIN.Clone()
	case 2 * soPINSize:
		out := secret.New(soPINSize)
		var err error
		soPIN.With(func(p []byte) {
			out.With(func(q []byte) { _, err = hex.Decode(q, p) })
		})
		if err != nil {
			out.Wipe()
			return nil
		}
		return out
	}
	return nil
}
