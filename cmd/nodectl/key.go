package main

import (
	"fmt"
	"slices"
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
		a.repeats(a.keyCreate()), a.keyList(), a.keyShow(), a.keyPublic(),
		a.keySign(), a.keyVerify(), a.keyEncrypt(), a.keyDecrypt(), a.keyDerive(), a.keyMAC(),
		a.repeats(a.keyChange("rotate", "add a version and make it the newest", api.KeyRotate)),
		a.repeats(a.keyChange("disable", "keep a key, or one version, from being used", api.KeyDisable)),
		a.repeats(a.keyChange("enable", "let it be used again", api.KeyEnable)),
		a.repeats(a.keyDelete()), a.repeats(a.keyChange("undelete", "call off a deletion that waits", api.KeyUndelete)),
		a.repeats(a.keyLabels()), a.repeats(a.keyDestroyExcept()))
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
the cluster and proven: from then on it survives the loss of as many nodes and
operators' keys as cluster status says.

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
				if hsm.KeyType(request.Type).Legacy() {
					way := "a weak type takes --legacy and the cluster's policy, nodectl operator policy --legacy " + request.Type
					return refusedWith(api.CodeNotAllowed, way+", beside the right to create: nodectl client list", err)
				}
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

// keyChange is a verb that takes a key and nothing else.
func (a *app) keyChange(verb, short, route string) *cobra.Command {
	which := "NAME is all versions, NAME@2 is one."
	if verb == "rotate" {
		which = "The versions before it stay as they are: NAME@1 goes on working."
	}
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		Long:    lower(short) + ".\n\n" + which,
		Example: "  nodectl key " + verb + " tables-2026",
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
undelete calls it off. A wait of less than a minute, whoever set it, is at once: it is
asked about, or given --yes. It is not erasure of old disks and backups.`,
		Example: "  nodectl key delete old --after 24h\n  nodectl key delete old@1 --after 0s --yes",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			if after < 0 || after > fsm.MaxDeleteWait {
				return usage("--after is between 0 and %v", fsm.MaxDeleteWait)
			}
			seconds := int64(after / time.Second)
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			if !c.Flags().Changed("after") {
				var policy api.Policy
				if err := s.do(ctx, api.PolicyShow, nil, &policy); err != nil {
					return err
				}
				seconds = policy.DeleteAfterSeconds
			}
			// What can be called off a script need not confirm. The wait goes with the
			// request: it is this one also where the policy changes meanwhile.
			atOnce := seconds < 60
			if a.asked() || atOnce {
				if err := a.confirm(deletionOf(args[0], atOnce)); err != nil {
					return err
				}
			}
			var key api.Key
			if err := s.do(ctx, api.KeyDelete, api.KeyDeleteRequest{Key: args[0], AfterSeconds: &seconds}, &key); err != nil {
				return err
			}
			if !atOnce {
				a.say("nodectl key undelete %s calls it off", args[0])
			}
			return a.showKey(key)
		},
	}
	c.Flags().DurationVar(&after, "after", 0, "the wait, a `DURATION`; else the cluster's policy")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

// deletionOf says what a deletion loses.
func deletionOf(ref string, atOnce bool) string {
	what, when := "every version of key "+ref, "after the wait"
	if strings.Contains(ref, "@") {
		what = "key version " + ref
	}
	if atOnce {
		when = "at once, and cannot be called off"
	}
	return fmt.Sprintf("%s is destroyed for ever %s: nothing that only it opens or signs comes back", what, when)
}

func (a *app) keyLabels() *cobra.Command {
	var more []string
	c := &cobra.Command{
		Use: "labels NAME [LABEL=VALUE...]", Short: "replace all labels of a key", Args: cobra.MinimumNArgs(1),
		Example: `  nodectl key labels db/backup owner=storage tier=gold
  nodectl key labels db/backup --label owner=storage`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKeyName(args[0]); err != nil {
				return err
			}
			labels, err := parseLabels(slices.Concat(args[1:], more))
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
	c.Flags().StringArrayVar(&more, "label", nil, "`NAME=VALUE`, as key create has it; again for more")
	return c
}

func (a *app) keyDestroyExcept() *cobra.Command {
	var nodes []string
	c := &cobra.Command{
		Use: "destroy-except NAME@VERSION --node NODE", Short: "call a version destroyed although a device has not confirmed it", Args: cobra.ExactArgs(1),
		Long: `A version that is destroyed stays "destroying" until the device of every node has
confirmed that it does not hold it; key show names those awaited. For a device that
never will, because it is lost or broken, an operator waives that: once nobody is
awaited the version is "destroyed except" those nodes, whose devices may hold it for
as long as they work. A node that was removed from the cluster is not awaited.
NODE is its whole name, or at least 4 characters of its ID.`,
		Example: "  nodectl key destroy-except old@1 --node node-2",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if err := checkKey(args[0]); err != nil {
				return err
			}
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			var names, ids []string
			for _, text := range nodes {
				m, err := s.memberForGood(ctx, text)
				if err != nil {
					return err
				}
				names, ids = append(names, m.Name), append(ids, m.ID)
			}
			if err := a.confirm(fmt.Sprintf("%s may live on in the devices of %s", args[0], strings.Join(names, ", "))); err != nil {
				return err
			}
			var key api.Key
			if err := s.do(ctx, api.KeyDestroyExcept, api.DestroyExceptRequest{Key: args[0], Nodes: ids}, &key); err != nil {
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
