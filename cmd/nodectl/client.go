package main

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"io"
	"strings"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func parseSPKI(spki []byte) (crypto.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return public, nil
}

func (a *app) clientCommand() *cobra.Command {
	return noun("client", "programs and auditors that use the cluster", a.repeats(a.clientAdd()), a.clientList(), a.clientRemove())
}

func (a *app) clientAdd() *cobra.Command {
	var request api.ClientAddRequest
	var keyPath, role string
	var verbs []string
	c := &cobra.Command{
		Use:   "add --name NAME --public FILE.pub --role user|auditor",
		Short: "let a client's key in",
		Long: `Lets a client's public key in, with what it may do. A user may do the verbs with
the keys under its prefixes; an auditor reads. An operator may do what a user
may.

Verbs: create sign verify encrypt decrypt derive mac rotate manage list random.`,
		Example: `  nodectl operator new --out app.pem
  nodectl client add --name app --public app.pem.pub --role user --prefix db/ --verbs sign,verify,list
  nodectl client add --name reviewer --public reviewer.pem.pub --role auditor`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkName(request.Name); err != nil {
				return err
			}
			request.Role = api.Who(role)
			switch {
			case keyPath == "":
				return usage("client add wants --public FILE.pub")
			case role != "user" && role != "auditor":
				return usage("role %.40q is not user or auditor", role)
			case role == "auditor" && (len(verbs) > 0 || len(request.Prefixes) > 0):
				return usage("an auditor reads: it has no verbs and no prefixes")
			case role == "user" && (len(verbs) == 0 || len(request.Prefixes) == 0):
				return hint(`--prefix "" is every key, --verbs all is every verb`, usage("a user wants --prefix and --verbs"))
			}
			var err error
			if request.Verbs, err = parseVerbs(verbs); err != nil {
				return err
			}
			if _, request.Public, err = readPublic(keyPath); err != nil {
				return err
			}
			var added api.Client
			if err := a.ask(ctx, api.ClientAdd, request, &added); err != nil {
				return refusedWith(api.CodeExists, "choose another name or make another key; a client's are free again after nodectl client remove", err)
			}
			a.say("added %s %s", added.Role, added.Name)
			return a.show(added, func(w io.Writer) { row(w, added.Fingerprint) })
		},
	}
	c.Flags().StringVar(&request.Name, "name", "", "`NAME` of the client")
	c.Flags().StringVar(&keyPath, "public", "", "`FILE` with the client's public key")
	c.Flags().StringVar(&role, "role", "user", "`ROLE`: user or auditor")
	c.Flags().StringArrayVar(&request.Prefixes, "prefix", nil, "`PREFIX` of key names; again for more")
	c.Flags().StringSliceVar(&verbs, "verbs", nil, "`VERBS`, comma separated, or all")
	return c
}

func parseVerbs(names []string) ([]api.Verb, error) {
	if len(names) == 1 && names[0] == "all" {
		return api.Verbs(), nil
	}
	var verbs []api.Verb
	for _, name := range names {
		known := false
		for _, v := range api.Verbs() {
			known = known || name == string(v)
		}
		if !known {
			return nil, usage("unknown verb %.40q: one of %s", name, joinVerbs(api.Verbs()))
		}
		verbs = append(verbs, api.Verb(name))
	}
	return verbs, nil
}

func joinVerbs(verbs []api.Verb) string {
	names := make([]string, len(verbs))
	for i, v := range verbs {
		names[i] = string(v)
	}
	return strings.Join(names, ",")
}

func (a *app) clientList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list users and auditors", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var list api.Clients
			if err := a.ask(ctx, api.ClientList, nil, &list); err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				row(w, "NAME", "ROLE", "PREFIXES", "VERBS", "FINGERPRINT")
				for _, l := range list.Clients {
					row(w, l.Name, l.Role, strings.Join(l.Prefixes, ","), joinVerbs(l.Verbs), l.Fingerprint)
				}
			})
		},
	}
}

func (a *app) clientRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME|FINGERPRINT", Short: "shut a client out and cut its connections", Args: cobra.ExactArgs(1),
		Example: "  nodectl client remove app",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var ack api.Ack
			if err := a.ask(ctx, api.ClientRemove, api.ClientRemoveRequest{Client: args[0]}, &ack); err != nil {
				return err
			}
			return a.done(ack, "removed %s", args[0])
		},
	}
}
