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
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, hint("make the data folder, or name another with dir", err)
	}
	c := node.Config{
		Dir: cfg.Dir, Name: cfg.Name, Listen: cfg.Listen, Advertise: cfg.Advertise, APIListen: cfg.APIListen, Socket: cfg.Socket,
		Logger: logger, SealWeakness: sealWeakness(cfg),
	}
	var err error
	if c.Advertise, err = advertised(cfg); err != nil {
		return nil, err
	}
	if cfg.APICert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.APICert, cfg.APICertKey)
		if err != nil {
			return nil, hint("api-cert and api-cert-key are PEM files of one pair", fmt.Errorf("api-cert: %w", err))
		}
		c.APICertificate = &pair
	}
	if c.Seal, err = cfg.seal(); err != nil {
		return nil, err
	}
	c.OpenDevice = func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error) {
		token, err := drivers.OpenWith(ctx, cfg.Device, seal)
		if err != nil {
			return token, deviceTrouble(cfg, err)
		}
		return token, nil
	}
	n, err := node.Open(ctx, c)
	if err != nil {
		return nil, startTrouble(cfg, err)
	}
	return n, nil
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

// deviceTrouble says what to do about a device that does not open.
func deviceTrouble(cfg *config, err error) error {
	err = fmt.Errorf("device %s: %w", drivers.Redact(cfg.Device), err)
	switch {
	case errors.Is(err, hsm.ErrInUse):
		return hint("one process has a device at a time: stop the other one", err)
	case errors.Is(err, fs.ErrNotExist):
		return hint("make the folder that the device's URI names, or mend the URI", err)
	case errors.Is(err, syscall.ENOSPC):
		return hint("make room on the device's disk, and start again", err)
	case errors.Is(err, hsm.ErrStorage):
		return hint("the device's file is damaged or was sealed under another secret: put the right one back, or delete the file and run nodectl device replace: its keys come back from the cluster", err)
	}
	return hint("mend the device's URI, or plug it in", err)
}

// startTrouble says what to do about a node that does not open.
func startTrouble(cfg *config, err error) error {
	var known *hinted
	err = fmt.Errorf("node %s, data folder %s: %w", cfg.Name, cfg.Dir, err)
	switch {
	case errors.As(err, &known):
		return hint(known.hint, err)
	case errors.Is(err, node.ErrInUse):
		return hint("one process has a data folder at a time: stop the other one", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return hint("another program has this port: stop it, or set another with listen", err)
	case errors.Is(err, syscall.ENOSPC):
		return hint("make room on the disk of the data folder, and start again", err)
	case errors.Is(err, syscall.EACCES):
		return hint("run as the owner of the data folder", err)
	}
	return hint("what cannot be put back: nodectl cluster remove "+cfg.Name+" on another node, then start with an empty data folder and join", err)
}
