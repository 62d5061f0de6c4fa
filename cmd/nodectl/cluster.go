package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
		a.clusterMembers(), a.clusterRemove(), a.clusterLeave(), a.clusterRotateKey(), a.clusterStatus(), a.clusterRefresh(), a.clusterBackup(), a.clusterRestore(), a.clusterRecover())
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
			var err error
			if request.Operators, err = readOperators(operators); err != nil {
				return err
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
	done := a.busy(doing(api.ClusterInit))
	_, err = c.Do(ctx, api.ClusterInit, request, &made)
	done()
	if err != nil {
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
				content, err := a.readIn(file, 4096, "that is no join token: give the file with what nodectl cluster token printed")
				if err != nil {
					return err
				}
				text = string(content)
			} else {
				text = args[0]
			}
			if _, err := api.ParseJoinToken(text); err != nil {
				if file != "" {
					err = fmt.Errorf("%s: %w", file, err)
				}
				return hint("copy it whole, or make another with nodectl cluster token", err)
			}
			socket, err := a.socket()
			if err != nil {
				return err
			}
			defer socket.Close()
			var joined api.JoinResponse
			done := a.busy(doing(api.ClusterJoin))
			_, err = socket.Do(ctx, api.ClusterJoin, api.JoinRequest{Token: text}, &joined)
			done()
			if err != nil {
				for _, code := range []api.Code{api.CodeNotFound, api.CodeNotAllowed, api.CodeExpired} {
					err = refusedWith(code, "a token works once, and until it expires: ask an operator for another, nodectl cluster token", err)
				}
				return err
			}
			if joined.Before {
				a.say("node %s was a member of cluster %s already, and used no token", joined.Node, joined.Cluster.ID)
				return a.show(joined, func(w io.Writer) { row(w, joined.Node) })
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
threshold would remain, and where without this member those that answer would be
no majority of the voters, or too few with a readable share. One that does not
answer is not missed.

NODE is the whole name, or at least 4 characters of the ID: repeated for node-1,
which is gone, it must not take node-10.`,
		Example: "  nodectl cluster remove node-2",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			m, err := s.memberForGood(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("member %s (%s) is removed for ever, with its share", m.Name, m.ID)); err != nil {
				return err
			}
			var ack api.Ack
			if err := s.do(ctx, api.MemberRemove, api.MemberRemoveRequest{Node: m.ID}, &ack); err != nil {
				return err
			}
			s.dropped(ctx)
			return a.done(ack, "removed %s; if nodectl dkek status still names it as a holder, nodectl dkek reshare makes its share worthless", m.Name)
		},
	}
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) clusterRotateKey() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "rotate-key", Short: "give a node a new key, over that node's socket", Args: cobra.NoArgs,
		Long: `Gives the node whose socket --addr names a new key pair, the one that it shows
and signs with; its ID, share and device stay. The others stop letting the former
key in as they hear of it, which closes its connections once. The node keeps the
former key until every member knows the new one, and rotates no more until then.
Refused while a ceremony involves the node.

Cluster files and join tokens that name the former fingerprint are of the past:
run cluster refresh where a cluster file lies, and make tokens anew. Rotate one
node at a time: a file that knows no member's fingerprint any more must be copied
from one that does.`,
		Example: `  nodectl --addr unix:/run/keycustodian/socket cluster rotate-key`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			socket, err := a.socket()
			if err != nil {
				return err
			}
			defer socket.Close()
			var rotated api.RotateNodeKeyResponse
			done := a.busy(doing(api.ClusterRotate))
			_, err = socket.Do(ctx, api.ClusterRotate, api.RotateNodeKeyRequest{Node: node}, &rotated)
			done()
			if err != nil {
				return err
			}
			return a.show(rotated, func(w io.Writer) { row(w, rotated.Fingerprint) })
		},
	}
	c.Flags().StringVar(&node, "node", "", "the ID or name that the node must have")
	return c
}

func (a *app) clusterLeave() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "leave --node NODE", Short: "make a member leave by itself", Args: cobra.NoArgs,
		Long: `Asks a member to leave for ever, with its share, while it still runs. Refused like
cluster remove, where those that answer could not do without it. NODE is its whole
name, or at least 4 characters of its ID.`,
		Example: "  nodectl cluster leave --node node-4",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			m, err := s.memberForGood(ctx, node)
			others := otherAddresses(s.members(), m)
			s.end(ctx)
			if err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("member %s (%s) leaves for ever, with its share", m.Name, m.ID)); err != nil {
				return err
			}
			only := *a // the request is for that node alone
			only.addr = m.Address
			var ack api.Ack
			var doubtful *client.OutcomeUnknownError
			left := only.ask(ctx, api.MemberLeave, api.MemberLeaveRequest{Node: m.ID}, &ack)
			if left != nil && !errors.As(left, &doubtful) {
				return left
			}
			// The others may have cut it off before it could hear that it has left.
			only.addr = others
			if s, err = only.connect(ctx); err != nil {
				return errors.Join(left, err)
			}
			defer s.Close()
			s.dropped(ctx)
			if left != nil && slices.Contains(s.members(), m) {
				return left
			}
			return a.done(ack, "%s has left", m.Name)
		},
	}
	c.Flags().StringVar(&node, "node", "", "`NODE` that leaves")
	c.MarkFlagRequired("node")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

// otherAddresses are those of all members but one; empty where there is none.
func otherAddresses(members []api.Endpoint, but api.Endpoint) string {
	var addresses []string
	for _, m := range members {
		if m.ID != but.ID {
			addresses = append(addresses, m.Address)
		}
	}
	return strings.Join(addresses, ",")
}

// dropped takes a member that this very command has removed out of the cluster
// file. That it could not be is no failure of the command.
func (s *session) dropped(ctx context.Context) {
	s.app.trusting = true
	if err := s.freshen(ctx); err != nil {
		s.app.say("note: the cluster file was not refreshed: %s", api.Plain(err.Error()))
	}
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
	c.Flags().StringVar(&via, "via", "", "`NODE` that the joiner shall ask; else the first in the cluster file that answers")
	c.AddCommand(a.tokenList(), a.tokenRemove())
	return c
}
