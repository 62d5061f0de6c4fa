//go:build unix

package secret

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// checksMode: a file's permission bits mean something here.
const checksMode = true

// duplicate opens an inherited descriptor a second time, and keeps both from
// programs that this one starts.
func duplicate(number int) (*os.File, error) {
	twin, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(number)
	return os.NewFile(uintptr(twin), "fd:"+strconv.Itoa(number)), nil
}
