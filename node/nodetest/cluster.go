// Package nodetest starts clusters of custodians in memory, for the tests of
// programs that embed one.
//
// Everything runs on the test's own goroutines, network and devices in memory,
// so that inside a testing/synctest bubble elections, failovers and waits cost
// no wall time:
//
//	synctest.Test(t, func(t *testing.T) {
//		cluster := nodetest.Start(t, 3)
//		key, err := cluster.Leader().CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256})
//		cluster.Members[0].Crash()
//	})
//
// Outside a bubble the same calls work and take their real time.
package nodetest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// Options say what cluster to start. The zero value is one operator, one
// approval, default policy.
type Options struct {
	Operators int // how many; 0 is 1
	Approvals int // how many must approve; 0 is 1
	Policy    fsm.Policy
	// Slots is how many keys each device holds; 0 is plenty.
	Slots int
	// Blank leaves the cluster without a DKEK.
	Blank bool
	// Dir keeps data folders and device files below it, in node-0, node-1 and so
	// on, instead of in memory. In a synctest bubble the time that disks take is none.
	Dir string
	// Now, if set, is asked for each member's clock.
	Now func(member int) time.Time
	// Logger, if set, gets what the members log, each line with its member's name as
	// "member"; else it is dropped.
	Logger *slog.Logger
}

// Cluster is a cluster under test. It ends with the test.
type Cluster struct {
	T         testing.TB
	Network   *transport.Memory
	Operators []*Operator
	Members   []*Member
	options   Options
}

// Operator is a person with a key.
type Operator struct {
	Name string
	Key  ed25519.PrivateKey
}

// Public is the operator as a cluster knows it.
func (o *Operator) Public() fsm.Operator {
	public, err := x509.MarshalPKIXPublicKey(o.Key.Public())
	if err != nil {
		panic(err) // an Ed25519 key always encodes
	}
	return fsm.Operator{Name: o.Name, Public: public}
}

// NewOperator draws an operator.
func NewOperator(name string) *Operator {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return &Operator{Name: name, Key: key}
}

// Start starts a cluster of n members with software devices and a proven DKEK.
func Start(t testing.TB, n int) *Cluster { return StartWith(t, n, Options{}) }

// StartWith is Start with options.
func StartWith(t testing.TB, n int, options Options) *Cluster {
	t.Helper()
	c := &Cluster{T: t, Network: transport.NewMemory(), options: options}
	for i := range max(options.Operators, 1) {
		c.Operators = append(c.Operators, NewOperator(fmt.Sprintf("operator-%d", i)))
	}
	t.Cleanup(c.stop)
	first := c.NewMember()
	first.Start()
	init := node.InitOptions{Name: "test", Approvals: options.Approvals, Policy: options.Policy}
	for _, o := range c.Operators {
		init.Operators = append(init.Operators, o.Public())
	}
	if _, err := first.Init(t.Context(), init); err != nil {
		t.Fatalf("init: %v", err)
	}
	for range n - 1 {
		c.Add()
	}
	if !options.Blank {
		c.CreateDKEK()
	}
	return c
}

func (c *Cluster) stop() {
	for _, m := range c.Members {
		if m.Node != nil {
			m.Close()
		}
	}
	if inBubble() {
		// memberlist's probes end by their own timeouts, and a bubble's clock
		// stops with the test.
		time.Sleep(time.Minute)
	}
}

// inBubble tells whether this runs in a testing/synctest bubble, whose clock
// starts at the beginning of the year 2000.
func inBubble() bool { return time.Now().Year() < 2020 }

// Add starts a new member, has it join by token and waits until it votes.
func (c *Cluster) Add() *Member {
	c.T.Helper()
	m := c.NewMember()
	m.Start()
	token := c.Token()
	if err := m.Join(c.T.Context(), token); err != nil {
		c.T.Fatalf("join: %v", err)
	}
	c.Eventually(m.Name+" votes", func() bool {
		row, ok := m.View().Member(m.ID())
		return ok && row.Voter
	})
	return m
}

