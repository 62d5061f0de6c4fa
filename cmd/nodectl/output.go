package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// show prints data: as JSON where that was asked for, else by text.
func (a *app) show(data any, text func(w io.Writer)) error {
	if a.output == "json" {
		encoder := json.NewEncoder(a.out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(data)
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	text(w)
	return w.Flush()
}

// row prints one line of a table. Text from elsewhere cannot draw on the
// terminal.
func row(w io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = oneLine(fmt.Sprint(cell))
		if texts[i] == "" {
			texts[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(texts, "\t"))
}

// say prints prose.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.err, oneLine(fmt.Sprintf(format, args...)))
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// short is enough of an ID to name it.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// dataKey is the way out for what is too long to be encrypted at once.
const dataKey = "encrypt a random data key with the custodians and the document with that"

// readIn reads a file, or stdin for "-", up to most bytes; way is the way out of a
// longer one.
func (a *app) readIn(path string, most int64, way string) ([]byte, error) {
	r, done, err := a.openIn(path)
	if err != nil {
		return nil, err
	}
	defer done()
	content, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > most {
		return nil, hint(way, fmt.Errorf("%s is longer than %d bytes", path, most))
	}
	return content, nil
}

func (a *app) openIn(path string) (io.Reader, func(), error) {
	if path == "-" {
		return a.in, func() {}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return file, func() { file.Close() }, nil
}

// confirm asks on the terminal, unless --yes was given.
func (a *app) confirm(what string) error {
	if a.yes {
		return nil
	}
	if !a.asked() {
		return hint("read what will be lost, then give --yes", usage("%s: not done without --yes", what))
	}
	fmt.Fprintf(a.err, "%s\ntype yes to go on: ", oneLine(what))
	var answer string
	fmt.Fscanln(a.in, &answer)
	if answer != "yes" {
		return hint("nothing was changed", fmt.Errorf("not confirmed"))
	}
	return nil
}

// asked reports whether somebody at a terminal can answer.
func (a *app) asked() bool {
	file, ok := a.in.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
