//go:build !unix

package secret

import (
	"errors"
	"os"
)

// checksMode: a file's permission bits mean nothing here.
const checksMode = false

func duplicate(int) (*os.File, error) {
	return nil, errors.New("descriptors are not inherited on this system: use file: or prompt")
}
