// Package node is a custodian: one process with one device, member of a cluster
// that keeps keys.
//
// Open a node, then [Node.Init] a cluster or [Node.Join] one. Once operators have
// approved a create ceremony the cluster has a DKEK and [Node.CreateKey] makes
// keys, each a crypto.Signer or crypto.Decrypter.
//
//	token, err := drivers.Open(ctx, "soft:/var/lib/keycustodian/device")
//	n, err := node.Open(ctx, node.Config{Dir: dir, Name: "a", Listen: "10.0.0.1:7400", Device: token, Seal: seal})
//	key, err := n.CreateKey(ctx, node.KeySpec{Name: "tables-2026", Type: hsm.ECDSAP256})
//	signature, err := key.Sign(rand.Reader, digest, crypto.SHA256)
//
// Guaranteed: a key that CreateKey has returned is committed by a majority and
// was proven from its backup; nothing that this package logs, returns as an
// error or hands to another node holds a private key, a share or the DKEK in
// the clear. Not guaranteed: that the process's own memory is safe from whoever
// controls the host. DESIGN.md beside this file says how the parts act together.
package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/transport"
)

// Node is one custodian. Its methods may be called concurrently.
type Node struct {
	config  Config
	logger  *slog.Logger
	files   files
	release func() // lets the data folder go
	started time.Time

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	loops  sync.WaitGroup

	mu      sync.Mutex // held while the node unseals, enters a cluster or closes
	sealed  atomic.Pointer[error]
	seal    atomic.Pointer[secret.Bytes] // changed by Reseal, under mu
	fatal   atomic.Pointer[error]
	stopped chan struct{} // closed once, when the node cannot go on

	// Set by unseal, in this order, and constant afterwards.
	id          dkek.NodeID
	key         crypto.Signer
	spki        []byte // DER SubjectPublicKeyInfo of key
	fingerprint dkek.Fingerprint
	server      *transport.Server
	directory   *directory

	// Set when the node enters its cluster.
	cluster atomic.Pointer[membership]

	device     *deviceRoom
	keys       *keyRoom
	upkeep     *upkeepRoom
	pins       *pinRoom
	shares     *shareRoom
	ceremonies *ceremonyRoom
	face       *face
	neighbours neighbours
}

// membership is what a node has from the moment it is in a cluster.
type membership struct {
	id     dkek.ClusterID
	state  *state
	log    replicatedLog
	gossip *transport.Gossip
}

