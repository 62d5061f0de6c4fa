package main

import (
	"context"
	"io"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

const sourceHelp = "where it comes from: `SOURCE` is file:PATH, credential:NAME, fd:N or prompt"

// question is a secret to fetch: what it is called, and where from.
type question struct {
	what, source string // no source: the node has it itself
	key          bool   // a 256-bit seal secret
}

// enter fetches secrets and sends them over the node's socket, once.
func (a *app) enter(ctx context.Context, route string, response any, questions ...question) error {
	socket, err := a.socket()
	if err != nil {
		return err
	}
	defer socket.Close()
	var bodies [][]byte
	defer func() {
		for _, b := range bodies {
			secret.Wipe(b)
		}
	}()
	for _, q := range questions {
		if q.source == "" { // the node's own
			bodies = append(bodies, nil)
			continue
		}
		source, err := secret.ParseSource(q.source, q.what)
		if err != nil {
			return &usageError{err: err}
		}
		var s *secret.Bytes
		if q.key {
			s, err = secret.Key(ctx, source, q.what)
		} else {
			s, err = source(ctx)
		}
		if err != nil {
			return hint("mend "+q.source+", or give the secret from elsewhere: file:PATH, credential:NAME, fd:N or prompt", err)
		}
		s.With(func(p []byte) { bodies = append(bodies, append(make([]byte, 0, len(p)), p...)) })
		s.Wipe()
	}
	defer a.busy(doing(route))()
	_, err = socket.Enter(ctx, route, response, bodies...)
	return err
}

func (a *app) deviceEnter() *cobra.Command {
	secrets := []struct{ name, route, what, short string }{
		{"seal", api.SecretSeal, "seal secret", "give a sealed node its seal secret"},
		{"pin", api.SecretPIN, "PIN", "give the node its device's PIN; a wrong one costs one try"},
		{"so-pin", api.SecretSOPIN, "SO-PIN", "give the node the SO-PIN for the next provision"},
	}
	var verbs []*cobra.Command
	for _, s := range secrets {
		var source string
		c := &cobra.Command{
			Use: s.name, Short: s.short, Args: cobra.NoArgs,
			Example: "  nodectl --addr unix:/run/keycustodian/socket device enter " + s.name,
			RunE: func(c *cobra.Command, _ []string) error {
				ctx, cancel := a.context(c)
				defer cancel()
				var health api.Health
				if err := a.enter(ctx, s.route, &health, question{what: s.what, source: source, key: s.name == "seal"}); err != nil {
					return err
				}
				a.say("the node is %s", health.State)
				return a.show(health, func(w io.Writer) { row(w, health.State, health.Missing) })
			},
		}
		c.Flags().StringVar(&source, "source", "prompt", sourceHelp)
		verbs = append(verbs, c)
	}
	return noun("enter", "give a node a secret that it waits for, over its socket", verbs...)
}

func (a *app) deviceReseal() *cobra.Command {
	var present, next string
	c := &cobra.Command{
		Use: "reseal", Short: "seal a node's key and share under a new seal secret, over its socket", Args: cobra.NoArgs,
		Long: `Seals the node's key, its share and its software device under a new seal secret.
Put the new one where the node reads it at its next start; a lost seal secret is
a lost node.`,
		Example: `  nodectl --addr unix:/run/keycustodian/socket device reseal --present file:/run/seal --new file:/run/seal.new`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var ack api.Ack
			err := a.enter(ctx, api.DeviceReseal, &ack,
				question{what: "present seal secret", source: present, key: true}, question{what: "new seal secret", source: next, key: true})
			if err != nil {
				return refusedWith(api.CodeNotAllowed, "give the seal secret that the node runs under with --present", err)
			}
			return a.done(ack, "sealed anew: the present seal secret opens nothing any more")
		},
	}
	c.Flags().StringVar(&present, "present", "prompt", "the present seal secret, "+sourceHelp)
	c.Flags().StringVar(&next, "new", "prompt", "the new seal secret, "+sourceHelp)
	return c
}

func (a *app) devicePIN() *cobra.Command {
	return noun("pin", "the PIN of a node's device, over its socket", a.devicePINChange(), a.devicePINUnblock())
}

func (a *app) devicePINChange() *cobra.Command {
	var from, next string
	c := &cobra.Command{
		Use: "change", Short: "change the PIN", Args: cobra.NoArgs,
		Long: `Sets another PIN by the present one. Refused for a software device whose URI has
no pin-source: its PIN follows from its seal secret.`,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.setPIN(c, api.DevicePINChange, question{what: "present PIN", source: from}, question{what: "new PIN", source: next})
		},
	}
	c.Flags().StringVar(&from, "source", "prompt", "the present PIN, "+sourceHelp)
	c.Flags().StringVar(&next, "new-source", "prompt", "the new PIN, "+sourceHelp)
	return c
}

func (a *app) devicePINUnblock() *cobra.Command {
	var from, next string
	c := &cobra.Command{
		Use: "unblock", Short: "set a new PIN by the SO-PIN", Args: cobra.NoArgs,
		Long: `Sets a PIN by the SO-PIN, with full tries. What is given no source here the node
takes from where it always does: the SO-PIN that was entered or the so-pin-source
of the device's URI, the pin-source, or for a software device without those its
seal secret. So without any source the device gets the PIN that the node uses.`,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.setPIN(c, api.DevicePINUnblock, question{what: "SO-PIN", source: from}, question{what: "new PIN", source: next})
		},
	}
	c.Flags().StringVar(&from, "source", "", "the SO-PIN, "+sourceHelp+"; else the node's own")
	c.Flags().StringVar(&next, "new-source", "", "the new PIN, "+sourceHelp+"; else the one that the node uses")
	return c
}

func (a *app) setPIN(c *cobra.Command, route string, present, next question) error {
	ctx, cancel := a.context(c)
	defer cancel()
	var ack api.Ack
	if err := a.enter(ctx, route, &ack, present, next); err != nil {
		return err
	}
	if next.source == "" {
		return a.done(ack, "the device's PIN is the one that the node uses, with all tries left")
	}
	return a.done(ack, "the PIN is changed: change it where the node reads it too")
}
