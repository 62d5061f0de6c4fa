//go:build !faults

package secret

import (
	"io/fs"
	"os"
)

// What a build with the tag "faults" tears: see file_faults.go. Here it is the
// system's.

func openFile(path string, flags int, mode fs.FileMode) (*os.File, error) {
	return os.OpenFile(path, flags, mode)
}

func renameFile(from, to string) error { return os.Rename(from, to) }
