package nodetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/hsm/soft"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
)

// PINs of every device under test.
const (
	PIN   = "648219350715284" // long enough to be looked for in a file
	SOPIN = "3537363231383830"
)

// Member is one node under test. What it keeps, and its device, outlive Close,
// Crash and Start.
type Member struct {
	*node.Node // nil while it is not running
	Name       string
	Host       string // in Cluster.Network
	Seal       *hsm.Secret
	// Device fails on purpose where a test asks it to.
	Device *hsmtest.Faulty
	// Config is what Start opens the node with; a test may change it between.
	Config  node.Config
	cluster *Cluster
}

// NewMember prepares a member with an empty data folder and a blank device; it
// is not started.
func (c *Cluster) NewMember() *Member {
	i := len(c.Members)
	m := &Member{Name: fmt.Sprintf("node-%d", i), Host: fmt.Sprintf("10.0.0.%d", i+1), cluster: c, Seal: secret.Random(secret.KeySize)}
	m.Config = node.Config{
		Name: m.Name, Listen: m.Host + ":7400",
		Network: c.Network.Host(m.Host), Seal: secret.Fixed(m.Seal),
	}
	if c.options.Logger != nil {
		m.Config.Logger = c.options.Logger.With("member", m.Name)
	}
	if c.options.Now != nil {
		m.Config.Now = func() time.Time { return c.options.Now(i) }
	}
	if c.options.Dir == "" {
		m.Config.Memory = &node.Memory{}
	} else {
		m.Config.Dir = filepath.Join(c.options.Dir, m.Name)
	}
	m.NewDevice()
	c.Members = append(c.Members, m)
	return m
}

// NewDevice puts a blank device in the place of the old one, as after its death.
// Not while the member is running.
func (m *Member) NewDevice() {
	if m.cluster.options.Dir == "" {
		m.plug(unplugged{soft.NewMemory(soft.Options{Slots: m.cluster.options.Slots})})
	} else if err := os.Remove(m.DeviceFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.cluster.T.Fatal(err)
	}
}

// DeviceFile is where the device of a cluster with Options.Dir lies.
func (m *Member) DeviceFile() string { return m.Config.Dir + "-device" }

func (m *Member) plug(device hsm.Device) {
	m.Device = hsmtest.Fault(device)
	m.Config.Device = hsm.Token{Device: m.Device, PIN: pin(PIN), SOPIN: pin(SOPIN)}
}

// unplugged is a device that its node cannot end: it is plugged in again.
type unplugged struct{ hsm.Device }

func (unplugged) Close() error { return nil }

func pin(text string) hsm.Source {
	return func(context.Context) (*hsm.Secret, error) { return hsm.NewSecret([]byte(text)), nil }
}

// Start opens the node.
func (m *Member) Start() {
	m.cluster.T.Helper()
	m.cluster.Network.Resume(m.Host)
	if m.cluster.options.Dir != "" {
		device, err := soft.Open(soft.Options{Path: m.DeviceFile(), Seal: m.Seal, Slots: m.cluster.options.Slots})
		if err != nil {
			m.cluster.T.Fatalf("%s: device: %v", m.Name, err)
		}
		m.plug(device)
	}
	opened, err := node.Open(m.cluster.T.Context(), m.Config)
	if err != nil {
		m.cluster.T.Fatalf("%s: %v", m.Name, err)
	}
	m.Node = opened
}

// Close ends the node in order.
func (m *Member) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Node.Close(ctx); err != nil {
		m.cluster.T.Logf("%s: close: %v", m.Name, err)
	}
	m.Node = nil
}

// Crash ends the node without a word to the others: its connections are gone
// first, so that nothing it does on its way out is heard.
func (m *Member) Crash() {
	m.cluster.Network.Crash(m.Host)
	m.Close()
}

// Restart is Crash and Start.
func (m *Member) Restart() {
	m.cluster.T.Helper()
	m.Crash()
	m.Start()
}
