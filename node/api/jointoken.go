package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// JoinToken lets one node join a cluster, once. It is put together by an
// operator's nodectl, from its own pin: what it says about the cluster and its
// operators comes from no node's answer.
//
// A token holds a secret. It prints as a placeholder; only Text shows it.
type JoinToken struct {
	// Cluster is the cluster's ID.
	Cluster [16]byte
	// Address of a member, host:port, up to 255 bytes.
	Address string
	// Fingerprint of that member's key.
	Fingerprint [32]byte
	// Govern is the number of the operator set, Operators its digest.
	Govern    uint64
	Operators [32]byte
	// Secret from which the token's key is derived.
	Secret [32]byte
}

// ErrJoinToken means that a text is no join token, or was mistyped.
var ErrJoinToken = errors.New("not a join token: a letter is missing or wrong")

const (
	joinTokenPrefix  = "kcjoin1."
	joinTokenCheck   = 8 // bytes of SHA-256 at the end
	joinTokenFixed   = 16 + 32 + 8 + 32 + 32 + 1
	maxJoinTokenText = 1024
)

// Format prints a placeholder for every verb.
func (t *JoinToken) Format(f fmt.State, _ rune) { io.WriteString(f, "[join token]") }

// MarshalJSON refuses: a token goes by Text.
func (t *JoinToken) MarshalJSON() ([]byte, error) {
	return nil, errors.New("api: refused to encode a join token")
}

// Text is what people pass on: "kcjoin1." and base64url without padding of
//
//	cluster (16) || fingerprint (32) || govern number (8, big-endian)
//	|| operator set digest (32) || secret (32) || length of the address (1)
//	|| address || first 8 bytes of SHA-256 of all before, prefix included
func (t *JoinToken) Text() (string, error) {
	if len(t.Address) == 0 || len(t.Address) > 255 {
		return "", errors.New("api: join token: an address has 1 to 255 bytes")
	}
	b := make([]byte, 0, joinTokenFixed+len(t.Address)+joinTokenCheck)
	b = append(b, t.Cluster[:]...)
	b = append(b, t.Fingerprint[:]...)
	b = binary.BigEndian.AppendUint64(b, t.Govern)
	b = append(b, t.Operators[:]...)
	b = append(b, t.Secret[:]...)
	b = append(b, byte(len(t.Address)))
	b = append(b, t.Address...)
	b = append(b, joinTokenSum(b)...)
	defer clear(b)
	return joinTokenPrefix + base64.RawURLEncoding.EncodeToString(b), nil
}

func joinTokenSum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(joinTokenPrefix), b...))
	return sum[:joinTokenCheck]
}

// ParseJoinToken reverses Text, or says [ErrJoinToken]. Space around it is
// ignored.
func ParseJoinToken(text string) (*JoinToken, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, joinTokenPrefix)
	if !ok || len(text) > maxJoinTokenText {
		return nil, ErrJoinToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) < joinTokenFixed+joinTokenCheck {
		return nil, ErrJoinToken
	}
	defer clear(b)
	b, sum := b[:len(b)-joinTokenCheck], b[len(b)-joinTokenCheck:]
	if !bytes.Equal(joinTokenSum(b), sum) {
		return nil, ErrJoinToken
	}
	t := &JoinToken{}
	next := func(n int) []byte { part := b[:n]; b = b[n:]; return part }
	copy(t.Cluster[:], next(16))
	copy(t.Fingerprint[:], next(32))
	t.Govern = binary.BigEndian.Uint64(next(8))
	copy(t.Operators[:], next(32))
	copy(t.Secret[:], next(32))
	if n := int(next(1)[0]); n == 0 || n != len(b) {
		return nil, ErrJoinToken
	}
	t.Address = string(b)
	return t, nil
}