// Open starts a node. A node that was in a cluster goes on in it; one that
// lacks its seal secret, or a secret of its device, and has a socket to be given
// it on, starts sealed, see [Node.Sealed] and [Node.Unseal]. The node owns
// config.Device from here on, also after an error.
func Open(ctx context.Context, config Config) (*Node, error) {
	if err := config.validate(); err != nil {
		if config.Device.Device != nil {
			config.Device.Close()
		}
		return nil, err
	}
	n := &Node{config: config, logger: config.Logger, started: config.Now(), stopped: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.openFiles(); err != nil {
		return nil, errors.Join(err, n.closeDevice())
	}
	starting := fmt.Errorf("%w: it is starting", ErrSealed)
	n.sealed.Store(&starting) // what the socket says until unseal has ended
	n.face = newFace(n)
	if err := n.face.startSocket(); err != nil {
		n.Close(ctx)
		return nil, err
	}
	n.mu.Lock()
	err := n.unseal(ctx, config.Seal)
	n.mu.Unlock()
	if errors.Is(err, ErrSealed) && config.Socket != "" {
		n.logger.Error("the node starts sealed", "reason", err)
		return n, nil
	}
	if err != nil {
		n.Close(ctx)
		return nil, err
	}
	return n, nil
}

func (n *Node) openFiles() error {
	if n.config.Memory != nil {
		release, err := n.config.Memory.take()
		n.files, n.release = &n.config.Memory.files, release
		return err
	}
	folder, release, err := openDisk(n.config.Dir)
	n.files, n.release = folder, release
	return err
}

// openRooms makes the rooms and has them read their files; nothing runs yet.
func (n *Node) openRooms() (err error) {
	n.device = newDeviceRoom(n)
	if n.pins, err = newPinRoom(n); err != nil {
		return err
	}
	if n.shares, err = newShareRoom(n); err != nil {
		return err
	}
	if n.keys, err = newKeyRoom(n); err != nil {
		return err
	}
	n.upkeep = newUpkeepRoom(n)
	n.ceremonies = newCeremonyRoom(n)
	return nil
}

func (n *Node) listen() error {
	identity, err := transport.NewIdentity(n.key)
	if err != nil {
		return fmt.Errorf("node: identity: %w", err)
	}
	n.fingerprint = dkek.Fingerprint(identity.Fingerprint())
	n.directory = newDirectory(n)
	n.server, err = transport.Listen(transport.Config{
		Identity: identity, Network: n.config.Network, Listen: n.config.Listen, Advertise: n.config.Advertise,
		APIListen: n.config.APIListen, APICertificate: n.config.APICertificate, Directory: n.directory, Logger: n.logger,
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.face.serve(n.server.API())
	return nil
}

// enter starts the cluster side of the node: the log, then every room.
func (n *Node) enter(id dkek.ClusterID) error {
	m := &membership{id: id, state: &state{Machine: fsm.New()}}
	if err := n.directory.load(); err != nil {
		return err
	}
	log, err := n.openLog(m)
	if err != nil {
		return err
	}
	m.log = log
	n.cluster.Store(m)
	n.handleLog(log)
	n.startMembers()
	n.guardRollback(log.Stats().LastIndex)
	n.compareStates()
	n.learnMembers()
	n.device.start()
	n.pins.start()
	n.shares.start()
	n.keys.start()
	n.upkeep.start()
	n.ceremonies.start()
	n.keepAudit()
	return n.startGossip(m)
}

// Close ends the node in order: no new requests, then the log, then
// connections, then the device. ctx bounds the hand-over of leadership.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return nil
	}
	var errs []error
	n.face.close()
	n.cancel()
	if m := n.cluster.Load(); m != nil {
		if m.gossip != nil {
			errs = append(errs, m.gossip.Close())
		}
		errs = append(errs, m.log.Close(ctx))
	}
	if n.server != nil {
		errs = append(errs, n.server.Close())
	}
	n.loops.Wait()
	errs = append(errs, n.closeDevice())
	n.seal.Load().Wipe()
	n.release()
	return errors.Join(errs...)
}

// Done is closed when the node has stopped for good by itself, because it was
// removed or must not go on; Err says why. Close it then.
func (n *Node) Done() <-chan struct{} { return n.stopped }

// Err says why the node has stopped by itself, or nil.
func (n *Node) Err() error {
	if err := n.fatal.Load(); err != nil {
		return *err
	}
	return nil
}

// stop ends the node's work for good; the process is expected to exit.
func (n *Node) stop(err error) {
	if n.fatal.CompareAndSwap(nil, &err) {
		n.logger.Error("the node stops", "reason", err)
		close(n.stopped)
	}
}

// Sealed says why the node is sealed, or nil.
func (n *Node) Sealed() error {
	if err := n.sealed.Load(); err != nil {
		return *err
	}
	return nil
}

// ID is the node's, for ever. Zero while sealed.
func (n *Node) ID() dkek.NodeID { return n.id }

// Fingerprint is that of the node's public key. Zero while sealed.
func (n *Node) Fingerprint() dkek.Fingerprint { return n.fingerprint }

// Addr is where others reach this node.
func (n *Node) Addr() string { return n.config.Advertise }

// Cluster is the ID of the cluster that the node is in; zero for none.
func (n *Node) Cluster() dkek.ClusterID {
	if m := n.cluster.Load(); m != nil {
		return m.id
	}
	return dkek.ClusterID{}
}

func (n *Node) now() time.Time { return n.config.Now() }

// run starts a loop that ends with the node.
func (n *Node) run(loop func(ctx context.Context)) {
	n.loops.Go(func() { loop(n.ctx) })
}

// box derives the box that seals what one purpose keeps on disk.
func (n *Node) box(purpose string) (*secret.Box, error) { return secret.NewBox(n.seal.Load(), purpose) }

func (n *Node) logFolder() string {
	if n.config.Memory != nil {
		return ""
	}
	return filepath.Join(n.config.Dir, "raft")
}