// Token makes a join token, as an operator's nodectl does: what it says about
// the operators comes from the test and not from a member.
func (c *Cluster) Token() *api.JoinToken {
	c.T.Helper()
	leader := c.Leader()
	cluster, _ := leader.View().Cluster()
	token := &api.JoinToken{
		Cluster: leader.Cluster(), Address: leader.Addr(), Fingerprint: leader.Fingerprint(),
		Govern: cluster.Operators.Number, Operators: cluster.Operators.Digest(),
	}
	rand.Read(token.Secret[:])
	fingerprint, err := transport.TokenFingerprint(token.Secret[:])
	if err != nil {
		c.T.Fatal(err)
	}
	body := &fsm.TokenCreate{
		Fingerprint: dkek.Fingerprint(fingerprint), Name: "test",
		Expires: leader.Now().Add(time.Hour).UnixMilli(),
	}
	if err := leader.ProposeAs(c.T.Context(), c.Operators[0].Public().Fingerprint(), body); err != nil {
		c.T.Fatalf("token: %v", err)
	}
	return token
}

// Leader waits for a member that leads, and returns it.
func (c *Cluster) Leader() *Member {
	c.T.Helper()
	var leader *Member
	c.Eventually("there is a leader", func() bool {
		i := slices.IndexFunc(c.Members, func(m *Member) bool { return m.Node != nil && m.Leads() })
		if i >= 0 {
			leader = c.Members[i]
		}
		return i >= 0
	})
	return leader
}

// Follower returns a running member that does not lead.
func (c *Cluster) Follower() *Member {
	c.T.Helper()
	leader := c.Leader()
	for _, m := range c.Members {
		if m.Node != nil && m != leader {
			return m
		}
	}
	c.T.Fatal("there is no follower")
	return nil
}

// Eventually polls until the condition holds, and fails the test after a minute.
func (c *Cluster) Eventually(what string, condition func() bool) {
	c.T.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			c.T.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Approve signs the exact bytes of a ceremony's Open by the first k operators.
func (c *Cluster) Approve(id fsm.CeremonyID, k int) {
	c.T.Helper()
	for _, o := range c.Operators[:k] {
		if err := o.Approve(c.T.Context(), c.Leader().Node, id); err != nil {
			c.T.Fatalf("approve: %v", err)
		}
	}
}

// Approve signs a ceremony's Open, as the node shows it, and sends the approval.
func (o *Operator) Approve(ctx context.Context, n *node.Node, id fsm.CeremonyID) error {
	ceremony, err := n.Ceremony(ctx, id)
	if err != nil {
		return err
	}
	signature, err := fsm.SignMessage(o.Key, fsm.DomainApproval, ceremony.Open)
	if err != nil {
		return err
	}
	return n.Approve(ctx, id, fsm.Approval{Operator: o.Public().Fingerprint(), Signature: signature})
}

// CreateDKEK deals the DKEK and waits until it is proven.
func (c *Cluster) CreateDKEK() {
	c.T.Helper()
	opened, err := c.Leader().OpenCreate(c.T.Context(), node.CeremonyOptions{})
	if err != nil {
		c.T.Fatalf("open create: %v", err)
	}
	c.Approve(opened.ID, max(c.options.Approvals, 1))
	c.Done(opened.ID)
}

// Done waits until a ceremony has ended well.
func (c *Cluster) Done(id fsm.CeremonyID) {
	c.T.Helper()
	var last *fsm.Ceremony
	c.Eventually("ceremony "+id.String()+" ends", func() bool {
		for _, m := range c.Members {
			if m.Node == nil {
				continue
			}
			if row, ok := m.View().Ceremony(id); ok && row.Outcome != fsm.OutcomeOpen {
				last = row
				return true
			}
		}
		return false
	})
	if last.Outcome != fsm.OutcomeSuccess {
		c.T.Fatalf("ceremony %s %s: %s: %s", last.Kind, id, last.Outcome, last.Detail)
	}
}
