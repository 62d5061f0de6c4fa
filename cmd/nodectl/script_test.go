package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nodectl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, os.Getenv, openIdle)
		stop()
		os.Exit(code)
	}, realCommand: profiled})
}

// Every script has a member of its own that answers like a real one, on
// $ADDR and on the socket $SOCKET.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			f, err := newFake(filepath.Join(env.WorkDir, "s"))
			if err != nil {
				return err
			}
			env.Defer(f.close)
			env.Values["fake"] = f
			env.Vars = append(env.Vars, "ADDR="+f.address(), "SOCKET=unix:"+f.path, "NODE="+f.id.String())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"lie": func(ts *testscript.TestScript, _ bool, args []string) {
				fakeOf(ts).set(func(f *fake) { f.lie = args[0] })
			},
			"fail": func(ts *testscript.TestScript, _ bool, args []string) {
				fakeOf(ts).set(func(f *fake) { f.fail = args[0] })
			},
			"age": func(ts *testscript.TestScript, _ bool, args []string) {
				fakeOf(ts).set(func(f *fake) { f.age = args[0] })
			},
			"members": func(ts *testscript.TestScript, _ bool, args []string) {
				fakeOf(ts).set(func(f *fake) { f.two = args[0] == "2" })
			},
			"unsigned": unsigned,
			"exit":     exit,
		},
		RequireExplicitExec: true,
	})
}

func fakeOf(ts *testscript.TestScript) *fake { return ts.Value("fake").(*fake) }

// unsigned fails where the member has ever got an approval.
func unsigned(ts *testscript.TestScript, _ bool, _ []string) {
	fakeOf(ts).set(func(f *fake) {
		if f.signed > 0 {
			ts.Fatalf("%d approvals were signed", f.signed)
		}
	})
}

// exit runs a command and wants this exit code.
func exit(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var ended interface{ ExitCode() int }
	if errors.As(err, &ended) {
		got = string(rune('0' + ended.ExitCode()))
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, not %s", got, args[0])
	}
}

// idle is a node that does nothing.
type idle struct{ done chan struct{} }

func (i *idle) Done() <-chan struct{}       { return i.done }
func (i *idle) Err() error                  { return nil }
func (i *idle) Sealed() error               { return nil }
func (i *idle) Close(context.Context) error { return nil }

func openIdle(_ context.Context, cfg *config, _ *slog.Logger) (daemon, error) {
	if cfg.Name == "broken" {
		return nil, errors.New("node: port 7400 is in use")
	}
	return &idle{done: make(chan struct{})}, nil
}
