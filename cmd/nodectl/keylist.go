package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"strings"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

func (a *app) showKey(key api.Key) error {
	return a.show(key, func(w io.Writer) {
		row(w, "name", key.Name)
		row(w, "type", key.Type)
		row(w, "usage", joinVerbs(key.Usage))
		row(w, "labels", labelText(key.Labels))
		row(w, "copies", key.Copies)
		row(w, "created", when(key.CreatedAt))
		for _, v := range key.Versions {
			row(w, fmt.Sprintf("version %d", v.Number), versionText(v))
		}
	})
}

// versionText is a version's state, and which nodes it is about.
func versionText(v api.KeyVersion) string {
	text := v.State
	if v.DeleteAt != nil {
		text += " at " + when(*v.DeleteAt)
	}
	if len(v.Awaiting) > 0 {
		text += ", not confirmed by " + strings.Join(v.Awaiting, ", ")
	}
	switch {
	case v.State == api.VersionDestroyedExcept:
		text += " " + strings.Join(v.Except, ", ")
	case len(v.Except) > 0:
		text += ", waived for " + strings.Join(v.Except, ", ")
	}
	if len(v.HeldBy) > 0 || !v.Gone() {
		text += ", on " + strings.Join(v.HeldBy, ", ")
	}
	return text
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
		Long: `Lists the keys that you may see, with how many versions each has and in which
states they are: "destroying" until every device has confirmed that it does not hold
the version any more (key show names those awaited), then "destroyed", or
"destroyed except" where an operator waived some. --prefix and --label choose, together where both are given;
--label NAME is every key with that label, whatever its value. Without --limit
all are listed; with it, --after takes the last name of the list before.`,
		Example: `  nodectl key list --prefix db/ --label owner=storage
  nodectl key list --limit 50 --after db/tables-2025`,
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
			list, err := s.keys(ctx, query, limit)
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				row(w, "NAME", "TYPE", "VERSIONS", "STATES", "LABELS")
				for _, k := range list.Keys {
					row(w, k.Name, k.Type, len(k.Versions), statesOf(k), labelText(k.Labels))
				}
				if list.Next != "" {
					a.say("there may be more: --after %s", list.Next)
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

// keys reads pages until there are no more, or limit keys; 0 is all.
func (s *session) keys(ctx context.Context, query api.KeyListQuery, limit int) (api.Keys, error) {
	done := s.app.busy(doing(api.KeyList))
	list, oldest, err := s.keyPages(ctx, query, limit)
	done()
	s.sayAge(oldest, err)
	return list, err
}

// keyPages also returns the answer whose state was the oldest.
func (s *session) keyPages(ctx context.Context, query api.KeyListQuery, limit int) (list api.Keys, oldest client.Answer, err error) {
	list.Keys = []api.Key{}
	for {
		var page api.Keys
		answer, err := s.Do(ctx, api.KeyList, query, &page)
		if err != nil {
			return list, oldest, err
		}
		if oldest.Node == "" || answer.StateAge < 0 || oldest.StateAge >= 0 && answer.StateAge > oldest.StateAge {
			oldest = answer
		}
		list.Keys = append(list.Keys, page.Keys...)
		if limit > 0 && len(list.Keys) > limit {
			list.Keys, list.Next = list.Keys[:limit], list.Keys[limit-1].Name
			return list, oldest, nil
		}
		if page.Next == "" || page.Next <= query.After { // no page twice, whatever a server says
			return list, oldest, nil
		}
		query.After = page.Next
	}
}

// statesOf counts a key's versions by their states: "enabled", or "2 enabled, 1
// destroyed".
func statesOf(k api.Key) string {
	var parts []string
	for _, state := range api.VersionStates() {
		n := 0
		for _, v := range k.Versions {
			if v.State == state {
				n++
			}
		}
		switch {
		case n > 0 && n == len(k.Versions):
			return state
		case n > 0:
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) keyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "show a key and its versions", Args: cobra.ExactArgs(1),
		Example: "  nodectl key show tables-2026",
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
