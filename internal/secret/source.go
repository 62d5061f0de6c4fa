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

	"golang.org/x/term"
)

// Source fetches a secret when it is needed, each time anew. The caller wipes
// what it returns.
type Source func(ctx context.Context) (*Bytes, error)

// maxSourceSize bounds what is read from a file or descriptor.
const maxSourceSize = 4096

// ParseSource understands where a secret comes from, never the secret itself:
//
//	file:/run/pin        a file
//	credential:NAME      a systemd credential ($CREDENTIALS_DIRECTORY/NAME)
//	fd:3                 an inherited descriptor, readable once
//	prompt               the terminal, without echo
//
// One trailing newline is not part of the secret. what names the secret in
// prompts and errors.
func ParseSource(source, what string) (Source, error) {
	kind, rest, _ := strings.Cut(source, ":")
	switch {
	case kind == "file" && rest != "":
		return fileSource(rest, what), nil
	case kind == "credential" && rest != "" && filepath.Base(rest) == rest:
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
		return onceSource(os.NewFile(uintptr(number), "fd:"+rest), what), nil
	case source == "prompt":
		return promptSource(what), nil
	}
	// The text is not repeated: somebody may have typed the secret itself.
	return nil, fmt.Errorf("%s: unknown source: use file:PATH, credential:NAME, fd:N or prompt", what)
}

func fileSource(path, what string) Source {
	return func(context.Context) (*Bytes, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		defer file.Close()
		return read(file, what)
	}
}

func onceSource(file *os.File, what string) Source {
	return func(context.Context) (*Bytes, error) {
		if file == nil {
			return nil, fmt.Errorf("%s: the descriptor was read before", what)
		}
		defer func() { file.Close(); file = nil }()
		return read(file, what)
	}
}

func promptSource(what string) Source {
	return func(context.Context) (*Bytes, error) {
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
		return Take(line), nil
	}
}

func read(file *os.File, what string) (*Bytes, error) {
	buffer := make([]byte, maxSourceSize+1)
	defer Wipe(buffer)
	n, err := io.ReadFull(file, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if n > maxSourceSize {
		return nil, fmt.Errorf("%s: %s: longer than %d bytes", what, file.Name(), maxSourceSize)
	}
	return Take(bytes.TrimSuffix(bytes.TrimSuffix(buffer[:n], []byte("\n")), []byte("\r"))), nil
}

// Fixed returns a source that yields a copy of the same secret each time.
func Fixed(b *Bytes) Source {
	return func(context.Context) (*Bytes, error) { return b.Clone(), nil }
}

// Key fetches a 256-bit secret: 64 hexadecimal digits, or 32 raw bytes.
func Key(ctx context.Context, source Source, what string) (*Bytes, error) {
	text, err := source(ctx)
	if err != nil {
		return nil, err
	}
	switch text.Len() {
	case KeySize:
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
