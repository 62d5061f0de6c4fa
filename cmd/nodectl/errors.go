package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// usageError is a command line that says nothing sensible: exit 2.
type usageError struct {
	err     error
	command string // whose help to read; may be empty
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// hinted is an error that knows the way out.
type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

func hint(hint string, err error) error { return &hinted{err: err, hint: hint} }

// refusedWith gives a refusal of this code a hint, where the node gave none.
func refusedWith(code api.Code, way string, err error) error {
	var said *api.Error
	if errors.As(err, &said) && said.Code == code && said.Hint == "" {
		return hint(way, err)
	}
	return err
}

// report prints an error with its hint and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return api.ExitDone
	}
	fmt.Fprintf(a.err, "nodectl: %s\n", lower(oneLine(api.Plain(err.Error()))))
	if way := a.wayOut(err); way != "" {
		fmt.Fprintf(a.err, "hint: %s\n", oneLine(way))
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var wrong *usageError
	var said *api.Error
	var silent *client.UnreachableError
	var pin *client.PinError
	var doubtful *client.OutcomeUnknownError
	switch {
	case errors.As(err, &wrong):
		return api.ExitUsage
	case errors.As(err, &doubtful): // a script that begins anew would make the change twice
		return api.ExitFailed
	case errors.As(err, &said):
		return said.Code.Exit()
	case errors.As(err, &silent) && !errors.As(err, &pin): // a stranger will not become a member by waiting
		return api.ExitRetry
	}
	return api.ExitFailed
}

func (a *app) wayOut(err error) string {
	var known *hinted
	var wrong *usageError
	var said *api.Error
	var silent *client.UnreachableError
	var pin *client.PinError
	var doubtful *client.OutcomeUnknownError
	switch {
	case errors.As(err, &doubtful) && a.repeatable:
		return "repeat the command with --request-id " + doubtful.Request + ": the change is made once, whatever became of this try"
	case errors.As(err, &doubtful):
		return "look at what became of it before repeating it"
	case errors.As(err, &known):
		return known.hint
	case errors.As(err, &wrong):
		command := wrong.command
		if command == "" {
			command = "nodectl"
		}
		return "see " + command + " --help"
	case errors.As(err, &said):
		if said.Hint != "" {
			return said.Hint
		}
		return codeHints[said.Code]
	case errors.As(err, &pin):
		return "the cluster file may be old, or this is another host: compare fingerprints with nodectl cluster members on a node you trust"
	case errors.As(err, &silent):
		return "check NODECTL_ADDR and that the nodes run: systemctl status keycustodian"
	case errors.Is(err, context.DeadlineExceeded):
		return "give it a longer --timeout"
	case errors.Is(err, fs.ErrNotExist):
		return "name another file, or make this one first"
	case errors.Is(err, syscall.EISDIR):
		return "that is a folder: name a file"
	case errors.Is(err, syscall.ENOTDIR):
		return "that is a file: name a folder"
	case errors.Is(err, fs.ErrPermission):
		return "run as the owner of the file"
	case errors.Is(err, context.Canceled):
		return "run it again when you like"
	}
	return "run it again, or ask nodectl cluster status what the cluster thinks"
}

// codeHints are ways out where the node gave none.
var codeHints = map[api.Code]string{
	api.CodeBadRequest:      "mend the request; nothing was changed",
	api.CodeNotFound:        "list what there is, with the list verb of the same noun",
	api.CodeExists:          "choose another name, address or key: those that were used once are never used again",
	api.CodeNotAllowed:      "the caller's rights, the key's type or usage, or the cluster's policy forbid it: see nodectl client list and nodectl key show",
	api.CodeConflict:        "something changed meanwhile: look again and repeat it, without --request-id",
	api.CodeExpired:         "its time is over: begin anew; where it should have had time left, look for a wrong clock with nodectl cluster status",
	api.CodeTooMany:         "a limit is reached: remove what is not needed",
	api.CodeWrongState:      "it is not in a state that allows this: look at it with the show or status verb",
	api.CodeUnknownKind:     "bring every node to the same version",
	api.CodeUnauthenticated: "give your key with NODECTL_KEY or --key",
	api.CodeForbidden:       "ask an operator for the right, or use an operator's key",
	api.CodeTooLarge:        "send less at once",
	api.CodeTimeout:         "the outcome is unknown: look before repeating it",
	api.CodeSealed:          "on that node: nodectl device enter seal (or pin), then try again",
	api.CodeNoQuorum:        "too few nodes answer for a change: bring them back, then try again",
	api.CodeStale:           "the node has been alone for too long: bring the others back, then try again",
	api.CodeNoDKEK:          "deal the DKEK first: nodectl dkek create",
	api.CodeUnsupported:     "see what the devices can do: nodectl device list",
	api.CodeWrongPIN:        "look at the tries left before another one: nodectl device info",
	api.CodePINBlocked:      "on that node: nodectl device pin unblock",
	api.CodeDevice:          "look at the device: nodectl device info --node NODE",
	api.CodeDecryption:      "the ciphertext was changed, or belongs to another key, version (NAME@2) or --aad",
	api.CodeUnavailable:     "no node that could answer is there: see nodectl cluster status",
	api.CodeInternal:        "see the node's log",
}

// oneLine keeps a message from a node from drawing on the terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}

// lower begins prose with a small letter, unless a name or an abbreviation does.
func lower(text string) string {
	word, _, _ := strings.Cut(text, " ")
	if word == "" || word[0] < 'A' || word[0] > 'Z' || strings.ContainsFunc(word[1:], func(r rune) bool { return r < 'a' || r > 'z' }) {
		return text
	}
	return strings.ToLower(word) + text[len(word):]
}
