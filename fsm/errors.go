package fsm

import (
	"fmt"
)

// Code says what kind of refusal an [Error] is. The text crosses the wire and
// never changes. A Code is itself an error: errors.Is(err, fsm.NotFound).
type Code string

const (
	BadRequest  Code = "bad_request"  // malformed or over a limit of its own; never retry as it is
	NotFound    Code = "not_found"    // what it names does not exist
	Exists      Code = "exists"       // the name, ID or address is taken
	NotAllowed  Code = "not_allowed"  // this actor may not, or a signature does not verify
	Conflict    Code = "conflict"     // it contradicts what is recorded
	Expired     Code = "expired"      // its time is over
	TooMany     Code = "too_many"     // a table is full
	WrongState  Code = "wrong_state"  // not now, not in this state
	UnknownKind Code = "unknown_kind" // this version does not know the command
)

// Codes are all codes there are.
func Codes() []Code {
	return []Code{BadRequest, NotFound, Exists, NotAllowed, Conflict, Expired, TooMany, WrongState, UnknownKind}
}

func (c Code) Error() string { return string(c) }

// Error is a command's refusal. Its text is the same on every node.
type Error struct {
	Code    Code   `cbor:"1,keyasint"`
	Message string `cbor:"2,keyasint"`
}

func (e *Error) Error() string { return "fsm: " + e.Message }

// Unwrap gives the code, for errors.Is.
func (e *Error) Unwrap() error { return e.Code }

// refuse makes a refusal; its text is cut to what a request row may keep.
func refuse(code Code, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	if len(message) > MaxMessage {
		message = message[:MaxMessage]
	}
	return &Error{Code: code, Message: cleanText(message)}
}
