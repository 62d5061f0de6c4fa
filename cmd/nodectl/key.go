package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) keyCommand() *cobra.Command {
	return noun("key", "keys: make, use, rotate, destroy",
		a.keyCreate(), a.keyList(), a.keyShow(), a.keyPublic(),
		a.keySign(), a.keyVerify(), a.keyEncrypt(), a.keyDecrypt(), a.keyDerive(), a.keyMAC(),
		a.keyChange("rotate", "add a version and make it the newest", api.KeyRotate),
		a.keyChange("disable", "keep a key, or one version, from being used", api.KeyDisable),
		a.keyChange("enable", "let it be used again", api.KeyEnable),
		a.keyDelete(), a.keyChange("undelete", "call off a deletion that waits", api.KeyUndelete),
		a.keyLabels(), a.keyDestroyExcept())
}

// checkKeyName is fsm's rule for key names, as a usage error.
func checkKeyName(name string) error {
	if err := fsm.CheckKeyName(name); err != nil {
		return &usageError{err: err}
	}
	return nil
}

// checkKey checks NAME or NAME@VERSION.
func checkKey(key string) error {
	name, version, versioned := strings.Cut(key, "@")
	if err := checkKeyName(name); err != nil {
		return err
	}
	if versioned {
		if n, err := strconv.ParseUint(version, 10, 32); err != nil || n == 0 || strconv.FormatUint(n, 10) != version {
			return usage("version %.40q of %s is not a number from 1", version, name)
		}
	}
	return nil
}

func (a *app) keyCreate() *cobra.Command {
	request := api.KeyCreateRequest{}
	var labels, usages []string
	c := &cobra.Command{
		Use: "create NAME --type TYPE", Short: "make a key",
		Long: `Makes a key in a device. It answers when the key's wrapped blob is committed by
the cluster and proven: from then on the key is never lost.

Types: ` + typeList() + `.
Names are [a-z0-9][a-z0-9._/-]{0,127} and never used again.`,
		Example: `  nodectl key create tables-2026 --type ecdsa-p256
  nodectl key create db/backup --type aes-256 --copies 2 --label owner=storage`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			request.Name = args[0]
			if err := checkKeyName(request.Name); err != nil {
				return err
			}
			if _, err := hsm.ParseKeyType(request.Type); err != nil {
				return &usageError{err: err}
			}
			var err error
			if request.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			if request.Usage, err = parseVerbs(usages); err != nil {
				return err
			}
			var key api.Key
			if err := a.ask(ctx, api.KeyCreate, request, &key); err != nil {
				return err
			}
			return a.showKey(key)
		},
	}
	f := c.Flags()
	f.StringVar(&request.Type, "type", "", "`TYPE` of the key")
	f.IntVar(&request.Copies, "copies", 0, "how `MANY` devices must hold it before it is acknowledged; 0 is the cluster's policy")
	f.StringArrayVar(&labels, "label", nil, "`NAME=VALUE`; again for more")
	f.StringSliceVar(&usages, "usage", nil, "`VERBS` that the key is for; none is all that its type can do")
	f.StringArrayVar(&request.Clients, "client", nil, "`FINGERPRINT` of a client that may use it, and no other; again for more")
	f.BoolVar(&request.Legacy, "legacy", false, "permit weak types, SHA-1 and MD5 (the cluster's policy must too)")
	c.MarkFlagRequired("type")
	c.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(typeNames(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func typeNames() []string {
	var names []string
	for _, t := range hsm.KeyTypes() {
		names = append(names, string(t))
	}
	return names
}

func typeList() string { return strings.Join(typeNames(), " ") }

func parseLabels(texts []string) (map[string]string, error) {
	var labels map[string]string
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usage("label %.80q is not NAME=VALUE", text)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[name] = value
	}
	return labels, nil
}

func (a *app) showKey(key api.Key) error {
	return a.show(key, func(w io.Writer) {
		row(w, "name", key.Name)
		row(w, "type", key.Type)
		row(w, "usage", joinVerbs(key.Usage))
		row(w, "labels", labelText(key.Labels))
		row(w, "copies", key.Copies)
		row(w, "created", when(key.CreatedAt))
		for _, v := range key.Versions {
			state := v.State
			if v.DeleteAt != nil {
				state += " at " + when(*v.DeleteAt)
			}
			if len(v.Except) > 0 {
				state += " except " + strings.Join(v.Except, ", ")
			}
			row(w, fmt.Sprintf("version %d", v.Number), state+", on "+strings.Join(v.HeldBy, ", "))
		}
	})
}

func labelText(labels map[string]string) string {
	var parts []string
	for name, value := range labels {
		parts = append(parts, name+"="+value)
	}
	return sorted(parts)
}

func (a *app) keyList() *cobra.Command {
	var query api.KeyListQuery
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "list keys by name", Args: cobra.NoArgs,
		Example: "  nodectl key list --prefix db/ --label owner=storage",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if limit < 0 {
				return usage("--limit is 0 or more")
			}
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			query.Limit = api.MaxPage
			if limit > 0 && limit < query.Limit {
				query.Limit = limit
			}
			list := api.Keys{Keys: []api.Key{}}
			for key, err := range s.Keys(ctx, query) {
				if err != nil {
					return err
				}
				if limit > 0 && len(list.Keys) == limit {
					list.Next = list.Keys[limit-1].Name
					break
				}
				list.Keys = append(list.Keys, key)
			}
			return a.show(list, func(w io.Writer) {
				row(w, "NAME", "TYPE", "VERSIONS", "STATE", "LABELS")
				for _, k := range list.Keys {
					state := ""
					for _, v := range k.Versions {
						if v.Number == k.Newest {
							state = v.State
						}
					}
					row(w, k.Name, k.Type, len(k.Versions), state, labelText(k.Labels))
				}
			})
		},
	}
	c.Flags().StringVar(&query.Prefix, "prefix", "", "`PREFIX` of the names")
	c.Flags().StringVar(&query.After, "after", "", "begin after this `NAME`")
	c.Flags().StringVar(&query.Label, "label", "", "`NAME` or NAME=VALUE")
	c.Flags().IntVar(&limit, "limit", 0, "at most this `MANY`; 0 is all")
	return c
}

