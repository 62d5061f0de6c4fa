package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is one call of nodectl.
type app struct {
	streams
	getenv func(string) string
	start  opener // of nodectl run

	addr, cluster, key, passphrase string // --addr and so on
	output                         string // "text" or "json"
	timeout                        time.Duration
	yes                            bool
	unasked                        bool          // nothing may be asked on a terminal
	trusting                       bool          // takes a node's word for who is no member any more
	request                        string        // --request-id
	repeatable                     bool          // the command has that flag
	slow                           time.Duration // what takes longer says so; 0 is a second
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, s streams, getenv func(string) string, start opener) int {
	a := &app{streams: s, getenv: getenv, start: start}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	c, err := root.ExecuteContextC(ctx)
	var wrong *usageError
	if errors.As(err, &wrong) && wrong.command == "" {
		wrong.command = c.CommandPath()
	}
	return a.report(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nodectl NOUN VERB",
		Short: "run and use a cluster that keeps keys",
		Long: `nodectl runs a node of a keycustodian cluster, and is the tool of its
operators and clients.

A cluster is known by its cluster file, a caller by a key file:

  NODECTL_ADDR      addresses, host:port,host:port or unix:/path (or --addr)
  NODECTL_CLUSTER   the cluster file                             (or --cluster)
  NODECTL_KEY       the caller's key file                        (or --key)

Without them ~/.config/keycustodian/cluster.json and key.pem are used.

NODE is the name of a node or its ID, or the beginning of either if it fits one node
only; of an ID at least 4 characters, as fewer could be meant as a name. What cannot
be taken back (cluster remove, cluster leave, key destroy-except) wants the whole
name, or 4 characters of the ID.

Exit codes: 0 done, 1 failed, 2 usage, 3 sealed or no quorum (try again).`,
		Example: `  nodectl operator new --out alice.pem
  nodectl --addr unix:/run/keycustodian/socket cluster init --operator alice.pem.pub
  nodectl key create tables-2026 --type ecdsa-p256
  nodectl key sign tables-2026 --in release.tar --out release.sig`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := c.ValidateRequiredFlags(); err != nil { // here, since cobra's own check comes too late to be a usage error
				return &usageError{err: err}
			}
			if a.output != "text" && a.output != "json" {
				return usage("output %q is not text or json", a.output)
			}
			a.repeatable = c.Flags().Lookup("request-id") != nil
			if _, err := parseRequestID(a.request); a.request != "" && err != nil {
				return err
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.addr, "addr", "", "addresses `HOST:PORT,...` or unix:/path (env NODECTL_ADDR)")
	flags.StringVar(&a.cluster, "cluster", "", "cluster `FILE` (env NODECTL_CLUSTER)")
	flags.StringVar(&a.key, "key", "", "key `FILE` of an operator or client (env NODECTL_KEY)")
	flags.StringVar(&a.passphrase, "passphrase-file", "", "`FILE` with the passphrase of an encrypted key file (env NODECTL_PASSPHRASE_FILE); else it is asked for")
	flags.StringVarP(&a.output, "output", "o", "text", "`FORMAT` of data: text or json")
	flags.DurationVar(&a.timeout, "timeout", 0, "give up after `DURATION`; 0 is never")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{err: err, command: c.CommandPath()}
	})
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(
		a.clusterCommand(), a.operatorCommand(), a.clientCommand(), a.dkekCommand(), a.ceremonyCommand(),
		a.deviceCommand(), a.keyCommand(), a.randomCommand(), a.auditCommand(), a.runCommand(), a.devCommand(), a.demoCommand(), a.versionCommand(),
	)
	prepare(root)
	a.complete(root)
	return root
}

// noun groups verbs. Without one of them it is a usage error that names them.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use + " VERB", Short: short}
	c.AddCommand(verbs...)
	return c
}

// prepare gives every command what all have in common: usage errors for wrong
// arguments, and nouns and the root themselves as usage errors.
func prepare(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, given []string) error {
			if err := args(c, given); err != nil {
				return usage("want %s", strings.TrimSuffix(c.UseLine(), " [flags]"))
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, given []string) error {
			var names []string
			for _, verb := range c.Commands() {
				if verb.IsAvailableCommand() {
					names = append(names, verb.Name())
				}
			}
			if len(given) > 0 {
				return usage("unknown command %.40q: one of %s", given[0], strings.Join(names, ", "))
			}
			return usage("want one of %s", strings.Join(names, ", "))
		}
	}
	for _, verb := range c.Commands() {
		prepare(verb)
	}
}

// context adds --timeout and --request-id.
func (a *app) context(c *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := c.Context()
	if a.request != "" {
		id, _ := parseRequestID(a.request) // was looked at before the command began
		ctx = client.WithRequestID(ctx, id)
	}
	if a.timeout > 0 {
		return context.WithTimeout(ctx, a.timeout)
	}
	return context.WithCancel(ctx)
}

// repeats gives --request-id to a verb that makes one change, which a node does
// once however often it is asked for under that ID.
func (a *app) repeats(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&a.request, "request-id", "", "repeat a change whose outcome was unknown, under its `ID` of then: it is made once")
	return c
}

func parseRequestID(text string) (id [16]byte, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) || [16]byte(raw) == id {
		return id, usage("--request-id %.40q is not the ID of a request: 32 hexadecimal digits", text)
	}
	return [16]byte(raw), nil
}
