package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
)

// demoKey is a key of the story as it was when it was made.
type demoKey struct {
	name   string
	kind   hsm.KeyType
	public crypto.PublicKey // nil for AES
	sealed []byte           // AES: what the first nodes encrypted
}

var demoMessage = []byte("what was said before the fire is true after it")

func (d *demo) meet(ctx context.Context) (err error) {
	if d.operator, err = newDemoOperator("alice"); err != nil {
		return err
	}
	for _, name := range []string{"a", "b", "c"} {
		n, err := d.start(ctx, name)
		if err != nil {
			return err
		}
		if name == "a" {
			if _, err := n.Init(ctx, node.InitOptions{Name: "demo", Operators: []fsm.Operator{d.operator.public}}); err != nil {
				return err
			}
			d.proven("a begins cluster %.8s; its operator is Alice, whose key no node has", n.Cluster())
			continue
		}
		if err := d.join(ctx, n); err != nil {
			return err
		}
		d.proven("%s joins with a token of Alice's that it never sends, and gets its vote", name)
	}
	return nil
}

func (d *demo) deal(ctx context.Context) error {
	leader, err := d.leader(ctx)
	if err != nil {
		return err
	}
	opened, err := leader.OpenCreate(ctx, node.CeremonyOptions{Purpose: "demo", Reason: "first deal"})
	if err != nil {
		return err
	}
	d.saying("each node draws a secret of its own and deals it to all; the DKEK is the XOR of them")
	if err := d.perform(ctx, leader, opened); err != nil {
		return err
	}
	proven, ok := leader.View().Proven()
	if !ok || proven.Plan.Origin != dkek.Dealt {
		return errors.New("no sharing is proven")
	}
	d.proven("%d holders, any %d of them suffice; in every device the DKEK has the check value %s", len(proven.Plan.Holders), proven.Plan.Threshold, proven.KCV)
	return nil
}

func (d *demo) makeKeys(ctx context.Context) error {
	kinds := []hsm.KeyType{hsm.RSA2048, hsm.RSA3072, hsm.ECDSAP256, hsm.ECDSAP384, hsm.ECDSAP521, hsm.Ed25519, hsm.AES128, hsm.AES256}
	for i, kind := range kinds {
		at := d.nodes[i%len(d.nodes)]
		done := d.app.busy("making " + string(kind))
		key, err := at.CreateKey(ctx, node.KeySpec{Name: "demo/" + string(kind), Type: kind})
		done()
		if err != nil {
			return err
		}
		made := demoKey{name: key.Name(), kind: kind, public: key.Public()}
		if kind.Symmetric() {
			if made.sealed, err = key.Encrypt(ctx, demoMessage, nil); err != nil {
				return err
			}
		}
		d.keys = append(d.keys, made)
		d.proven("%-10s made by %s, committed by a majority, unwrapped again and proven", kind, at.name)
	}
	return nil
}

func (d *demo) useKeys(ctx context.Context) error {
	for _, n := range d.nodes {
		if err := d.checkKeys(ctx, n); err != nil {
			return err
		}
		d.proven("%s signs and decrypts with all %d keys; Go's standard library verifies", n.name, len(d.keys))
	}
	return nil
}

// checkKeys uses every key at one node and has the standard library judge.
func (d *demo) checkKeys(ctx context.Context, n *demoNode) error {
	for _, made := range d.keys {
		key, err := n.Key(ctx, made.name)
		if err != nil {
			return fmt.Errorf("%s at %s: %w", made.name, n.name, err)
		}
		if err := proveKey(ctx, key, made); err != nil {
			return fmt.Errorf("%s at %s: %w", made.name, n.name, err)
		}
	}
	return nil
}

func proveKey(ctx context.Context, key *node.Key, made demoKey) error {
	if made.kind.Symmetric() {
		plain, err := key.DecryptContext(ctx, made.sealed, nil)
		if err != nil {
			return err
		}
		if string(plain) != string(demoMessage) {
			return errors.New("decrypts to something else")
		}
		return nil
	}
	input, options := demoMessage, crypto.SignerOpts(crypto.Hash(0))
	if made.kind != hsm.Ed25519 {
		digest := sha256.Sum256(demoMessage)
		input, options = digest[:], crypto.SHA256
	}
	signature, err := key.Sign(rand.Reader, input, options)
	if err != nil {
		return err
	}
	return verifyWithLibrary(made.public, input, signature)
}

