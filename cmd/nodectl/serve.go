package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"
)

// closeTimeout bounds an orderly end: leadership handed over, answers sent.
const closeTimeout = 15 * time.Second

// daemon is a running node, as far as running it goes.
type daemon interface {
	// Done is closed when the node has stopped for good by itself; Err says why.
	Done() <-chan struct{}
	Err() error
	// Sealed says why the node is sealed, or nil.
	Sealed() error
	Close(ctx context.Context) error
}

// opener starts a node.
type opener func(ctx context.Context, cfg *config, logger *slog.Logger) (daemon, error)

// serve runs a node until ctx ends, which is an orderly end, or until it stops
// by itself, which is a failure.
func (a *app) serve(ctx context.Context, cfg *config) error {
	logger, err := cfg.logger(a.err)
	if err != nil {
		return err
	}
	n, err := a.start(ctx, cfg, logger)
	if err != nil {
		var known *hinted
		if errors.As(err, &known) {
			return err
		}
		return hint("mend the configuration (nodectl run --check) or what it names, and start again", err)
	}
	release, err := writePID(cfg.PIDFile)
	if err != nil {
		return errors.Join(fmt.Errorf("pid-file: %w", err), n.Close(ctx))
	}
	defer release()
	logger.Info("running", "name", cfg.Name, "listen", cfg.Listen, "socket", cfg.Socket)
	state := "READY=1"
	if sealed := n.Sealed(); sealed != nil {
		state += "\nSTATUS=sealed: " + oneLine(sealed.Error())
	}
	if err := notify(a.getenv, state); err != nil {
		logger.Warn("systemd was not told", "error", err)
	}
	select {
	case <-ctx.Done():
		logger.Info("stopping")
	case <-n.Done():
	}
	if err := notify(a.getenv, "STOPPING=1"); err != nil {
		logger.Warn("systemd was not told", "error", err)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	stopped := n.Err() // before Close, which may give it a reason of its own
	if err := n.Close(closing); err != nil {
		err = errors.Join(stopped, fmt.Errorf("the node did not end in order: %w", err))
		if way := machineWay(err); way != "" {
			return hint(way, err)
		}
		return err
	}
	if stopped != nil {
		return hint("see the log above; nodectl cluster status on another node says what the cluster thinks", fmt.Errorf("the node stopped by itself: %w", stopped))
	}
	return nil
}

// writePID writes the number of this process to a file, which the returned
// function removes. Without a path it does nothing.
func writePID(path string) (release func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return nil, err
	}
	return func() { os.Remove(path) }, nil
}
