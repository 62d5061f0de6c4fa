package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/keycustodian/keycustodian/internal/secret"
	"golang.org/x/term"
)

// result is what a verb that uses a key made.
type result struct {
	key     string // its name
	version uint32
	field   string // of the bytes in JSON
	bytes   []byte
	secret  bool   // nobody else should read them: the file gets mode 0600
	done    string // prose for when they are written; may be empty
}

// give hands a result over: to a file or stdout the bytes alone; where JSON was
// asked for an object, in which the bytes are base64, or "out" in their place
// where a file has them.
func (a *app) give(out string, r result) error {
	shown := map[string]any{"key": r.key, "version": r.version}
	switch {
	case out != "-":
		mode := fs.FileMode(0o644)
		if r.secret {
			mode = 0o600
		}
		if err := writeOut(out, r.bytes, mode); err != nil {
			return err
		}
		shown["out"] = out
	case a.output == "json":
		shown[r.field] = r.bytes
	default:
		if file, ok := a.out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
			return usage("the result is binary: give --out FILE or -o json, or send stdout elsewhere")
		}
		if _, err := a.out.Write(r.bytes); err != nil {
			return err
		}
	}
	if r.done != "" {
		a.say("%s", r.done)
	}
	if a.output == "json" {
		return a.show(shown, nil)
	}
	return nil
}

// writeOut writes a whole file or none. What is no file, as a pipe or
// /dev/null, is written to and not replaced.
func writeOut(path string, content []byte, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, content, mode)
	}
	err := secret.WriteFileMode(path, content, mode)
	var at *fs.PathError // names the file beside it that is renamed last
	if errors.As(err, &at) {
		err = hint("its folder must be there, and be yours to write to", fmt.Errorf("write %s: %w", path, at.Err))
	}
	return err
}

// done says that a change was made which leaves nothing to print; where JSON
// was asked for, the answer is printed all the same.
func (a *app) done(answer any, format string, args ...any) error {
	a.say(format, args...)
	return a.show(answer, func(io.Writer) {})
}
