package secret

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Source fetches a secret when it is needed, each time anew. The caller wipes
// what it returns.
type Source func(ctx context.Context) (*Bytes, error)

// maxSourceSize bounds what is read from a file or descriptor.
const maxSourceSize = 4096

// ParseSource understands where a secret comes from, never the secret itself:
//
//	file:/run/pin        a file that others than its owner and group cannot touch
//	credential:NAME      a systemd credential ($CREDENTIALS_DIRECTORY/NAME)
//	fd:3                 an inherited descriptor, readable once
//	prompt               the terminal, without echo
//
// One newline at the end is not part of the secret, except of 32 bytes that are
// no text. An empty secret is refused. what names the secret in prompts and
// errors.
func ParseSource(source, what string) (Source, error) {
	kind, rest, _ := strings.Cut(source, ":")
	switch {
	case kind == "file" && rest != "":
		return fileSource(rest, what), nil
	case kind == "credential" && isFileName(rest):
		return func(ctx context.Context) (*Bytes, error) {
			folder := os.Getenv("CREDENTIALS_DIRECTORY")
			if folder == "" {
				return nil, fmt.Errorf("%s: systemd credential %s: CREDENTIALS_DIRECTORY is not set (is LoadCredential= in the unit?)", what, rest)
			}
			return fileSource(filepath.Join(folder, rest), what)(ctx)
		}, nil
	case kind == "fd":
		number, err := strconv.ParseUint(rest, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%s: source fd: wants a descriptor number", what)
		}
		return descriptorSource(int(number), what), nil
	case source == "prompt":
		return promptSource(what), nil
	}
	// The text is not repeated: somebody may have typed the secret itself.
	return nil, fmt.Errorf("%s: unknown source: use file:PATH, credential:NAME, fd:N or prompt", what)
}

func isFileName(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.Base(name) == name
}

func fileSource(path, what string) Source {
	return func(ctx context.Context) (*Bytes, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		// A group may share a secret, say a daemon's with its operators'.
		if mode := info.Mode(); checksMode && mode.IsRegular() && mode.Perm()&0o007 != 0 {
			return nil, fmt.Errorf("%s: %s has mode %04o, open to every user: chmod o= it, and consider it seen", what, path, mode.Perm())
		}
		return read(file, file.Name(), what)
	}
}

// descriptorSource reads an inherited descriptor, the first time that it is
// asked. It reads a duplicate and leaves the descriptor open at its end: closed,
// its number would soon be another file's, and a second source of that number
// would read from that.
func descriptorSource(number int, what string) Source {
	var mu sync.Mutex
	used := false
	return func(ctx context.Context) (*Bytes, error) {
		mu.Lock()
		defer mu.Unlock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if used {
			return nil, fmt.Errorf("%s: descriptor %d was read before", what, number)
		}
		used = true
		file, err := duplicate(number)
		if err != nil {
			return nil, fmt.Errorf("%s: descriptor %d: %w", what, number, err)
		}
		defer file.Close()
		return read(file, fmt.Sprintf("descriptor %d", number), what)
	}
}

func promptSource(what string) Source {
	return func(ctx context.Context) (*Bytes, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		terminal, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: no terminal to ask on: give a file, credential or descriptor", what)
		}
		defer terminal.Close()
		fmt.Fprintf(terminal, "%s: ", what)
		line, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(terminal)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if len(line) == 0 {
			return nil, fmt.Errorf("%s: nothing was typed", what)
		}
		return Take(line), nil
	}
}

func read(from io.Reader, name, what string) (*Bytes, error) {
	buffer := make([]byte, maxSourceSize+1)
	defer Wipe(buffer)
	n, err := io.ReadFull(from, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if n > maxSourceSize {
		return nil, fmt.Errorf("%s: %s: longer than %d bytes", what, name, maxSourceSize)
	}
	content := withoutNewline(buffer[:n])
	if len(content) == 0 {
		return nil, fmt.Errorf("%s: %s is empty", what, name)
	}
	return Take(content), nil
}

// withoutNewline takes one newline off the end. One raw key of 32 bytes in 256
// ends in that byte, and keeps it.
func withoutNewline(b []byte) []byte {
	if len(b) == KeySize && !isText(b[:len(b)-1]) {
		return b
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}

func isText(b []byte) bool {
	control := func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' || r == 0x7F }
	return utf8.Valid(b) && !bytes.ContainsFunc(b, control)
}

// Fixed returns a source that yields a copy of the same secret each time.
func Fixed(b *Bytes) Source {
	return func(context.Context) (*Bytes, error) { return b.Clone(), nil }
}

// Key fetches a 256-bit secret: 64 hexadecimal digits, or 32 raw bytes. 32
// hexadecimal digits are refused: they are a key of half the strength.
func Key(ctx context.Context, source Source, what string) (*Bytes, error) {
	text, err := source(ctx)
	if err != nil {
		return nil, err
	}
	switch text.Len() {
	case KeySize:
		half := false
		text.With(func(p []byte) {
			half = !bytes.ContainsFunc(p, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) })
		})
		if half {
			text.Wipe()
			return nil, fmt.Errorf("%s: 32 hexadecimal digits are 128 bits: wants 64 digits", what)
		}
		return text, nil
	case 2 * KeySize:
		defer text.Wipe()
		key := New(KeySize)
		text.With(func(p []byte) {
			key.With(func(q []byte) { _, err = hex.Decode(q, p) })
		})
		if err != nil {
			key.Wipe()
			return nil, fmt.Errorf("%s: 64 characters that are not all hexadecimal digits", what)
		}
		return key, nil
	}
	defer text.Wipe()
	return nil, fmt.Errorf("%s: wants 64 hexadecimal digits or 32 raw bytes", what)
}