func (a *app) keyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "show a key and its versions", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			var key api.Key
			if err := a.ask(ctx, api.KeyShow, api.KeyQuery{Key: args[0]}, &key); err != nil {
				return err
			}
			return a.showKey(key)
		},
	}
}

func (a *app) keyPublic() *cobra.Command {
	return &cobra.Command{
		Use: "public NAME", Short: "print the public key as SubjectPublicKeyInfo PEM", Args: cobra.ExactArgs(1),
		Example: "  nodectl key public tables-2026 > tables.pub\n  nodectl key public tables-2026@1",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			var found api.PublicKey
			if err := a.ask(ctx, api.KeyPublic, api.KeyQuery{Key: args[0]}, &found); err != nil {
				return err
			}
			return a.show(found, func(w io.Writer) {
				w.Write(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: found.Public}))
			})
		},
	}
}

// keyChange is a verb that takes a key and nothing else.
func (a *app) keyChange(verb, short, route string) *cobra.Command {
	which := "NAME is all versions, NAME@2 is one."
	if verb == "rotate" {
		which = "The versions before it stay as they are: NAME@1 goes on working."
	}
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		Long: lower(short) + ".\n\n" + which,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			if verb == "rotate" && strings.Contains(args[0], "@") {
				return usage("a key is rotated, not a version of it")
			}
			var key api.Key
			if err := a.ask(ctx, route, api.KeyRequest{Key: args[0]}, &key); err != nil {
				return err
			}
			return a.showKey(key)
		},
	}
}

func (a *app) keyDelete() *cobra.Command {
	var after time.Duration
	c := &cobra.Command{
		Use: "delete NAME", Short: "destroy a key, or one version, after a wait", Args: cobra.ExactArgs(1),
		Long: `Starts the wait, 7 days unless the cluster's policy or --after says otherwise, at
whose end the key is destroyed in every device and its blob dropped. Until then
undelete calls it off. It is not erasure of old disks and backups.`,
		Example: "  nodectl key delete old --after 24h\n  nodectl key delete old@1 --yes",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			request := api.KeyDeleteRequest{Key: args[0]}
			if c.Flags().Changed("after") {
				if after < 0 || after > fsm.MaxDeleteWait {
					return usage("--after is between 0 and %v", fsm.MaxDeleteWait)
				}
				seconds := int64(after / time.Second)
				request.AfterSeconds = &seconds
			}
			// It can be called off, so a script need not say --yes.
			if a.asked() {
				if err := a.confirm(args[0] + " is destroyed for ever after the wait, and nothing that only it opens or proves comes back"); err != nil {
					return err
				}
			}
			var key api.Key
			if err := a.ask(ctx, api.KeyDelete, request, &key); err != nil {
				return err
			}
			a.say("nodectl key undelete %s calls it off", args[0])
			return a.showKey(key)
		},
	}
	c.Flags().DurationVar(&after, "after", 0, "the wait, a `DURATION`; else the cluster's policy")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) keyLabels() *cobra.Command {
	return &cobra.Command{
		Use: "labels NAME [LABEL=VALUE...]", Short: "replace all labels of a key", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKeyName(args[0]); err != nil {
				return err
			}
			labels, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			if labels == nil {
				labels = map[string]string{}
			}
			var key api.Key
			if err := a.ask(ctx, api.KeyLabels, api.KeyLabelsRequest{Key: args[0], Labels: labels}, &key); err != nil {
				return err
			}
			return a.showKey(key)
		},
	}
}

func (a *app) keyDestroyExcept() *cobra.Command {
	var nodes []string
	c := &cobra.Command{
		Use: "destroy-except NAME@VERSION --node NODE", Short: "call a version destroyed although a device has not confirmed it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("%s may live on in the devices of %s", args[0], strings.Join(nodes, ", "))); err != nil {
				return err
			}
			var key api.Key
			if err := a.ask(ctx, api.KeyDestroyExcept, api.DestroyExceptRequest{Key: args[0], Nodes: nodes}, &key); err != nil {
				return err
			}
			return a.showKey(key)
		},
	}
	c.Flags().StringArrayVar(&nodes, "node", nil, "`NODE` that will not confirm; again for more")
	c.MarkFlagRequired("node")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}
