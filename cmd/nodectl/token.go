package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/keycustodian/keycustodian/transport"
	"github.com/spf13/cobra"
)

// makeToken registers a token and prints it.
func (a *app) makeToken(ctx context.Context, request api.TokenCreateRequest, via string) error {
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer s.end(ctx)
	set, err := s.pin(ctx)
	if err != nil {
		return err
	}
	m, peer, err := s.sponsor(ctx, via)
	if err != nil {
		return err
	}
	fingerprint, err := client.ParseFingerprint(m.Fingerprint)
	if err != nil {
		return err
	}
	token := &api.JoinToken{Cluster: set.Cluster, Address: peer, Fingerprint: fingerprint, Govern: set.Number, Operators: set.Digest()}
	rand.Read(token.Secret[:])
	defer clear(token.Secret[:])
	registered, err := transport.TokenFingerprint(token.Secret[:])
	if err != nil {
		return err
	}
	text, err := token.Text()
	if err != nil {
		return err
	}
	request.Fingerprint = registered.String()
	var made api.Token
	if err := s.do(ctx, api.TokenCreate, request, &made); err != nil {
		return err
	}
	a.say("works once, until %s; who has it can add one node: pass it on in secret", when(made.ExpiresAt))
	return a.show(map[string]any{"token": text, "fingerprint": request.Fingerprint, "expires_at": made.ExpiresAt},
		func(w io.Writer) { row(w, text) })
}

// sponsor is the member that a joiner shall ask, and where it listens to other nodes,
// which may be elsewhere than its API. Where none is named it is the first in the
// cluster file that the answering node hears from, under the key that the file has.
func (s *session) sponsor(ctx context.Context, via string) (api.Endpoint, string, error) {
	candidates := s.file.Cluster.Members
	if via != "" {
		m, err := s.member(ctx, via)
		if err != nil {
			return m, "", err
		}
		candidates = []api.Endpoint{m}
	}
	var list api.Members
	if err := s.do(ctx, api.MemberList, nil, &list); err != nil {
		return api.Endpoint{}, "", err
	}
	member := func(m api.Endpoint) *api.Member {
		if i := slices.IndexFunc(list.Members, func(member api.Member) bool { return member.ID == m.ID }); i >= 0 {
			return &list.Members[i]
		}
		return nil
	}
	for _, m := range candidates {
		if row := member(m); row != nil && row.Reachable && row.Fingerprint == m.Fingerprint {
			return m, row.Address, nil
		}
	}
	m := candidates[0] // nobody knows better
	if row := member(m); row != nil {
		return m, row.Address, nil
	}
	return m, "", fmt.Errorf("member %s is not in the list of members", m.Name)
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list join tokens by their fingerprints", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var list api.Tokens
			if err := a.ask(ctx, api.TokenList, nil, &list); err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				row(w, "FINGERPRINT", "NAME", "EXPIRES", "USED")
				for _, t := range list.Tokens {
					row(w, t.Fingerprint, t.Name, when(t.ExpiresAt), yesNo(t.Used))
				}
			})
		},
	}
}

func (a *app) tokenRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove FINGERPRINT", Short: "make a join token useless", Args: cobra.ExactArgs(1),
		Example: "  nodectl cluster token remove 8f8a7fef",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var ack api.Ack
			if err := a.ask(ctx, api.TokenRemove, api.TokenRemoveRequest{Fingerprint: args[0]}, &ack); err != nil {
				return err
			}
			return a.done(ack, "removed token %s", args[0])
		},
	}
}
