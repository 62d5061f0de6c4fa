package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
)

// shareFile reads the share file of a node's sharing in force.
func (d *demo) shareFile(n *demoNode) (*fsm.SharingRow, []byte, error) {
	proven, ok := n.View().Proven()
	if !ok {
		return nil, nil, errors.New("no sharing is proven")
	}
	path := filepath.Join(n.dir, "shares", fmt.Sprintf("%d-%d", proven.Plan.Epoch, proven.Plan.Attempt))
	content, err := os.ReadFile(path)
	return proven, content, err
}

// openShare opens the content of a node's share file with its seal secret, as a
// thief with both would.
func openShare(ctx context.Context, n *demoNode, proven *fsm.SharingRow, content []byte) (*dkek.Bundle, error) {
	source, err := secret.ParseSource("file:"+n.seal, "seal secret")
	if err != nil {
		return nil, err
	}
	key, err := secret.Key(ctx, source, "seal secret")
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	box, err := secret.NewBox(key, dkek.SealPurpose)
	if err != nil {
		return nil, err
	}
	sharing := proven.Sharing()
	return dkek.OpenAtRest(box, content, &sharing, n.ID())
}

// tooFew takes t-1 shares, opened with their seal secrets, and combines them.
func (d *demo) tooFew(ctx context.Context) error {
	proven, _, err := d.shareFile(d.nodes[0])
	if err != nil {
		return err
	}
	sharing := proven.Sharing()
	quorum := dkek.ProofQuorums(&proven.Plan)[0]
	var partials []*dkek.Secret
	for _, n := range d.nodes {
		at := -1
		for i, id := range quorum {
			if id == n.ID() {
				at = i
			}
		}
		if at < 0 || len(partials) == len(quorum)-1 {
			continue
		}
		_, content, err := d.shareFile(n)
		if err != nil {
			return err
		}
		bundle, err := openShare(ctx, n, proven, content)
		if err != nil {
			return err
		}
		partial, err := dkek.Partial(&sharing, quorum, bundle)
		bundle.Wipe()
		if err != nil {
			return err
		}
		defer partial.Wipe()
		partials = append(partials, partial)
	}
	sum := secret.New(dkek.Size)
	defer sum.Wipe()
	for _, p := range partials {
		sum.With(func(to []byte) {
			p.With(func(from []byte) {
				for i := range from {
					to[i] ^= from[i]
				}
			})
		})
	}
	if dkek.KCVOf(sum) == proven.KCV {
		return errors.New("t-1 shares gave the DKEK")
	}
	d.proven("%d of %d shares, opened with their seal secrets, combine to check value %s and not %s", len(partials), proven.Plan.Threshold, dkek.KCVOf(sum), proven.KCV)
	if _, err := dkek.Combine(&proven.Plan, partials, proven.KCV); !errors.Is(err, dkek.TooFew) {
		return fmt.Errorf("combining too few was not refused: %w", err)
	}
	return nil
}

// tampered flips one bit of a share.
func (d *demo) tampered(ctx context.Context) error {
	n := d.nodes[0]
	proven, content, err := d.shareFile(n)
	if err != nil {
		return err
	}
	content[len(content)-40] ^= 1
	_, err = openShare(ctx, n, proven, content)
	var bad *dkek.ShareError
	if !errors.As(err, &bad) {
		return fmt.Errorf("a share with one flipped bit was not refused: %w", err)
	}
	if bad.Holder != n.ID() {
		return fmt.Errorf("the refusal does not name the holder: %w", err)
	}
	d.proven("one flipped bit in %s's share: %v", n.name, bad)
	return nil
}

// stolen opens a copy of a data folder without its seal secret.
func (d *demo) stolen(ctx context.Context) error {
	n := d.nodes[0]
	copied := &demoNode{name: "thief", dir: filepath.Join(d.dir, "thief"), device: filepath.Join(d.dir, "thief-device")}
	if err := os.CopyFS(copied.dir, os.DirFS(n.dir)); err != nil {
		return err
	}
	guess := filepath.Join(d.dir, "seal", "guess")
	key := secret.Random(secret.KeySize)
	defer key.Wipe()
	var err error
	key.With(func(p []byte) { err = secret.WriteFile(guess, p) })
	if err != nil {
		return err
	}
	opened, err := d.open(ctx, copied, "file:"+guess)
	if err == nil {
		opened.Close(ctx)
	}
	if !errors.Is(err, node.ErrSealed) {
		return fmt.Errorf("a data folder opened without its seal secret: %w", err)
	}
	d.proven("%s's data folder in other hands stays sealed: it can neither join nor release nor decrypt", n.name)
	return nil
}

// forged asks for shares with approvals that Alice never gave.
func (d *demo) forged(ctx context.Context) error {
	leader, err := d.leader(ctx)
	if err != nil {
		return err
	}
	opened, err := leader.OpenDrill(ctx, node.CeremonyOptions{Purpose: "mischief", Node: leader.ID()})
	if err != nil {
		return err
	}
	mallory, err := newDemoOperator("mallory")
	if err != nil {
		return err
	}
	before := d.releases()
	if err := mallory.approve(ctx, leader.Node, opened.ID); !errors.Is(err, fsm.NotAllowed) {
		return fmt.Errorf("a stranger's approval was not refused: %w", err)
	}
	d.proven("Mallory approves: refused, she is no operator")
	mallory.public = d.operator.public
	if err := mallory.approve(ctx, leader.Node, opened.ID); !errors.Is(err, fsm.NotAllowed) {
		return fmt.Errorf("a forged signature was not refused: %w", err)
	}
	d.proven("Mallory signs in Alice's name: refused, the signature is not Alice's")
	if d.releases() != before {
		return errors.New("a share was released")
	}
	d.proven("no holder released anything")
	return nil
}
