package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Unseal gives a sealed node its seal secret. If that is the wrong one, or the
// device does not open, the node stays sealed, says why and can be given it
// again. If the node cannot go on after that, it stops, see [Node.Done].
func (n *Node) Unseal(ctx context.Context, seal *hsm.Secret) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return ErrClosed
	}
	if n.Sealed() == nil {
		return nil
	}
	if err := n.Err(); err != nil {
		return err
	}
	err := n.unseal(ctx, secret.Fixed(seal))
	switch {
	case err == nil:
		n.logger.Info("the node is unsealed")
	case n.seal.Load() == nil:
		err = n.remainSealed(err)
	default:
		n.stop(err)
	}
	return err
}

// remainSealed makes err the reason why the node is sealed.
func (n *Node) remainSealed(err error) error {
	if !errors.Is(err, ErrSealed) {
		err = fmt.Errorf("%w: %w", ErrSealed, err)
	}
	n.sealed.Store(&err)
	return err
}

// unseal does everything that needs the seal secret: who am I, what is in my
// device, what do I believe, and if I am in a cluster, go on in it.
func (n *Node) unseal(ctx context.Context, source secret.Source) error {
	seal, err := secret.Key(ctx, source, "seal secret")
	if err != nil {
		return n.remainSealed(err)
	}
	who, err := n.openSealed(ctx, seal)
	if err != nil {
		seal.Wipe()
		if errors.Is(err, ErrSealed) || errors.Is(err, hsm.ErrNoSecret) {
			return n.remainSealed(err)
		}
		return err
	}
	n.seal.Store(seal)
	n.id = who.node
	n.identityMu.Lock()
	n.takeOn(who)
	n.identityMu.Unlock()
	if err := n.openRooms(); err != nil {
		return err
	}
	if who.cluster != (dkek.ClusterID{}) {
		n.belongs.Store(&who.cluster)
	}
	if err := n.listen(); err != nil {
		return err
	}
	inNone := who.cluster == (dkek.ClusterID{})
	if inNone {
		n.meetDevice(ctx)
	}
	n.sealed.Store(nil)
	if inNone {
		return nil
	}
	if err := n.pins.complete(); err != nil {
		return err
	}
	return n.enter(ctx, who.cluster)
}

// meetDevice notes, on a node that is in no cluster, a device that has been in
// one: then the data folder that belongs to it is most likely not mounted.
func (n *Node) meetDevice(ctx context.Context) {
	info, err := n.config.Device.Info(ctx)
	if err != nil || info.State != hsm.Ready {
		return
	}
	n.usedDevice = true
	n.logger.Warn("this node is in no cluster, but its device holds a DKEK: is its data folder mounted?", "device", info.Serial)
}

// openSealed opens what is sealed under this secret, the identity and the
// device, and where there is no identity yet draws one. After an error the
// device is closed again if this opened it.
func (n *Node) openSealed(ctx context.Context, seal *secret.Bytes) (identity, error) {
	former, err := formerSeal(n.files, seal)
	if err != nil {
		return identity{}, err
	}
	if former != nil {
		defer former.Wipe()
		return n.openBetween(ctx, former, seal)
	}
	box, err := secret.NewBox(seal, nodeKeyBox)
	if err != nil {
		return identity{}, err
	}
	who, err := readIdentity(n.files, box)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err != nil && !isNew {
		return identity{}, err
	}
	if isNew {
		// Nobody else's file may get a new owner: what is sealed here would open
		// no more, and its node would be gone.
		if err := noneOf(n.files, pinFile, membersFile); err != nil {
			return identity{}, err
		}
	}
	if err := n.openDevice(ctx, seal); err != nil {
		return identity{}, err
	}
	// Only now: a secret that does not fit the device must not become the node's.
	if isNew {
		who, err = newIdentity(n.files, box)
	}
	if err != nil {
		return identity{}, errors.Join(err, n.dropDevice())
	}
	return who, nil
}

// noneOf refuses a folder that lacks its identity and has other files of a node.
func noneOf(f files, names ...string) error {
	for _, name := range names {
		if _, err := f.read(name); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("node: identity: the file %q is missing and %q is there: put it back, or remove this node and join anew with an empty data folder", identityFile, name)
		}
	}
	return nil
}

// openDevice opens the device that could not be opened without the seal secret.
func (n *Node) openDevice(ctx context.Context, seal *secret.Bytes) error {
	if n.config.OpenDevice == nil {
		return nil
	}
	token, err := n.config.OpenDevice(ctx, seal)
	if err != nil {
		return fmt.Errorf("node: device: %w", err)
	}
	n.config.Device = token
	return nil
}

// dropDevice undoes openDevice.
func (n *Node) dropDevice() error {
	if n.config.OpenDevice == nil || n.config.Device.Device == nil {
		return nil
	}
	err := n.config.Device.Close()
	n.config.Device = hsm.Token{}
	return err
}

func (n *Node) closeDevice() error {
	if n.config.Device.Device == nil {
		return nil
	}
	return n.config.Device.Close()
}
