package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/transport"
)

// Stopped is a node that does not run: its data folder, opened to recover its
// cluster from a lost quorum or to restore it from a backup. Nothing that the node would act on is changed before
// operators' signatures over a plan are given. Close it before the node is started.
type Stopped struct {
	node *Node // identity, pins and shares; no device, and no log of its own
}

// OpenStopped opens the data folder of a node that is in a cluster and does not
// run. It wants the seal secret, and leaves the device alone.
func OpenStopped(ctx context.Context, config Config) (_ *Stopped, err error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	n := &Node{config: config, logger: config.Logger, started: config.Now(), stopped: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.openFiles(); err != nil {
		return nil, err
	}
	s := &Stopped{node: n}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, finishLaying(n.logFolder())
}

func (s *Stopped) open(ctx context.Context) error {
	n := s.node
	seal, err := secret.Key(ctx, n.config.Seal, "seal secret")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSealed, err)
	}
	n.seal.Store(seal)
	former, err := formerSeal(n.files, seal)
	if err != nil {
		return err
	}
	if former != nil {
		former.Wipe()
		return errors.New("node: a reseal was interrupted: start the node, which finishes it, and stop it again")
	}
	box, err := n.box(nodeKeyBox)
	if err != nil {
		return err
	}
	who, err := readIdentity(n.files, box)
	if err != nil {
		return err
	}
	if who.cluster == (dkek.ClusterID{}) {
		return ErrNoCluster
	}
	n.id = who.node
	n.identityMu.Lock()
	n.takeOn(who)
	n.identityMu.Unlock()
	if n.pins, err = newPinRoom(n); err != nil {
		return err
	}
	if err := n.pins.complete(); err != nil {
		return err
	}
	if n.marks, err = openPeerMarks(n.files); err != nil {
		n.logger.Warn("what the other members have is forgotten", "reason", err)
	}
	n.directory = newDirectory(n)
	return n.directory.load()
}

// connect lets this node ask the members of a state, as itself. It listens, as
// that is how the transport works, and answers nothing.
func (s *Stopped) connect(state *state) error {
	n := s.node
	n.cluster.Store(&membership{id: state.cluster, state: state})
	if n.server != nil {
		return nil
	}
	var err error
	n.server, err = transport.Listen(transport.Config{
		Identity: n.own.Load().tls, Network: n.config.Network, Listen: n.config.Listen, Advertise: n.config.Advertise,
		Directory: n.directory, Logger: n.logger,
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

// Close lets the data folder go.
func (s *Stopped) Close() error {
	n := s.node
	n.cancel()
	var err error
	if n.server != nil {
		err = n.server.Close()
	}
	n.loops.Wait()
	n.seal.Load().Wipe()
	n.release()
	return err
}

// markFile is where the mark lies; "" in memory.
func (s *Stopped) markFile() string {
	if s.node.config.Memory != nil {
		return ""
	}
	return filepath.Join(s.node.config.Dir, "mark")
}

// finishLaying ends what a crash cut off between the last two steps of lay, and
// drops what it cut off before them.
func finishLaying(folder string) error {
	if folder == "" {
		return nil
	}
	next := folder + ".next"
	if _, err := os.Stat(next); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(folder); err == nil {
		return os.RemoveAll(next)
	}
	if err := os.Rename(next, folder); err != nil {
		return err
	}
	return secret.SyncFolder(filepath.Dir(folder))
}
