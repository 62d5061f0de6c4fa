package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/transport"
)

// Config says what a node is. Dir (or Memory), Name, Listen, Device (or OpenDevice)
// and Seal are required; every other field has a default.
type Config struct {
	// Dir is the data folder, made with mode 0700 where it is missing. One
	// process at a time. Never restore it from a disk image: peers notice.
	Dir string
	// Memory keeps everything in memory instead of Dir: for tests.
	Memory *Memory
	// Name is what people call the node, unique in its cluster:
	// [a-z0-9][a-z0-9-]{0,62}. It can be given to another node once this one
	// is removed; the node ID cannot.
	Name string
	// Listen is the one address for peers and, unless APIListen is set, the
	// API: "10.0.0.1:7400".
	Listen string
	// Advertise is how the others reach Listen; default Listen. It must not be
	// an unspecified address such as 0.0.0.0.
	Advertise string
	// APIListen takes the API away from Listen to an address of its own.
	APIListen string
	// APICertificate is an ordinary server certificate for browsers and
	// proxies, used for the API only. Nil: the node's self-signed one.
	APICertificate *tls.Certificate
	// Socket is the path of the unix socket for local administration; empty
	// for none.
	Socket string
	// Device is the node's HSM. The node closes it.
	Device hsm.Token
	// OpenDevice, in place of Device, opens it once the node has its seal secret,
	// for a device that the same secret seals (drivers.OpenWith): such a device
	// cannot be open in a node that starts sealed, and changes with the secret,
	// see [Node.Reseal]. Called again at each Unseal, and after an interrupted
	// Reseal with the former secret too, until it succeeds. An error that is
	// hsm.ErrNoSecret leaves the node sealed, any other one ends Open. It does not
	// keep seal.
	OpenDevice func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error)
	// Seal fetches the seal secret (32 bytes raw, or 64 hexadecimal digits). Keep it off the
	// disk that holds Dir. A node that cannot get it starts sealed.
	Seal hsm.Source
	// SealWeakness says why the seal secret is kept badly, in words for status;
	// empty where there is nothing to say.
	SealWeakness string
	// Network carries the connections; nil is TCP.
	Network transport.Network
	// Logger gets what happens, never a secret; nil discards it.
	Logger *slog.Logger
	// Now is the node's clock; nil is time.Now. Log time, expiries and audit
	// records come from it, timeouts do not.
	Now func() time.Time
	// Timing is how patient Raft is; the zero value is right for a LAN.
	Timing Timing
}

var nodeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// validate fills in defaults, and says what is wrong and what to do.
func (c *Config) validate() error {
	if (c.Dir == "") == (c.Memory == nil) {
		return errors.New("node: config: set one of Dir and Memory")
	}
	if !nodeName.MatchString(c.Name) {
		return fmt.Errorf("node: config: Name %.80q: wants a letter or digit, then up to 62 of a-z 0-9 -", c.Name)
	}
	if (c.Device.Device == nil) == (c.OpenDevice == nil) {
		return errors.New("node: config: set one of Device and OpenDevice: open one with drivers.Open, or drivers.OpenWith")
	}
	if c.Seal == nil {
		return errors.New("node: config: Seal is missing: a share and the node key are sealed under it")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("node: config: Listen %q: wants HOST:PORT", c.Listen)
	}
	if c.Advertise == "" {
		c.Advertise = c.Listen
	}
	host, port, err := net.SplitHostPort(c.Advertise)
	if err != nil {
		return fmt.Errorf("node: config: Advertise %q: wants HOST:PORT", c.Advertise)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() || port == "0" {
		return fmt.Errorf("node: config: Advertise %q: others cannot dial that: give this node's own address", c.Advertise)
	}
	if c.Network == nil {
		c.Network = transport.TCP()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}
