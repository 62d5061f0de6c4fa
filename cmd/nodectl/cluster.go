package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

func (a *app) clusterCommand() *cobra.Command {
	return noun("cluster", "the cluster and its members", a.clusterInit(), a.clusterToken(), a.clusterJoin(),
		a.clusterMembers(), a.clusterRemove(), a.clusterLeave(), a.clusterStatus(), a.clusterRefresh())
}

func (a *app) clusterInit() *cobra.Command {
	var operators []string
	var approvals int
	var name, out string
	c := &cobra.Command{
		Use: "init --operator FILE.pub", Short: "make a cluster of one node, over that node's socket",
		Long: `Makes a cluster of the node whose socket --addr names, with its first operators,
and writes the cluster file: addresses, the node's fingerprint and the operator
set, no secret. Operators and clients need a copy of it.`,
		Example: `  nodectl --addr unix:/run/keycustodian/socket cluster init --operator alice.pem.pub
  nodectl --addr unix:/run/keycustodian/socket cluster init --operator alice.pem.pub --operator bob.pem.pub --operator carol.pem.pub --approvals 2`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if len(operators) == 0 {
				return usage("cluster init wants --operator FILE.pub: somebody must approve")
			}
			request := api.InitRequest{Name: name, Approvals: max(approvals, 1)}
			if err := checkName(name); err != nil {
				return err
			}
			for _, path := range operators {
				operator, err := readOperator(path)
				if err != nil {
					return err
				}
				request.Operators = append(request.Operators, operator)
			}
			set := makeSet(dkek.ClusterID{}, 1, request.Approvals, request.Operators)
			if err := set.Validate(); err != nil {
				return &usageError{err: err}
			}
			if out == "" {
				out = a.clusterPath()
			}
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return hint("name another file with --out, or move it away", fmt.Errorf("%s is there already: it belongs to a cluster", out))
			}
			return a.init(ctx, request, out)
		},
	}
	c.Flags().StringArrayVar(&operators, "operator", nil, "`FILE.pub` of an operator; again for more")
	c.Flags().IntVar(&approvals, "approvals", 1, "how `MANY` operators must approve a ceremony")
	c.Flags().StringVar(&name, "name", "keycustodian", "`NAME` of the cluster")
	c.Flags().StringVar(&out, "out", "", "`FILE` of the cluster file; else the one of --cluster")
	return c
}

func (a *app) init(ctx context.Context, request api.InitRequest, out string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return err
	}
	c, err := a.socket()
	if err != nil {
		return err
	}
	defer c.Close()
	var made api.InitResponse
	if _, err := c.Do(ctx, api.ClusterInit, request, &made); err != nil {
		return err
	}
	id, err := parseClusterID(made.Cluster.ID)
	if err != nil {
		return err
	}
	// The pin is made of what was typed here, not of what came back.
	set := makeSet(id, 1, request.Approvals, request.Operators)
	if digest := set.Digest().String(); digest != made.Operators.Digest {
		return hint("do not use this cluster", fmt.Errorf("the node pinned other operators than were given"))
	}
	wire := setToWire(set)
	file := &client.ClusterFile{Format: client.ClusterFormat, Cluster: made.Cluster, Operators: &wire}
	if err := file.Write(out); err != nil {
		return err
	}
	a.say("cluster %s (%s) is there; wrote %s: give operators and clients a copy", made.Cluster.ID, made.Cluster.Name, out)
	a.say("next: nodectl cluster token, and on each other node nodectl cluster join; then nodectl dkek create")
	return a.show(made, func(w io.Writer) { row(w, made.Cluster.ID) })
}

// socket is a client for the node's own socket, without credentials.
func (a *app) socket() (*client.Client, error) {
	c, err := client.New(client.Config{Addresses: []string{a.first(a.addr, "NODECTL_ADDR", "")}})
	if err != nil {
		return nil, hint("give the node's socket: --addr unix:/run/keycustodian/socket", usage("this is done on the node itself, over its unix socket"))
	}
	return c, nil
}

func (a *app) clusterJoin() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "join --token-file FILE", Short: "make a node join a cluster, over that node's socket",
		Long: `Makes the node whose socket --addr names join by a token. A token is a secret
until it is used: prefer --token-file (- is stdin) to giving it as an argument,
which other users of the machine can see.`,
		Example: `  nodectl cluster token > token
  nodectl --addr unix:/run/keycustodian/socket cluster join --token-file token`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if (file == "") == (len(args) == 0) {
				return usage("cluster join wants a token: --token-file FILE, or the token itself")
			}
			var text string
			if file != "" {
				content, err := a.readIn(file, 4096)
				if err != nil {
					return err
				}
				text = string(content)
			} else {
				text = args[0]
			}
			if _, err := api.ParseJoinToken(text); err != nil {
				return hint("copy it whole, or make another with nodectl cluster token", err)
			}
			socket, err := a.socket()
			if err != nil {
				return err
			}
			defer socket.Close()
			defer a.busy("joining")()
			var joined api.JoinResponse
			if _, err := socket.Do(ctx, api.ClusterJoin, api.JoinRequest{Token: text}, &joined); err != nil {
				var said *api.Error
				if errors.As(err, &said) && (said.Code == api.CodeNotFound || said.Code == api.CodeNotAllowed || said.Code == api.CodeExpired) {
					return hint("a token works once, and until it expires: ask an operator for another, nodectl cluster token", err)
				}
				return err
			}
			a.say("node %s joined cluster %s; it gets the DKEK by nodectl dkek create, or where there is one: its share by nodectl dkek reshare, its device by nodectl device replace", joined.Node, joined.Cluster.ID)
			return a.show(joined, func(w io.Writer) { row(w, joined.Node) })
		},
	}
	c.Flags().StringVar(&file, "token-file", "", "`FILE` with the token; - is stdin")
	return c
}

