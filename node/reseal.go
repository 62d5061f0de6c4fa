package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// The file "reseal" is there from before the first thing is sealed under another
// secret until nothing is left under the former one: magic, and the former
// secret (32 bytes) in a box of purpose "reseal" of the next one, with magic as
// context.
const (
	resealFile    = "reseal"
	resealMagic   = "KCRESEAL1\n"
	resealPurpose = "reseal"
)

// Reseal seals everything of this node that its seal secret seals, and its
// device where that follows the same secret, under another one of 32 bytes.
// Node key, share and device stay what they are. When it returns nil, present
// opens nothing of this node any more, old copies of its files aside; both
// secrets are the caller's to wipe.
//
// Have the node read next at its starts from then on. Killed or failed half way,
// it is finished by a start with next, or by repeating it; present is refused.
func (n *Node) Reseal(ctx context.Context, present, next *hsm.Secret) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.ctx.Err() != nil:
		return ErrClosed
	case n.Sealed() != nil:
		return n.Sealed()
	case next.Len() != secret.KeySize:
		return malformed("a seal secret has %d bytes", secret.KeySize)
	case next.Equal(present):
		return malformed("the new seal secret is the present one")
	}
	former, err := n.beginReseal(present, next)
	if err != nil || former == nil {
		return err
	}
	defer former.Wipe()
	n.logger.Info("reseal: the seal secret changes")
	err = n.reseal(ctx, n.resealing(former, next))
	if errors.Is(err, hsm.ErrOwnSeal) { // the first step, so nothing was changed
		return fmt.Errorf("node: reseal: nothing was changed: %w", errors.Join(err, n.files.remove(resealFile)))
	}
	if err != nil {
		return doing(err, "reseal: half done; repeat it, or start the node with the new seal secret")
	}
	n.logger.Info("reseal: the seal secret is changed")
	return nil
}

// beginReseal makes sure that whoever has next can get at what present seals,
// and returns that; nil where next is the node's secret already.
func (n *Node) beginReseal(present, next *secret.Bytes) (*secret.Bytes, error) {
	former, err := formerSeal(n.files, next)
	if errors.Is(err, ErrSealed) {
		return nil, &fsm.Error{Code: fsm.Conflict, Message: "a change to another seal secret was begun and is not finished: repeat that one first"}
	}
	if err != nil {
		return nil, err
	}
	is := n.seal.Load()
	switch {
	case former != nil && !former.Equal(present), former == nil && !is.Equal(next) && !is.Equal(present):
		former.Wipe()
		return nil, &fsm.Error{Code: fsm.NotAllowed, Message: "the present seal secret is another one: nothing was changed"}
	case former != nil || is.Equal(next):
		return former, nil
	}
	box, err := secret.NewBox(next, resealPurpose)
	if err != nil {
		return nil, err
	}
	content := []byte(resealMagic)
	is.With(func(p []byte) { content = append(content, box.Seal(p, []byte(resealMagic))...) })
	if err := n.files.write(resealFile, content); err != nil {
		return nil, doing(err, "reseal: nothing was changed")
	}
	return is.Clone(), nil
}

// formerSeal returns the secret that a change to this one began with; nil where
// no change is under way.
func formerSeal(f files, seal *secret.Bytes) (*secret.Bytes, error) {
	content, err := f.read(resealFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, doing(err, "reseal")
	}
	box, err := secret.NewBox(seal, resealPurpose)
	if err != nil {
		return nil, err
	}
	var former []byte
	if len(content) >= len(resealMagic) && string(content[:len(resealMagic)]) == resealMagic {
		former, err = box.Open(content[len(resealMagic):], []byte(resealMagic))
	}
	if err != nil || len(former) != secret.KeySize {
		return nil, fmt.Errorf("%w: a change of the seal secret was begun and is not finished, and this is not the new one: give the one that it was begun with, and have the node read that at its starts", ErrSealed)
	}
	return secret.Take(former), nil
}

// reseal does it in a running node. Each room changes its file and its box at
// once, so that a failure in between leaves every one of them at work.
func (n *Node) reseal(ctx context.Context, r *resealing) error {
	if err := n.resealDevice(ctx, r); err != nil {
		return err
	}
	for _, room := range []func(*resealing) error{n.pins.reseal, n.shares.releases.reseal, n.shares.reseal, n.device.rejected.reseal} {
		if err := room(r); err != nil {
			return err
		}
	}
	n.identityMu.Lock()
	err := r.identity()
	if err == nil {
		n.seal.Swap(r.next.Clone()).Wipe()
	}
	n.identityMu.Unlock()
	if err != nil {
		return err
	}
	return n.files.remove(resealFile)
}

func (n *Node) resealDevice(ctx context.Context, r *resealing) error {
	if n.config.Device.Reseal == nil {
		return nil
	}
	if err := n.config.Device.Reseal(ctx, r.former, r.next); err != nil {
		return fmt.Errorf("device: %w", err)
	}
	return nil
}

// openBetween opens what lies between two secrets, and finishes their change.
func (n *Node) openBetween(ctx context.Context, former, seal *secret.Bytes) (identity, error) {
	who, err := identityBetween(n.files, former, seal)
	if err != nil {
		return identity{}, err
	}
	if err := n.openDevice(ctx, seal); err != nil {
		if again := n.openDevice(ctx, former); again != nil {
			return identity{}, fmt.Errorf("%w; nor under the former seal secret: %v", err, again)
		}
	}
	r := n.resealing(former, seal)
	r.id = who.node
	if err := n.resealDevice(ctx, r); err != nil {
		return identity{}, errors.Join(doing(err, "reseal"), n.dropDevice())
	}
	for _, step := range []func() error{r.pins, r.releases, r.shares, r.rejected, r.identity, func() error { return n.files.remove(resealFile) }} {
		if err := step(); err != nil {
			return identity{}, errors.Join(doing(err, "reseal"), n.dropDevice())
		}
	}
	n.logger.Info("reseal: a change of the seal secret that was interrupted is finished")
	return who, nil
}

func identityBetween(f files, former, seal *secret.Bytes) (identity, error) {
	var who identity
	var err error
	for _, s := range []*secret.Bytes{seal, former} {
		box, boxErr := secret.NewBox(s, nodeKeyBox)
		if boxErr != nil {
			return identity{}, boxErr
		}
		if who, err = readIdentity(f, box); err == nil || !errors.Is(err, ErrSealed) {
			break
		}
	}
	return who, err
}

func (n *Node) resealing(former, next *secret.Bytes) *resealing {
	return &resealing{files: n.files, logger: n.logger, id: n.id, former: former, next: next}
}

// reseal seals the pins under the next secret.
func (p *pinRoom) reseal(with *resealing) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return with.change(pinPurpose, &p.box, with.pins)
}

// reseal seals the record of releases under the next secret.
func (r *releaseRoom) reseal(with *resealing) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return with.change(releasePurpose, &r.box, with.releases)
}

// reseal seals every share under the next secret. There are several files: after
// a failure some are sealed under each, and both are opened.
func (s *shareRoom) reseal(with *resealing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	former, next, err := with.boxes(dkek.SealPurpose)
	if err != nil {
		return err
	}
	s.box, s.former = next, former
	if err := with.shares(); err != nil {
		return err
	}
	s.former = nil
	return nil
}