// verifyWithLibrary checks a signature under the public key that was seen first.
func verifyWithLibrary(public crypto.PublicKey, input, signature []byte) error {
	ok := false
	switch public := public.(type) {
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, input, signature) == nil
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(public, input, signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(public, input, signature)
	}
	if !ok {
		return errors.New("the signature does not verify under the key's first public key")
	}
	return nil
}

func (d *demo) burn(ctx context.Context) error {
	gone := d.nodes[len(d.nodes)-1]
	gone.Close(ctx)
	for _, path := range []string{gone.dir, gone.device, gone.seal} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	d.drop(gone)
	if _, err := d.leader(ctx); err != nil {
		return err
	}
	d.proven("%s is gone: data folder, share, device and seal secret", gone.name)
	if err := d.checkKeys(ctx, d.nodes[0]); err != nil {
		return err
	}
	d.proven("the others go on signing")
	return nil
}

func (d *demo) replace(ctx context.Context) error {
	n, err := d.start(ctx, "d")
	if err != nil {
		return err
	}
	if err := d.join(ctx, n); err != nil {
		return err
	}
	d.proven("d joins; its device is blank and it has no share")
	leader, err := d.leader(ctx)
	if err != nil {
		return err
	}
	gone, err := d.memberID(leader, "c")
	if err != nil {
		return err
	}
	opened, err := leader.OpenProvision(ctx, node.CeremonyOptions{Purpose: "demo", Reason: "c burnt", Node: n.ID(), Replaces: gone})
	if err != nil {
		return err
	}
	before := d.releases()
	if err := d.perform(ctx, leader, opened); err != nil {
		return err
	}
	if d.releases() <= before {
		return errors.New("no release was recorded")
	}
	d.proven("Alice approves; a and b each check her signature, record the release, and give their share")
	proven, _ := leader.View().Proven()
	d.proven("the DKEK is put together in d's device, and has the check value %s", proven.KCV)
	return nil
}

func (d *demo) memberID(at *demoNode, name string) (dkek.NodeID, error) {
	for m := range at.View().Members() {
		if m.Name == name {
			return m.ID, nil
		}
	}
	return dkek.NodeID{}, fmt.Errorf("there is no member %s", name)
}

// releases counts the releases that the nodes have in their own files.
func (d *demo) releases() int {
	count := 0
	for _, n := range d.nodes {
		if notes, err := n.Releases(); err == nil {
			count += len(notes)
		}
	}
	return count
}

func (d *demo) everyKeyIsBack(ctx context.Context) error {
	n := d.nodes[len(d.nodes)-1]
	err := d.until(ctx, func() string {
		p := n.RestoreProgress()
		return fmt.Sprintf("d unwraps and proves: %d of %d keys", p.Done, p.Total)
	}, func() (bool, error) {
		p := n.RestoreProgress()
		return p.Total == len(d.keys) && p.Done == p.Total, nil
	})
	if err != nil {
		return err
	}
	if err := d.checkKeys(ctx, n); err != nil {
		return err
	}
	d.proven("all %d keys answer in d's device under their first public keys", len(d.keys))
	return nil
}

func (d *demo) reshare(ctx context.Context) error {
	leader, err := d.leader(ctx)
	if err != nil {
		return err
	}
	before, _ := leader.View().Proven()
	d.saying("Alice's approval covered one reshare: to a, b and d, without c")
	err = d.until(ctx, func() string { return "the old holders deal their partials to the new ones" }, func() (bool, error) {
		now, ok := leader.View().Proven()
		return ok && now.Plan.Epoch > 1 && now.Status == fsm.SharingProven && now.Plan.HolderIndex(d.nodes[len(d.nodes)-1].ID()) >= 0, nil
	})
	if err != nil {
		return err
	}
	now, _ := leader.View().Proven()
	if now.KCV != before.KCV {
		return errors.New("the DKEK changed")
	}
	d.proven("epoch %d is proven in scratch devices: same DKEK, new shares; c's share is worth nothing", now.Plan.Epoch)
	gone, err := d.memberID(leader, "c")
	if err != nil {
		return err
	}
	if err := leader.ProposeAs(ctx, d.operator.public.Fingerprint(), &fsm.MemberRemove{Node: gone, Reason: "burnt"}); err != nil {
		return err
	}
	d.proven("c is removed; its ID never comes back")
	return nil
}