func (a *app) clusterMembers() *cobra.Command {
	return &cobra.Command{
		Use: "members", Short: "list the members", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var list api.Members
			if err := a.ask(ctx, api.MemberList, nil, &list); err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { showMembers(w, list.Members) })
		},
	}
}

func showMembers(w io.Writer, members []api.Member) {
	row(w, "NAME", "ID", "ADDRESS", "SUFFRAGE", "STATE", "REACHABLE", "FINGERPRINT")
	for _, m := range members {
		suffrage := m.Suffrage
		if m.Leader {
			suffrage = "leader"
		}
		row(w, m.Name, m.ID, m.Address, suffrage, m.State, yesNo(m.Reachable), m.Fingerprint)
	}
}

func (a *app) clusterRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "remove NODE", Short: "remove a member for ever", Args: cobra.ExactArgs(1),
		Long: `Removes a member. Its connections are cut; its ID never comes back, and its share
is worth nothing after the next reshare. Refused where fewer holders than the
threshold would remain.`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			m, err := s.member(ctx, args[0])
			if err != nil {
				return err
			}
			if m.Name != args[0] && !strings.HasPrefix(m.ID, args[0]) { // repeated for node-1, it must not take node-10
				return hint("give the whole name or the ID: a removal is for ever", fmt.Errorf("no member is called %.80q", args[0]))
			}
			if err := a.confirm(fmt.Sprintf("member %s (%s) is removed for ever, with its share", m.Name, m.ID)); err != nil {
				return err
			}
			if err := s.do(ctx, api.MemberRemove, api.MemberRemoveRequest{Node: m.ID}, &api.Ack{}); err != nil {
				return err
			}
			a.say("removed %s; if nodectl dkek status still names it as a holder, nodectl dkek reshare makes its share worthless", m.Name)
			return s.dropped(ctx)
		},
	}
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) clusterLeave() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "leave --node NODE", Short: "make a member leave by itself", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			m, err := s.member(ctx, node)
			s.end(ctx)
			if err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("member %s (%s) leaves for ever, with its share", m.Name, m.ID)); err != nil {
				return err
			}
			only := *a // the request is for that node alone
			only.addr = m.Address
			if err := only.ask(ctx, api.MemberLeave, api.MemberLeaveRequest{Node: m.ID}, &api.Ack{}); err != nil {
				return err
			}
			a.say("%s has left", m.Name)
			if s, err = a.connect(ctx); err != nil {
				return err
			}
			defer s.Close()
			return s.dropped(ctx)
		},
	}
	c.Flags().StringVar(&node, "node", "", "`NODE` that leaves")
	c.MarkFlagRequired("node")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

// dropped takes a member that this very command has removed out of the cluster
// file. That it could not be is no failure of the command.
func (s *session) dropped(ctx context.Context) error {
	s.app.trusting = true
	if err := s.freshen(ctx); err != nil {
		s.app.say("note: the cluster file was not refreshed: %s", strip(err.Error()))
	}
	return nil
}

func (a *app) clusterRefresh() *cobra.Command {
	return &cobra.Command{
		Use: "refresh", Short: "bring the cluster file up to date, and say what changed", Args: cobra.NoArgs,
		Long: `Takes the members' addresses and keys from the cluster into the cluster file, and
names who came and who went: compare that with what you know. Other commands
refresh the file too, but an operator's file loses a member only here.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.Close()
			if s.file == nil {
				return usage("there is no cluster file to refresh")
			}
			before := s.file.Cluster.Members
			a.trusting = true
			if err := s.freshen(ctx); err != nil {
				return err
			}
			_, gone := memberChanges(before, s.file.Cluster.Members)
			for _, text := range gone {
				a.say("gone from the cluster file: %s", text)
			}
			return a.show(s.file.Cluster, func(w io.Writer) {
				for _, m := range s.file.Cluster.Members {
					row(w, m.Name, m.ID, m.Address, m.Fingerprint)
				}
			})
		},
	}
}

func (a *app) clusterToken() *cobra.Command {
	var expires time.Duration
	var name, via string
	c := &cobra.Command{
		Use: "token", Short: "make a join token for one node (or list, remove)",
		Long: `Draws a secret, registers the fingerprint of the key that it gives with the
cluster, and prints the token. The secret is drawn here and no node ever sees
it before it is used; the operator set in it is the one that you have pinned.`,
		Example: `  nodectl cluster token --expires 1h > token`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if expires < time.Minute || expires > fsm.MaxTokenTime {
				return usage("--expires is between 1m and %v", fsm.MaxTokenTime)
			}
			if name != "" {
				if err := checkName(name); err != nil {
					return err
				}
			}
			return a.makeToken(ctx, api.TokenCreateRequest{Name: name, ExpiresSeconds: int64(expires / time.Second)}, via)
		},
	}
	c.Flags().DurationVar(&expires, "expires", time.Hour, "the token works for `DURATION`")
	c.Flags().StringVar(&name, "name", "", "`NAME` for the list of tokens")
	c.Flags().StringVar(&via, "via", "", "`NODE` that the joiner shall ask; else the first in the cluster file")
	c.AddCommand(a.tokenList(), a.tokenRemove())
	return c
}
