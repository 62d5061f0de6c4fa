//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package soft

import (
	"errors"
	"io"
)

// lock refuses: without a lock two processes could write one file.
func lock(string) (io.Closer, error) {
	return nil, errors.New("software device files are not supported on this system")
}
