package main

import (
	"fmt"
	"io"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) runCommand() *cobra.Command {
	var cfg config
	var path string
	var check bool
	c := &cobra.Command{
		Use: "run --config FILE", Short: "run a node", Args: cobra.NoArgs,
		Long: `Runs a node until SIGTERM or an interrupt. A setting is a flag, else an
environment variable (--api-listen is KEYCUSTODIAN_API_LISTEN), else a field of
the YAML file (api-listen), else its default. Unknown fields are refused.

A node that lacks its seal secret or PIN starts sealed, answers health, says
what is missing and waits for it on its socket (nodectl device enter).`,
		Example: `  nodectl run --config /etc/keycustodian/config.yaml
  nodectl run --dir /var/lib/keycustodian --listen 10.0.0.1:7400 --seal-source credential:seal
  nodectl run --config config.yaml --check`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cfg.load(c, a.getenv, path); err != nil {
				return err
			}
			if check {
				return a.show(cfg.shown(), func(w io.Writer) {
					for _, s := range cfg.settings() {
						row(w, s.name+":", cfg.shown()[s.name])
					}
				})
			}
			unix.Umask(0o077)
			if err := secret.Harden(); err != nil {
				return fmt.Errorf("keep secrets out of core dumps: %w", err)
			}
			return a.serve(c.Context(), &cfg)
		},
	}
	c.Flags().StringVar(&path, "config", "", "YAML `FILE`")
	c.Flags().BoolVar(&check, "check", false, "check the configuration, print it, and do not run")
	cfg.add(c)
	return c
}
