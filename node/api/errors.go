package api

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// Code says what went wrong, for programs. Codes are stable.
type Code string

// Codes that the replicated state gives: the change is refused, on every node
// alike.
const (
	CodeBadRequest Code = "bad_request" // malformed or out of limits: do not repeat it
	CodeNotFound   Code = "not_found"
	CodeExists     Code = "exists"
	CodeNotAllowed Code = "not_allowed" // the key's usage, the policy or a rule forbids it
	CodeConflict   Code = "conflict"    // based on a state that is not so any more
	CodeExpired    Code = "expired"
	CodeTooMany    Code = "too_many"
	CodeWrongState Code = "wrong_state" // not now: disabled, pending, not approved
	// CodeUnknownKind is a command that some version does not know.
	CodeUnknownKind Code = "unknown_kind"
)

// Codes that a node gives by itself.
const (
	CodeUnauthenticated Code = "unauthenticated" // no client key
	CodeForbidden       Code = "forbidden"       // this client key may not
	CodeTooLarge        Code = "too_large"
	CodeTimeout         Code = "timeout" // the outcome is unknown: repeat with the same request ID
	CodeSealed          Code = "sealed"
	CodeNoQuorum        Code = "no_quorum"
	CodeStale           Code = "stale"   // without a quorum for longer than the policy allows
	CodeNoDKEK          Code = "no_dkek" // the cluster or the device has none yet
	CodeUnsupported     Code = "unsupported"
	CodeWrongPIN        Code = "wrong_pin"
	CodePINBlocked      Code = "pin_blocked"
	CodeDevice          Code = "device" // the device failed or is gone
	CodeDecryption      Code = "decryption_failed"
	CodeUnavailable     Code = "unavailable" // stopping, overloaded, or no node with the key answers
	CodeInternal        Code = "internal"
)

// Exit codes of nodectl.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
	ExitRetry  = 3 // sealed or no quorum: try again
)

// meaning is what a code means to HTTP and to a shell.
var meaning = map[Code]struct{ status, exit int }{
	CodeBadRequest:      {http.StatusBadRequest, ExitFailed},
	CodeNotFound:        {http.StatusNotFound, ExitFailed},
	CodeExists:          {http.StatusConflict, ExitFailed},
	CodeNotAllowed:      {http.StatusForbidden, ExitFailed},
	CodeConflict:        {http.StatusConflict, ExitFailed},
	CodeExpired:         {http.StatusGone, ExitFailed},
	CodeTooMany:         {http.StatusUnprocessableEntity, ExitFailed},
	CodeWrongState:      {http.StatusConflict, ExitFailed},
	CodeUnknownKind:     {http.StatusNotImplemented, ExitFailed},
	CodeUnauthenticated: {http.StatusUnauthorized, ExitFailed},
	CodeForbidden:       {http.StatusForbidden, ExitFailed},
	CodeTooLarge:        {http.StatusRequestEntityTooLarge, ExitFailed},
	CodeTimeout:         {http.StatusGatewayTimeout, ExitFailed},
	CodeSealed:          {http.StatusServiceUnavailable, ExitRetry},
	CodeNoQuorum:        {http.StatusServiceUnavailable, ExitRetry},
	CodeStale:           {http.StatusServiceUnavailable, ExitRetry},
	CodeNoDKEK:          {http.StatusConflict, ExitFailed},
	CodeUnsupported:     {http.StatusUnprocessableEntity, ExitFailed},
	CodeWrongPIN:        {http.StatusForbidden, ExitFailed},
	CodePINBlocked:      {http.StatusForbidden, ExitFailed},
	CodeDevice:          {http.StatusInternalServerError, ExitFailed},
	CodeDecryption:      {http.StatusUnprocessableEntity, ExitFailed},
	CodeUnavailable:     {http.StatusServiceUnavailable, ExitFailed},
	CodeInternal:        {http.StatusInternalServerError, ExitFailed},
}

// Codes are all codes there are, in no order.
func Codes() []Code {
	all := make([]Code, 0, len(meaning))
	for code := range meaning {
		all = append(all, code)
	}
	return all
}

// Known reports whether the code is one of ours.
func (c Code) Known() bool { _, ok := meaning[c]; return ok }

// Status is the HTTP status that goes with the code; 500 for an unknown one.
func (c Code) Status() int {
	if m, ok := meaning[c]; ok {
		return m.status
	}
	return http.StatusInternalServerError
}

// Exit is nodectl's exit code for it.
func (c Code) Exit() int {
	if m, ok := meaning[c]; ok {
		return m.exit
	}
	return ExitFailed
}

// Error is the body of every answer that is not 2xx.
type Error struct {
	// Code for programs.
	Code Code `json:"code"`
	// Message for people: what failed, on which node and device.
	Message string `json:"message"`
	// Hint says what to do next.
	Hint string `json:"hint,omitempty"`
	// Node that answered, by name.
	Node string `json:"node,omitempty"`
	// Device concerned: kind and serial.
	Device string `json:"device,omitempty"`
	// Leader is the API address of the leader, where another node must be asked.
	Leader string `json:"leader,omitempty"`
	// TriesLeft is how many wrong PINs are left; null where no PIN was wrong.
	TriesLeft *int `json:"tries_left,omitempty"`
	// Holder is the node whose share was bad, by name.
	Holder string `json:"holder,omitempty"`
}

// packageNames are what the packages' errors begin with, alone or joined. They
// say nothing outside of Go.
var packageNames = regexp.MustCompile(`(^|: |; |\n|\()(?:(?:node|fsm|dkek|hsm|soft|keyblob|drivers|smartcard|pkcs11|transport|secret|client|api): )+`)

// Plain is an error's text for people: one line, without the names of the
// packages that it went through.
func Plain(text string) string {
	return strings.ReplaceAll(packageNames.ReplaceAllString(text, "$1"), "\n", "; ")
}

// Error gives the message, with the node that answered.
func (e *Error) Error() string {
	if e.Node == "" {
		return e.Message
	}
	return fmt.Sprintf("node %s: %s", e.Node, e.Message)
}

// Is makes errors.Is(err, &api.Error{Code: c}) ask for the code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && *t == Error{Code: t.Code} && t.Code == e.Code
}
