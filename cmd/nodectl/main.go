// Command nodectl is keycustodian's one binary: the daemon (nodectl run) and
// the tool of operators and clients (nodectl NOUN VERB).
//
// Start with nodectl help. Data goes to stdout, prose to stderr; exit codes are
// 0 done, 1 failed, 2 usage, 3 sealed or no quorum (try again). Secrets come
// from files, descriptors or prompts, never from flag values.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, os.Getenv, start)
	stop()
	os.Exit(code)
}
