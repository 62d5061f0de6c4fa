package node_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/transport"
)

// late is a node whose seal secret comes from a person, and whose device opens
// under that.
type late struct {
	memory node.Memory
	config node.Config
	seal   *hsm.Secret
	opened int
	fail   error // of the device
	closed int
}

type countedClose struct {
	hsm.Device
	closed *int
}

func (c countedClose) Close() error { *c.closed++; return nil }

func newLate(t *testing.T) *late {
	l := &late{seal: secret.Random(secret.KeySize)}
	device := soft.NewMemory(soft.Options{})
	l.config = node.Config{
		Memory: &l.memory, Name: "late", Listen: "10.0.0.1:7400", Network: transport.NewMemory().Host("10.0.0.1"),
		Socket: filepath.Join(t.TempDir(), "s"),
		Seal:   func(context.Context) (*secret.Bytes, error) { return nil, errors.New("it is waited for") },
		OpenDevice: func(_ context.Context, seal *hsm.Secret) (hsm.Token, error) {
			l.opened++
			if !seal.Equal(l.seal) {
				t.Error("the device was opened with another secret than the node's")
			}
			return hsm.Token{Device: countedClose{device, &l.closed}}, l.fail
		},
	}
	return l
}

func (l *late) open(t *testing.T) *node.Node {
	t.Helper()
	n, err := node.Open(t.Context(), l.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n
}

// A node without its seal secret starts, says what it lacks, and touches no
// device until it is given the right one.
func TestStartsSealed(t *testing.T) {
	l := newLate(t)
	n := l.open(t)
	if err := n.Sealed(); !errors.Is(err, node.ErrSealed) || !strings.Contains(err.Error(), "waited for") {
		t.Fatalf("sealed: %v", err)
	}
	if l.opened > 0 {
		t.Error("the device was opened without the secret")
	}
	if err := n.Unseal(t.Context(), l.seal); err != nil || n.Sealed() != nil || n.ID() == [16]byte{} {
		t.Fatalf("unseal: %v", err)
	}
	if status, err := n.Device(t.Context()); err != nil || status.Info.Kind != "soft" {
		t.Errorf("its device: %+v, %v", status.Info, err)
	}
	id := n.ID()
	if err := n.Close(t.Context()); err != nil || l.closed != 1 {
		t.Errorf("close: %v, the device %d times", err, l.closed)
	}

	// Sealed anew, another secret is refused before it gets to the device.
	n, l.opened = l.open(t), 0
	err := n.Unseal(t.Context(), secret.Random(secret.KeySize))
	if !errors.Is(err, node.ErrSealed) || !strings.Contains(n.Sealed().Error(), "not the seal secret") || l.opened > 0 {
		t.Errorf("another secret: %v, the device was opened %d times", err, l.opened)
	}
	if err := n.Unseal(t.Context(), l.seal); err != nil || n.ID() != id {
		t.Errorf("the right secret afterwards: %v", err)
	}
}

// A device that cannot be opened yet leaves the node sealed with that reason;
// one that is broken ends a start, and a start only.
func TestSealedByItsDevice(t *testing.T) {
	l := newLate(t)
	l.fail = hsm.ErrNoSecret
	n := l.open(t)
	for _, l.fail = range []error{hsm.ErrNoSecret, hsm.ErrStorage} {
		err := n.Unseal(t.Context(), l.seal)
		if !errors.Is(err, node.ErrSealed) || !errors.Is(n.Sealed(), l.fail) {
			t.Errorf("%v: %v, sealed: %v", l.fail, err, n.Sealed())
		}
		if len(l.memory.Files("")) > 0 {
			t.Errorf("%v: an identity was written under a secret that fits no device", l.fail)
		}
	}
	l.fail = nil
	if err := n.Unseal(t.Context(), l.seal); err != nil || n.Sealed() != nil {
		t.Fatalf("once it opens: %v", err)
	}
	n.Close(t.Context())

	l.config.Seal = secret.Fixed(l.seal)
	l.fail = hsm.ErrNoSecret
	if n = l.open(t); !errors.Is(n.Sealed(), hsm.ErrNoSecret) {
		t.Errorf("sealed: %v", n.Sealed())
	}
	n.Close(t.Context())
	l.fail = hsm.ErrStorage
	if _, err := node.Open(t.Context(), l.config); !errors.Is(err, hsm.ErrStorage) || errors.Is(err, node.ErrSealed) {
		t.Errorf("a broken device: %v", err)
	}
	l.config.Device = hsm.Token{Device: soft.NewMemory(soft.Options{})}
	if _, err := node.Open(t.Context(), l.config); err == nil || !strings.Contains(err.Error(), "one of Device and OpenDevice") {
		t.Errorf("two devices: %v", err)
	}
}
