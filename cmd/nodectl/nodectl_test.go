package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

// What the replicated state says is what the API says.
func TestAPISpeaksTheStatesLanguage(t *testing.T) {
	for _, code := range fsm.Codes() {
		if !api.Code(code).Known() {
			t.Errorf("the API has no code %s", code)
		}
	}
	var names []string
	for _, v := range api.Verbs() {
		names = append(names, string(v))
	}
	if !slices.Equal(names, fsm.AllVerbs.Names()) {
		t.Errorf("verbs %v, the state's are %v", names, fsm.AllVerbs.Names())
	}
	for _, code := range api.Codes() {
		if codeHints[code] == "" {
			t.Errorf("%s has no way out", code)
		}
	}
}

// Every command says what it does; every verb that takes something, how.
func TestEveryCommandIsDocumented(t *testing.T) {
	a := &app{getenv: func(string) string { return "" }, start: openIdle}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.RunE == nil && !c.HasSubCommands() {
			t.Errorf("%s: %q", c.CommandPath(), c.Short)
		}
		if !c.HasSubCommands() && len(strings.Fields(c.Use)) > 1 && c.Example == "" && c.Parent().Name() != "completion" && c.Name() != "help" {
			t.Errorf("%s takes something, and has no example", c.CommandPath())
		}
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk(a.root())
}

// What help, the README and docs/operations.md show is a command line that is understood.
func TestExamplesAreUnderstood(t *testing.T) {
	var lines []string
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	operations, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	readme = append(readme, operations...)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		lines = append(lines, strings.Split(c.Example, "\n")...)
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	a := &app{getenv: func(string) string { return "" }, start: openIdle}
	walk(a.root())
	shown := 0
	for _, line := range append(lines, strings.Split(string(readme), "\n")...) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, " > ")
		line, _, _ = strings.Cut(line, " && ")
		words, ok := strings.CutPrefix(strings.TrimSpace(line), "nodectl ")
		if !ok || strings.Contains(words, "NOUN VERB") {
			continue
		}
		shown++
		for i, part := range strings.Split(words, `"`) { // what is quoted is one word
			if i%2 == 1 {
				words = strings.Replace(words, `"`+part+`"`, "quoted", 1)
			}
		}
		c, args, err := a.root().Find(strings.Fields(words))
		if err == nil {
			err = c.ParseFlags(args)
		}
		if err == nil && !c.HasSubCommands() {
			err = errors.Join(c.ValidateArgs(c.Flags().Args()), c.ValidateRequiredFlags())
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if shown < 50 {
		t.Errorf("only %d examples were found", shown)
	}
}

func TestFindMember(t *testing.T) {
	members := []api.Endpoint{{ID: "aaaa11", Name: "node-1"}, {ID: "aaaa22", Name: "node-12"}, {ID: "bbbb33", Name: "other"}}
	for text, want := range map[string]string{"node-1": "aaaa11", "node-12": "aaaa22", "aaaa22": "aaaa22", "o": "bbbb33", "bbbb": "bbbb33", "b": "", "bbb": "", "aaaa": "", "node": "", "": "", "x": ""} {
		if m, err := findMember(members, text); m.ID != want || (err == nil) != (want != "") {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := notify(func(string) string { return path }, "READY=1"); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 64)
	if n, err := conn.Read(buffer); err != nil || string(buffer[:n]) != "READY=1" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
	if err := notify(func(string) string { return "" }, "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}

// stopped is a node that has ended by itself.
type stopped struct{ idle }

func (*stopped) Err() error { return errors.New("removed from the cluster") }

// cramped is a node that cannot write its last words.
type cramped struct{ stopped }

func (*cramped) Close(context.Context) error { return fmt.Errorf("write mark: %w", syscall.ENOSPC) }

// A node that ends by itself is a failure with its reason; one that is told to
// end is none.
func TestServeEnds(t *testing.T) {
	cfg := &config{LogLevel: "info", LogFormat: "text"}
	var log bytes.Buffer
	done := make(chan struct{})
	close(done)
	a := &app{streams: streams{err: &log}, getenv: func(string) string { return "" }}
	a.start = func(context.Context, *config, *slog.Logger) (daemon, error) { return &stopped{idle{done}}, nil }
	if err := a.serve(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "removed from the cluster") {
		t.Errorf("%v", err)
	}
	a.start = func(context.Context, *config, *slog.Logger) (daemon, error) {
		return &cramped{stopped{idle{done}}}, nil
	}
	if err := a.serve(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "removed from the cluster") || !strings.Contains(a.wayOut(err), "make room") {
		t.Errorf("%v, and the way out is %q", err, a.wayOut(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a.start = openIdle
	if err := a.serve(ctx, cfg); err != nil {
		t.Errorf("told to end: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("dir: /data\nlisten: \":7400\"\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		c := &config{}
		values, err := c.parse(content)
		for name := range values {
			if err == nil && !slices.ContainsFunc(c.settings(), func(s setting) bool { return s.name == name }) {
				t.Errorf("unknown field %q was accepted", name)
			}
		}
	})
}

func FuzzKeyFiles(f *testing.F) {
	private, public, _, err := makeKey(f.Context(), "alice", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(private)
	f.Add(public)
	f.Fuzz(func(t *testing.T, content []byte) {
		if signer, err := parseKey(content); err == nil && signer == nil {
			t.Error("no key and no error")
		}
		if _, spki, err := parsePublic(content); err == nil && len(spki) == 0 {
			t.Error("no public key and no error")
		}
	})
}

// A seal secret on the disk of what it seals is told, with what that disk is.
func TestSealWeakness(t *testing.T) {
	dir := t.TempDir()
	data, seal := filepath.Join(dir, "data"), filepath.Join(dir, "seal")
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(seal, nil, 0o600), os.WriteFile(filepath.Join(data, "seal"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ source, device, want string }{
		{"file:" + seal, "soft:" + data + "/device", "it lies on the disk that holds the data: one disk is the DKEK, and this node's share"},
		{"file:" + seal, "soft:?memory", "it lies on the disk that holds the data: one disk is this node's share"},
		{"file:" + data + "/seal", "soft:" + data + "/device", "it lies in the data folder: one copy of that folder is the DKEK, and this node's share"},
		{"credential:seal", "soft:" + data + "/device", ""},
	} {
		if got := sealWeakness(&config{Dir: data, SealSource: c.source, Device: c.device}); got != c.want {
			t.Errorf("%s, %s: %q", c.source, c.device, got)
		}
	}
}

// What make test runs by name is there, also under the tag of a build that no other
// test has: go test has nothing against a name that nothing has.
func TestNamedTestsAreThere(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, names, _ := strings.Cut(string(makefile), "-tags faults -run '^(")
	names, _, found := strings.Cut(names, ")'")
	if !found || !strings.Contains(string(makefile), "-run '^TestFire$$'") {
		t.Fatalf("make test runs %q, or make fire nothing", names)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests []byte
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, content...)
	}
	for name := range strings.SplitSeq(names, "|") {
		if !bytes.Contains(tests, []byte("\nfunc "+name)) {
			t.Errorf("make test runs %s, and there is none", name)
		}
	}
	if !bytes.Contains(tests, []byte("\nfunc TestFire(")) {
		t.Error("there is no TestFire")
	}
}
