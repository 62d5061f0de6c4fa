// Package node is a custodian: one process with one device, member of a cluster
// that keeps keys.
//
// Call [Open] at every start of the program. Once in its life the node begins a
// cluster ([Node.Init], the first one) or joins it ([Node.Join]); once in the
// cluster's life an operator deals the DKEK (nodectl dkek create, or
// [Node.OpenCreate] and [Node.Approve]). Then [Node.CreateKey] makes keys and
// [Node.Key] finds them, each a crypto.Signer or crypto.Decrypter:
//
//	seal, err := hsm.ParseSource("credential:seal", "seal secret")
//	n, err := node.Open(ctx, node.Config{Dir: dir, Name: "a", Listen: "10.0.0.1:7400", Seal: seal,
//		OpenDevice: func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error) {
//			return drivers.OpenWith(ctx, "soft:"+filepath.Join(dir, "device"), seal)
//		}})
//	key, err := n.CreateKey(ctx, node.KeySpec{Name: "tables-2026", Type: hsm.ECDSAP256})
//	signature, err := key.Sign(rand.Reader, digest, crypto.SHA256)
//
// What stops a node is said by [Node.Done]; watch it. A program that only uses
// keys needs no node but package client. Tests start clusters by package nodetest.
//
// Guaranteed: a key that CreateKey has returned is committed by a majority and
// was proven from its backup; nothing that this package logs, returns as an
// error or hands to another node holds a private key, a share or the DKEK in
// the clear. Not guaranteed: that the process's own memory is safe from whoever
// controls the host. DESIGN.md beside this file says how the parts act together.
package node

import (
	"context"
	"crypto/rand"
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
	boot    bootID

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	loops  sync.WaitGroup

	mu      sync.Mutex // held while the node unseals, enters a cluster or closes
	sealed  atomic.Pointer[error]
	seal    atomic.Pointer[secret.Bytes] // changed by Reseal, under mu
	fatal   atomic.Pointer[error]
	stopped chan struct{} // closed once, when the node cannot go on

	// Set by unseal, in this order, and constant afterwards.
	id        dkek.NodeID
	server    *transport.Server
	directory *directory
	// usedDevice: in no cluster, and the device has been in one.
	usedDevice bool

	identityMu sync.Mutex // the identity file
	identity   identity
	own        atomic.Pointer[ownKey] // identity.key
	rotating   sync.Mutex             // held while one rotation of the key is tried
	// readsTo is the newest command version that this node reads.
	readsTo atomic.Uint64

	// Set when the node enters its cluster.
	cluster atomic.Pointer[membership]
	belongs atomic.Pointer[dkek.ClusterID] // what it enters at its start; nil where it was in none
	marks   *peerMarks
	heard   heardFrom // who has said in this boot what this node had
	// logBefore is where the log ended at this start.
	logBefore atomic.Uint64

	device     *deviceRoom
	acts       *deviceActs
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
	rand.Read(n.boot[:])
	n.readsTo.Store(fsm.CommandVersion)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.openFiles(); err != nil {
		return nil, errors.Join(err, n.closeDevice())
	}
	starting := errStarting
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
	n.patch()
	return err
}

// openRooms makes the rooms and has them read their files; nothing runs yet.
func (n *Node) openRooms() (err error) {
	n.device, n.acts = newDeviceRoom(n), &deviceActs{node: n}
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
	n.directory = newDirectory(n)
	var err error
	n.server, err = transport.Listen(transport.Config{
		Identity: n.own.Load().tls, Network: n.config.Network, Listen: n.config.Listen, Advertise: n.config.Advertise,
		APIListen: n.config.APIListen, APICertificate: n.config.APICertificate, Directory: n.directory, Logger: n.logger,
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.identityMu.Lock()
	n.takeOn(n.identity) // with both keys of a rotation that is under way
	n.identityMu.Unlock()
	n.face.serve(n.server.API())
	return nil
}

// enter starts the cluster side of the node: the log, then every room.
func (n *Node) enter(ctx context.Context, id dkek.ClusterID) error {
	m := &membership{id: id, state: &state{Machine: fsm.New(), cluster: id}}
	if err := n.wasRemoved(); err != nil {
		return err
	}
	if err := n.directory.load(); err != nil {
		return err
	}
	marks, err := openPeerMarks(n.files)
	if err != nil {
		n.logger.Warn("what the other members have is forgotten", "reason", err)
	}
	n.marks = marks
	if err := errors.Join(n.answerBoot(), n.answerMarks()); err != nil {
		return err
	}
	log, err := n.openLog(ctx, m)
	if err != nil {
		return err
	}
	m.log = log
	n.cluster.Store(m)
	n.handleLog(log)
	if err := n.answerLogEnd(log); err != nil {
		return err
	}
	n.startMembers()
	n.keepMarks()
	n.compareStates()
	n.learnMembers()
	n.compareClocks()
	n.raiseVersions()
	n.startKey()
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
		errs = append(errs, m.log.Close(ctx), n.marks.write())
	}
	if n.server != nil {
		errs = append(errs, n.server.Close())
	}
	n.loops.Wait()
	errs = append(errs, n.closeDevice())
	if n.keys != nil {
		n.keys.uses.summarise(true) // no device, no more uses
	}
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
		if removed, ok := n.view().Removed(n.id); ok { // whoever noticed it first
			n.noteRemoval(removed.Index)
		}
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
func (n *Node) Fingerprint() dkek.Fingerprint {
	if own := n.own.Load(); own != nil {
		return own.fingerprint
	}
	return dkek.Fingerprint{}
}

// Addr is where others reach this node.
func (n *Node) Addr() string { return n.config.Advertise }

// Cluster is the ID of the cluster that the node is in; zero for none.
func (n *Node) Cluster() dkek.ClusterID {
	if m := n.cluster.Load(); m != nil {
		return m.id
	}
	return dkek.ClusterID{}
}

// outside says why the node is in no cluster now: it was in none, or it starts
// and has yet to enter its own.
func (n *Node) outside() error {
	if n.belongs.Load() != nil {
		return fmt.Errorf("%w: the node starts, and has yet to enter its cluster", ErrNoLeader)
	}
	if n.usedDevice {
		return fmt.Errorf("%w. Its device holds a DKEK already: if the node was in a cluster, its data folder is not mounted: stop it, mount that, and start again", ErrNoCluster)
	}
	return ErrNoCluster
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
