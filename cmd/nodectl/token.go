package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"

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
	m := s.file.Cluster.Members[0]
	if via != "" {
		if m, err = s.member(ctx, via); err != nil {
			return err
		}
	}
	peer, err := s.joinAddress(ctx, m)
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

// joinAddress is where a member listens to other nodes, which may be elsewhere
// than its API.
func (s *session) joinAddress(ctx context.Context, m api.Endpoint) (string, error) {
	var list api.Members
	if err := s.do(ctx, api.MemberList, nil, &list); err != nil {
		return "", err
	}
	for _, member := range list.Members {
		if member.ID == m.ID {
			return member.Address, nil
		}
	}
	return "", fmt.Errorf("member %s is not in the list of members", m.Name)
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
