package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
)

// start opens the device and the node that a configuration describes.
func start(ctx context.Context, cfg *config, logger *slog.Logger) (daemon, error) {
	return startTimed(ctx, cfg, logger, node.Timing{})
}

func startTimed(ctx context.Context, cfg *config, logger *slog.Logger, timing node.Timing) (daemon, error) {
	if _, err := os.Lstat(filepath.Join(cfg.Dir, "identity")); errors.Is(err, fs.ErrNotExist) { // a first start
		where := node.Config{Dir: cfg.Dir, Listen: cfg.Listen, APIListen: cfg.APIListen, Socket: cfg.Socket}
		if err := where.Available(); err != nil {
			return nil, startTrouble(cfg, err)
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, hint("make the data folder, or name another with dir", err)
	}
	c, err := cfg.node(logger)
	if err != nil {
		return nil, err
	}
	c.Timing = timing
	n, err := node.Open(ctx, c)
	if err != nil {
		return nil, startTrouble(cfg, err)
	}
	return n, nil
}

// node is the configuration as the node takes it.
func (cfg *config) node(logger *slog.Logger) (node.Config, error) {
	c := node.Config{
		Dir: cfg.Dir, Name: cfg.Name, Listen: cfg.Listen, Advertise: cfg.Advertise, APIListen: cfg.APIListen, Socket: cfg.Socket,
		Logger: logger, SealWeakness: sealWeakness(cfg),
	}
	var err error
	if c.Advertise, err = advertised(cfg); err != nil {
		return c, err
	}
	if cfg.APICert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.APICert, cfg.APICertKey)
		if err != nil {
			return c, hint("api-cert and api-cert-key are PEM files of one pair", fmt.Errorf("api-cert: %w", err))
		}
		c.APICertificate = &pair
	}
	if c.Seal, err = cfg.seal(); err != nil {
		return c, err
	}
	c.OpenDevice = func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error) {
		token, err := drivers.OpenWith(ctx, cfg.Device, seal)
		if err != nil {
			return token, deviceTrouble(cfg, err)
		}
		return token, nil
	}
	return c, nil
}

// seal is where the node's seal secret comes from. A daemon has no terminal: it
// starts sealed and waits for nodectl device enter seal.
func (c *config) seal() (secret.Source, error) {
	if c.SealSource == "prompt" {
		return func(context.Context) (*secret.Bytes, error) {
			return nil, errors.New("the seal secret is waited for: nodectl device enter seal")
		}, nil
	}
	return secret.ParseSource(c.SealSource, "seal-source")
}

// advertised is where others reach this node: what is configured, else listen.
func advertised(cfg *config) (string, error) {
	if cfg.Advertise != "" {
		return cfg.Advertise, nil
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return "", usage("listen %.80q is not host:port", cfg.Listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "", hint("add advertise: HOST:PORT of this machine", usage("listen %.80q is every address: others must be told one", cfg.Listen))
	}
	return cfg.Listen, nil
}

// sealWeakness says why the seal secret is kept badly, as far as can be seen: on
// the disk that holds the data, one thief has both.
func sealWeakness(cfg *config) string {
	path, ok := strings.CutPrefix(cfg.SealSource, "file:")
	if !ok {
		return ""
	}
	seal, err := os.Stat(path)
	if err != nil {
		return ""
	}
	data, err := os.Stat(cfg.Dir)
	if err != nil {
		return ""
	}
	what := "this node's share"
	if strings.HasPrefix(cfg.Device, "soft:") && !strings.HasPrefix(cfg.Device, "soft:?") {
		what = "the DKEK, and this node's share"
	}
	if relative, err := filepath.Rel(cfg.Dir, path); err == nil && relative != ".." && !strings.HasPrefix(relative, "../") {
		return "it lies in the data folder: one copy of that folder is " + what
	}
	one, sameKind := seal.Sys().(*syscall.Stat_t)
	two, alike := data.Sys().(*syscall.Stat_t)
	if sameKind && alike && one.Dev == two.Dev {
		return "it lies on the disk that holds the data: one disk is " + what
	}
	return ""
}
