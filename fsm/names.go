package fsm

import (
	"encoding/hex"
	"net"
	"strconv"
	"strings"
	"unicode/utf8"
)

// RequestID names a request: 16 random bytes made by whoever asks first. A
// retry of the same request carries the same one.
type RequestID [16]byte

// KeyID names a key for life: the ID of the request that created it.
type KeyID [16]byte

// CeremonyID names a ceremony: 16 random bytes made by its opener.
type CeremonyID [16]byte

func (id RequestID) String() string  { return hex.EncodeToString(id[:]) }
func (id KeyID) String() string      { return hex.EncodeToString(id[:]) }
func (id CeremonyID) String() string { return hex.EncodeToString(id[:]) }

// CheckKeyName tells whether a key may be called so:
// [a-z0-9][a-z0-9._/-]{0,127}.
func CheckKeyName(name string) *Error {
	if !matches(name, MaxName, "._/-") {
		return refuse(BadRequest, "key name %.40q: want %d characters at most of a-z 0-9 . _ / -, beginning with a letter or digit", name, MaxName)
	}
	return nil
}

// CheckName tells whether a member, client, operator, token or cluster may be
// called so: [a-z0-9][a-z0-9-]{0,62}.
func CheckName(name string) *Error {
	if !matches(name, MaxMemberName, "-") {
		return refuse(BadRequest, "name %.40q: want %d characters at most of a-z 0-9 -, beginning with a letter or digit", name, MaxMemberName)
	}
	return nil
}

func matches(name string, most int, also string) bool {
	if name == "" || len(name) > most {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || strings.IndexByte(also, c) < 0) {
			return false
		}
	}
	return true
}

// checkAddress wants host:port as it will be dialled; it resolves nothing.
func checkAddress(address string) *Error {
	host, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || host == "" || number == 0 || len(address) > MaxAddress || !plain(address) || strings.Contains(address, " ") {
		return refuse(BadRequest, "address %.60q: want host:port", address)
	}
	return nil
}

// checkText bounds prose that people will see in a terminal: valid UTF-8
// without control characters.
func checkText(what, text string, most int) *Error {
	if len(text) > most {
		return refuse(BadRequest, "%s is longer than %d bytes", what, most)
	}
	if !plain(text) {
		return refuse(BadRequest, "%s holds control characters or is not UTF-8", what)
	}
	return nil
}

func plain(text string) bool {
	if !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		if r < 0x20 || 0x7f <= r && r < 0xa0 {
			return false
		}
	}
	return true
}

// cleanText makes any text plain.
func cleanText(text string) string {
	if plain(text) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || 0x7f <= r && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
}
