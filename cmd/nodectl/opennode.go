package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"

	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
)

// openNode opens the device and the node that a configuration describes.
func openNode(ctx context.Context, cfg *config, logger *slog.Logger) (daemon, error) {
	seal, err := secret.ParseSource(cfg.SealSource, "seal secret")
	if err != nil {
		return nil, err
	}
	config := node.Config{
		Dir: cfg.Dir, Name: cfg.Name, Listen: cfg.Listen, Advertise: cfg.Advertise, APIListen: cfg.APIListen,
		Socket: cfg.Socket, Seal: seal, Logger: logger,
	}
	if cfg.APICert != "" {
		certificate, err := tls.LoadX509KeyPair(cfg.APICert, cfg.APICertKey)
		if err != nil {
			return nil, fmt.Errorf("api-cert: %w", err)
		}
		config.APICertificate = &certificate
	}
	// A software device may lie in the data folder, which is made first.
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if config.Device, err = drivers.Open(ctx, cfg.Device); err != nil {
		return nil, err
	}
	// The node owns the device from here on.
	n, err := node.Open(ctx, config)
	if err != nil {
		return nil, err
	}
	return n, nil
}
