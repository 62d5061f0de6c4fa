package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/keycustodian/keycustodian/transport"
)

// SocketError is a unix socket that cannot be opened where it was configured.
type SocketError struct {
	Path string
	Err  error
}

func (e *SocketError) Error() string { return fmt.Sprintf("node: socket %s: %v", e.Path, e.Err) }
func (e *SocketError) Unwrap() error { return e.Err }

// Available says why a node could not listen at Listen, APIListen or Socket, or
// nil. It needs no other field and makes nothing: [Open] finds out only when there
// is a data folder and a device, which a first start had better not leave behind.
func (c Config) Available() error {
	network := c.Network
	if network == nil {
		network = transport.TCP()
	}
	var bound []net.Listener
	defer func() {
		for _, l := range bound {
			l.Close()
		}
	}()
	for _, a := range []struct{ what, address string }{{"listen", c.Listen}, {"listen for the API", c.APIListen}} {
		if a.address == "" {
			continue
		}
		listener, err := network.Listen(a.address)
		if err != nil {
			return fmt.Errorf("node: %s on %s: %w", a.what, a.address, err)
		}
		bound = append(bound, listener)
	}
	if c.Socket == "" {
		return nil
	}
	if err := c.socketAvailable(); err != nil {
		return &SocketError{c.Socket, err}
	}
	return nil
}

func (c Config) socketAvailable() error {
	if err := checkSocketPath(c.Socket); err != nil {
		return err
	}
	if _, err := leftover(c.Socket); err != nil {
		return err
	}
	folder := filepath.Dir(c.Socket)
	if relative, err := filepath.Rel(c.Dir, folder); c.Dir != "" && err == nil && filepath.IsLocal(relative) {
		return nil // in the data folder, which is yet to be made
	}
	info, err := os.Stat(folder)
	if err == nil && !info.IsDir() {
		err = errors.New("its folder is a file")
	}
	return err
}
