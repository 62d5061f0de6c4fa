package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what a unix socket's address has room for on Linux.
const maxSocketPath = 107

// startSocket opens the unix socket for local administration: mode 0600, and
// only this process's own user and root get an answer. The data folder is held
// already, so that a socket of the same name is one that a crash left behind.
func (f *face) startSocket() error {
	path := f.node.config.Socket
	if path == "" {
		return nil
	}
	listener, err := listenSocket(path)
	if err != nil {
		return &SocketError{path, err}
	}
	f.socket = f.server(whoOnSocket)
	f.node.loops.Go(func() {
		f.run(f.socket, &ownUsers{UnixListener: listener, refused: func(why error) {
			f.node.logger.Warn("socket: a caller was refused", "reason", why)
		}})
	})
	return nil
}

func listenSocket(path string) (*net.UnixListener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if left, err := leftover(path); err != nil {
		return nil, err
	} else if left {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Born without rights for anybody else: a chmod afterwards leaves a moment.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	bound, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	listener := bound.(*net.UnixListener)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path is longer than %d bytes: set another with socket", maxSocketPath)
	}
	return nil
}

// leftover tells whether a socket is there at which nobody listens any more.
// Anything else at its path is an error.
func leftover(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return false, errors.New("something is there that is no socket: move it away, or set another path")
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return false, errors.New("another process answers there: stop it, or set another path")
	}
	return true, nil
}

// ownUsers accepts connections of this process's user and of root. The mode of
// the socket says the same; a mode can be changed by mistake.
type ownUsers struct {
	*net.UnixListener
	refused func(error)
}

func (l *ownUsers) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return conn, nil
		}
		if err == nil {
			err = fmt.Errorf("its user is %d", uid)
		}
		l.refused(err)
		conn.Close()
	}
}
