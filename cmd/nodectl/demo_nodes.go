package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// demoNode is one node of the story: a data folder, a device file, and a seal
// secret that lies elsewhere.
type demoNode struct {
	*node.Node
	name, dir, device, seal string
}

// demoOperator is the person who approves.
type demoOperator struct {
	key    ed25519.PrivateKey
	public fsm.Operator
}

func newDemoOperator(name string) (demoOperator, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return demoOperator{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	return demoOperator{key, fsm.Operator{Name: name, Public: spki}}, err
}

// approve signs the exact bytes of a ceremony's Open.
func (o demoOperator) approve(ctx context.Context, n *node.Node, id fsm.CeremonyID) error {
	c, err := n.Ceremony(ctx, id)
	if err != nil {
		return err
	}
	signature, err := fsm.SignMessage(o.key, fsm.DomainApproval, c.Open)
	if err != nil {
		return err
	}
	return n.Approve(ctx, id, fsm.Approval{Operator: o.public.Fingerprint(), Signature: signature})
}

// start opens a node on a free port of loopback.
func (d *demo) start(ctx context.Context, name string) (*demoNode, error) {
	n := &demoNode{
		name: name, dir: filepath.Join(d.dir, name),
		device: filepath.Join(d.dir, name+"-device"), seal: filepath.Join(d.dir, "seal", name),
	}
	if err := os.MkdirAll(filepath.Dir(n.seal), 0o700); err != nil {
		return nil, err
	}
	key := secret.Random(secret.KeySize)
	defer key.Wipe()
	var err error
	key.With(func(p []byte) { err = secret.WriteFile(n.seal, p) })
	if err != nil {
		return nil, err
	}
	if n.Node, err = d.open(ctx, n, "file:"+n.seal); err != nil {
		return nil, err
	}
	d.nodes = append(d.nodes, n)
	return n, nil
}

func (d *demo) open(ctx context.Context, n *demoNode, seal string) (*node.Node, error) {
	source, err := secret.ParseSource(seal, "seal secret")
	if err != nil {
		return nil, err
	}
	token, err := drivers.Open(ctx, "soft:"+n.device+"?seal-source="+seal)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, errors.Join(err, token.Close())
	}
	return node.Open(ctx, node.Config{Dir: n.dir, Name: n.name, Listen: addr, Device: token, Seal: source})
}

// freeAddress finds a port that nobody uses now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (d *demo) closeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for _, n := range d.nodes {
		n.Close(ctx)
	}
	d.nodes = nil
}

// drop forgets a node that is gone.
func (d *demo) drop(gone *demoNode) {
	kept := d.nodes[:0]
	for _, n := range d.nodes {
		if n != gone {
			kept = append(kept, n)
		}
	}
	d.nodes = kept
}

// leader waits for the node that leads.
func (d *demo) leader(ctx context.Context) (leader *demoNode, err error) {
	err = d.until(ctx, func() string { return "waiting for a leader" }, func() (bool, error) {
		for _, n := range d.nodes {
			if n.Leads() {
				leader = n
				return true, nil
			}
		}
		return false, nil
	})
	return leader, err
}

// join brings a node into the cluster by a token, as an operator's nodectl makes
// it, and waits until it votes.
func (d *demo) join(ctx context.Context, n *demoNode) error {
	leader, err := d.leader(ctx)
	if err != nil {
		return err
	}
	set := fsm.OperatorSet{Cluster: leader.Cluster(), Number: 1, Approvals: 1, Operators: []fsm.Operator{d.operator.public}}
	token := &api.JoinToken{
		Cluster: leader.Cluster(), Address: leader.Addr(), Fingerprint: leader.Fingerprint(),
		Govern: set.Number, Operators: set.Digest(),
	}
	rand.Read(token.Secret[:])
	fingerprint, err := transport.TokenFingerprint(token.Secret[:])
	if err != nil {
		return err
	}
	register := &fsm.TokenCreate{Fingerprint: dkek.Fingerprint(fingerprint), Name: n.name, Expires: time.Now().Add(time.Minute).UnixMilli()}
	if err := leader.ProposeAs(ctx, d.operator.public.Fingerprint(), register); err != nil {
		return err
	}
	if err := n.Join(ctx, token); err != nil {
		return err
	}
	return d.until(ctx, func() string { return n.name + " catches up and gets its vote" }, func() (bool, error) {
		m, ok := n.View().Member(n.ID())
		return ok && m.Voter, nil
	})
}

// perform has a ceremony approved and waits until it has succeeded.
func (d *demo) perform(ctx context.Context, at *demoNode, opened *node.CeremonyInfo) error {
	if err := d.operator.approve(ctx, at.Node, opened.ID); err != nil {
		return err
	}
	return d.ends(ctx, at, opened.ID)
}

func (d *demo) ends(ctx context.Context, at *demoNode, id fsm.CeremonyID) error {
	return d.until(ctx, func() string { return ceremonyLine(ctx, at.Node, id) }, func() (bool, error) {
		c, err := at.Ceremony(ctx, id)
		if err != nil || c.Outcome == fsm.OutcomeOpen {
			return false, err
		}
		if c.Outcome != fsm.OutcomeSuccess {
			return false, fmt.Errorf("the ceremony ended: %s: %s", c.Outcome, c.Detail)
		}
		return true, nil
	})
}

// ceremonyLine says how far a ceremony is.
func ceremonyLine(ctx context.Context, n *node.Node, id fsm.CeremonyID) string {
	c, err := n.Ceremony(ctx, id)
	if err != nil {
		return "waiting"
	}
	done := 0
	for _, step := range c.Steps {
		if step.Done {
			done++
		}
	}
	return fmt.Sprintf("%s: %d of %d steps", c.Kind, done, len(c.Steps))
}
