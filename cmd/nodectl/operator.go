package main

import (
	"io"
	"path/filepath"
	"strings"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

func (a *app) operatorCommand() *cobra.Command {
	return noun("operator", "who approves ceremonies", a.operatorNew(), a.operatorAdd(), a.operatorRemove(), a.operatorList(), a.operatorPolicy(), a.operatorPin(), a.operatorSign())
}

func (a *app) operatorNew() *cobra.Command {
	var out, name, prompt string
	c := &cobra.Command{
		Use:   "new --out FILE",
		Short: "make a key for an operator or a client",
		Long: `Makes an Ed25519 key: FILE (PKCS#8 PEM, mode 0600, never overwritten) and
FILE.pub, which is what operators and clusters are given. With a passphrase FILE
is encrypted in age's armoured scrypt form.

The key never leaves this machine: nodes see signatures only.`,
		Example: `  nodectl operator new --out alice.pem
  nodectl operator new --out bob.pem --name bob --passphrase prompt
  nodectl operator new --out carol.pem --passphrase-file /run/secrets/carol`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if out == "" {
				return usage("operator new wants --out FILE")
			}
			if name == "" {
				name = nameOf(out)
			}
			if err := checkName(name); err != nil {
				return err
			}
			if prompt != "" && prompt != "prompt" {
				return hint("--passphrase prompt asks; --passphrase-file FILE reads", usage("a passphrase is never given as a flag"))
			}
			var source secret.Source
			if prompt != "" || a.first(a.passphrase, "NODECTL_PASSPHRASE_FILE", "") != "" {
				var err error
				if source, err = a.passphraseSource(true); err != nil {
					return err
				}
			}
			private, public, fingerprint, err := makeKey(c.Context(), name, source)
			if err != nil {
				return err
			}
			defer secret.Wipe(private)
			if err := writeNew(out, private, 0o600); err != nil {
				return err
			}
			if err := writeNew(out+".pub", public, 0o644); err != nil {
				return err
			}
			a.say("wrote %s (keep it) and %s.pub (give it to the cluster)", out, out)
			return a.show(map[string]string{"name": name, "fingerprint": fingerprint.String(), "key": out, "public": out + ".pub"},
				func(w io.Writer) { row(w, fingerprint) })
		},
	}
	c.Flags().StringVar(&out, "out", "", "`FILE` of the private key; the public one is FILE.pub")
	c.Flags().StringVar(&name, "name", "", "`NAME` of its owner; else from the file's name")
	c.Flags().StringVar(&prompt, "passphrase", "", "`prompt` asks for a passphrase to encrypt it with")
	return c
}

// nameOf makes a name of a file's: "keys/Alice.pem" is alice.
func nameOf(path string) string {
	base := filepath.Base(path)
	base, _, _ = strings.Cut(base, ".")
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, base)
}

// readOperator reads an operator's .pub file.
func readOperator(path string) (api.OperatorKey, error) {
	name, spki, err := readPublic(path)
	if err != nil {
		return api.OperatorKey{}, err
	}
	if name == "" {
		name = nameOf(path)
	}
	if err := checkName(name); err != nil {
		return api.OperatorKey{}, err
	}
	fingerprint, err := spkiFingerprint(spki)
	if err != nil {
		return api.OperatorKey{}, err
	}
	return api.OperatorKey{Name: name, Public: spki, Fingerprint: fingerprint.String()}, nil
}

// readOperators refuses one that is named twice, by its file.
func readOperators(paths []string) ([]api.OperatorKey, error) {
	var list []api.OperatorKey
	for i, path := range paths {
		operator, err := readOperator(path)
		if err != nil {
			return nil, err
		}
		for j, other := range list {
			if other.Fingerprint == operator.Fingerprint {
				return nil, hint("leave "+path+" out: who approves twice counts once", usage("%s and %s are the same operator", paths[j], path))
			}
			if other.Name == operator.Name {
				return nil, hint("change the name in the first line of "+paths[i], usage("%s and %s are both called %s", paths[j], path, operator.Name))
			}
		}
		list = append(list, operator)
	}
	return list, nil
}

func (a *app) operatorAdd() *cobra.Command {
	var approvals int
	var f ceremonyFlags
	c := &cobra.Command{
		Use:   "add FILE.pub...",
		Short: "open a govern ceremony that adds operators",
		Example: `  nodectl operator add bob.pem.pub
  nodectl operator add bob.pem.pub carol.pem.pub --approvals 2`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			request := api.GovernRequest{Approvals: approvals, CeremonyTerms: f.terms()}
			for _, path := range args {
				operator, err := readOperator(path)
				if err != nil {
					return err
				}
				request.Add = append(request.Add, operator)
			}
			return a.govern(c, request, f, nil)
		},
	}
	c.Flags().IntVar(&approvals, "approvals", 0, "new `NUMBER` of approvals that a ceremony needs; 0 keeps it")
	f.add(c)
	return c
}

func (a *app) operatorRemove() *cobra.Command {
	var approvals int
	var f ceremonyFlags
	c := &cobra.Command{
		Use:     "remove NAME|FINGERPRINT...",
		Short:   "open a govern ceremony that removes operators",
		Example: `  nodectl operator remove bob --reason "left the company"`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.govern(c, api.GovernRequest{Approvals: approvals, Remove: args, CeremonyTerms: f.terms()}, f, nil)
		},
	}
	c.Flags().IntVar(&approvals, "approvals", 0, "new `NUMBER` of approvals that a ceremony needs; 0 keeps it")
	f.add(c)
	return c
}

func (a *app) operatorList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the operators and how many must approve", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var set api.OperatorSet
			if err := a.ask(ctx, api.OperatorList, nil, &set); err != nil {
				return err
			}
			return a.show(set, func(w io.Writer) {
				row(w, "NAME", "FINGERPRINT")
				for _, o := range set.Operators {
					row(w, o.Name, o.Fingerprint)
				}
				a.say("set %d: %d of %d must approve", set.Number, set.Approvals, len(set.Operators))
			})
		},
	}
}

func spkiFingerprint(spki []byte) (client.Fingerprint, error) {
	public, err := parseSPKI(spki)
	if err != nil {
		return client.Fingerprint{}, err
	}
	return client.KeyFingerprint(public)
}
