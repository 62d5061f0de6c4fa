//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package soft

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/keycustodian/keycustodian/hsm"
)

// lock takes an exclusive lock that the system drops with the process. It lies
// in a file of its own, which stays, because the device file is replaced by
// renaming.
func lock(path string) (io.Closer, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, hsm.ErrInUse
		}
		return nil, err
	}
	return file, nil
}
