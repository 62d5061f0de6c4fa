package dkek

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// The binary form: magic (8) || set (8) || threshold (1) || KCV (8) || x (1) ||
// y (32) || first 8 bytes of SHA-256 of all before them. The text form is
// plainPrefix and its base32 without padding, in groups of five.
const (
	plainMagic   = "KCPLAIN1"
	plainSumSize = 8
	plainBody    = len(plainMagic) + len(SetID{}) + 1 + len(KCV{}) + 1 + Size
	plainSize    = plainBody + plainSumSize
	plainPrefix  = "KCPLAIN-"
	plainMaxText = 512
	plainGroup   = 5
	plainXAt     = plainBody - Size - 1
)

// Binary returns the share's 66 bytes for a file.
func (s *PlainShare) Binary() (*Secret, error) {
	if s.point.Len() != Size+1 {
		return nil, &ShareError{Op: "write plain share", Reason: Wiped}
	}
	out := secret.New(plainSize)
	out.With(func(q []byte) {
		b := append(q[:0], plainMagic...)
		b = append(b, s.set[:]...)
		b = append(b, byte(s.threshold))
		b = append(b, s.kcv[:]...)
		s.point.With(func(p []byte) {
			b = append(b, p[Size])
			b = append(b, p[:Size]...)
		})
		sum := sha256.Sum256(b)
		copy(q[plainBody:], sum[:])
	})
	return out, nil
}

// Text returns the share as letters, digits and dashes, for paper.
func (s *PlainShare) Text() (*Secret, error) {
	binary, err := s.Binary()
	if err != nil {
		return nil, err
	}
	defer binary.Wipe()
	var text *Secret
	binary.With(func(p []byte) {
		letters := make([]byte, base32.StdEncoding.WithPadding(base32.NoPadding).EncodedLen(plainSize))
		base32.StdEncoding.WithPadding(base32.NoPadding).Encode(letters, p)
		out := make([]byte, 0, 2*len(letters))
		out = append(out, plainPrefix...)
		for i, letter := range letters {
			if i > 0 && i%plainGroup == 0 {
				out = append(out, '-')
			}
			out = append(out, letter)
		}
		secret.Wipe(letters)
		text = secret.Take(out)
	})
	return text, nil
}

// ParsePlainShare reads either form; in text, case, spaces, line ends and dashes
// do not matter.
func ParsePlainShare(data *Secret) (*PlainShare, error) {
	var share *PlainShare
	reason := BadFormat
	data.With(func(p []byte) {
		binary := p
		switch {
		case bytes.HasPrefix(p, []byte(fileMagic)):
			reason = WrongKind
			return
		case !bytes.HasPrefix(p, []byte(plainMagic)):
			binary = make([]byte, plainSize)
			defer secret.Wipe(binary)
			if reason = plainText(binary, p); reason != "" {
				return
			}
		}
		share, reason = parsePlain(binary)
	})
	if reason != "" {
		return nil, &ShareError{Op: "read plain share", Reason: reason}
	}
	return share, nil
}

// plainText decodes the text form into plainSize bytes.
func plainText(binary, text []byte) Reason {
	if len(text) > plainMaxText {
		return BadLength
	}
	text = bytes.TrimSpace(text)
	name := len(plainPrefix) - 1
	if len(text) <= name || !bytes.EqualFold(text[:name], []byte(plainPrefix[:name])) || !isGap(text[name]) {
		return BadFormat
	}
	letters := make([]byte, 0, plainMaxText)
	defer secret.Wipe(letters[:plainMaxText])
	for _, c := range text[name:] {
		switch {
		case 'a' <= c && c <= 'z':
			letters = append(letters, c-'a'+'A')
		case !isGap(c):
			letters = append(letters, c)
		}
	}
	encoding := base32.StdEncoding.WithPadding(base32.NoPadding)
	switch want := encoding.EncodedLen(plainSize); {
	case len(letters) < want:
		return Truncated
	case len(letters) > want:
		return BadLength
	}
	if _, err := encoding.Decode(binary, letters); err != nil {
		return Damaged
	}
	// The last letter has spare bits: only one letter is right.
	again := make([]byte, len(letters))
	defer secret.Wipe(again)
	if encoding.Encode(again, binary); !bytes.Equal(again, letters) {
		return Damaged
	}
	return ""
}

// isGap is what may stand between two letters.
func isGap(c byte) bool { return c == '-' || c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// parsePlain reads the binary form.
func parsePlain(binary []byte) (*PlainShare, Reason) {
	switch {
	case len(binary) < plainSize:
		return nil, Truncated
	case len(binary) > plainSize:
		return nil, BadLength
	}
	if sum := sha256.Sum256(binary[:plainBody]); !bytes.Equal(sum[:plainSumSize], binary[plainBody:]) {
		return nil, Damaged
	}
	body, found := bytes.CutPrefix(binary, []byte(plainMagic))
	if !found {
		return nil, BadFormat
	}
	share := &PlainShare{threshold: int(body[len(SetID{})])}
	copy(share.set[:], body)
	copy(share.kcv[:], body[len(SetID{})+1:])
	if share.threshold < 2 {
		return nil, BadFormat
	}
	if binary[plainXAt] == 0 {
		return nil, ZeroX
	}
	share.point = secret.New(Size + 1)
	share.point.With(func(q []byte) {
		copy(q, binary[plainXAt+1:plainBody])
		q[Size] = binary[plainXAt]
	})
	return share, ""
}
