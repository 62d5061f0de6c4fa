package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces path by a file of mode 0600 with this content, durably and
// atomically: written beside it, synced, renamed, and the folder synced. After
// an error or a crash the old file is there whole, or the new one.
func WriteFile(path string, content []byte) error { return WriteFileMode(path, content, 0o600) }

// WriteFileMode is WriteFile with another mode, less the umask.
func WriteFileMode(path string, content []byte, mode fs.FileMode) error {
	if err := writeFile(path, content, mode); err != nil {
		return fmt.Errorf("secret: write %s: %w", path, err)
	}
	return SyncFolder(filepath.Dir(path))
}

func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()+".new")
	file, err := openFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(beside)
		}
	}()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return renameFile(beside, path)
}

// AppendFile adds content to the end of the file at path, which it makes, with
// mode 0600, where there is none. It is durable when the call returns. After an
// error or a crash a part of content may be there.
func AppendFile(path string, content []byte) error {
	_, err := os.Stat(path)
	isNew := errors.Is(err, fs.ErrNotExist)
	file, err := openFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("secret: append: %w", err)
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return fmt.Errorf("secret: append: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("secret: append: %w", err)
	}
	if isNew {
		return SyncFolder(filepath.Dir(path))
	}
	return nil
}

// SyncFolder makes renames, creations and removals in a folder durable.
func SyncFolder(folder string) error {
	handle, err := os.Open(folder)
	if err != nil {
		return fmt.Errorf("secret: sync folder: %w", err)
	}
	defer handle.Close()
	if err := handle.Sync(); err != nil {
		return fmt.Errorf("secret: sync folder %s: %w", folder, err)
	}
	return nil
}
