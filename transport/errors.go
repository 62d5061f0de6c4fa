package transport

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

var (
	// ErrNotMember is returned where the other side, or this node itself, is
	// not a member.
	ErrNotMember = errors.New("transport: not a member")
	// ErrTooLarge is returned for a body over MaxBody, before it is sent.
	ErrTooLarge = errors.New("transport: body larger than 1 MiB")
	// ErrClosed is returned by calls on a closed server.
	ErrClosed = errors.New("transport: closed")
)

// The codes that this package itself puts into a RemoteError. Handlers add
// their own; a code never changes its meaning.
const (
	CodeInternal      = "internal"
	CodeUnknownMethod = "unknown-method"
	CodeNotMember     = "not-member"
	CodeTooLarge      = "too-large"
	CodeMalformed     = "malformed"
	CodeBusy          = "busy"
	CodeBadProof      = "bad-proof"   // join: the token's signature does not verify
	CodeNoJoin        = "no-join"     // join: this node takes no joiners now
	CodeUnavailable   = "unavailable" // the node is closing
)

// RemoteError is what a handler on another node answered in place of a body.
// A handler may return one; an error of its own with a method
//
//	ErrorCode() string
//
// is turned into one with that code; any other error has the code "internal".
type RemoteError struct {
	Code    string // 1 to 64 of a-z, 0-9, "-", "_", "."
	Message string // for people, at most 1024 bytes
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("transport: remote: %s (%s)", e.Message, e.Code)
}

// ErrorCode returns the code.
func (e *RemoteError) ErrorCode() string { return e.Code }

// remoteError makes any handler's error fit for the wire.
func remoteError(err error) *RemoteError {
	out := &RemoteError{Code: CodeInternal, Message: err.Error()}
	var own *RemoteError
	var coded interface{ ErrorCode() string }
	switch {
	case errors.As(err, &own):
		out.Code, out.Message = own.Code, own.Message
	case errors.As(err, &coded):
		out.Code = coded.ErrorCode()
	}
	if !validName(out.Code, maxErrorCode) {
		out.Code = CodeInternal
	}
	out.Message = strings.ToValidUTF8(out.Message, "?")
	if len(out.Message) > maxErrorMessage {
		cut := maxErrorMessage
		for !utf8.RuneStart(out.Message[cut]) {
			cut--
		}
		out.Message = out.Message[:cut]
	}
	return out
}

// validName holds for method names and error codes.
func validName(name string, limit int) bool {
	if name == "" || len(name) > limit {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// FingerprintError says that the node at an address holds another key than the
// one that was asked for: a wrong address, an old one, or somebody between.
type FingerprintError struct {
	Addr string
	Want Fingerprint
	Got  Fingerprint // zero where it showed no key
}

func (e *FingerprintError) Error() string {
	return fmt.Sprintf("transport: %s holds the key %s, want %s", e.Addr, e.Got, e.Want)
}
