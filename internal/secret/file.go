package secret

import (
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile replaces path by a file of mode 0600 with this content, durably and
// atomically: written beside it, synced, renamed, and the folder synced. After
// an error or a crash the old file is there whole, or the new one.
func WriteFile(path string, content []byte) error {
	folder := filepath.Dir(path)
	file, err := os.CreateTemp(folder, "."+filepath.Base(path)+".*.new") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone after a rename
	if _, err := file.Write(content); err != nil {
		file.Close()
		return err
	}
	if err := file.Sync(); err != nil {
		file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return SyncFolder(folder)
}

// SyncFolder makes renames, creations and removals in a folder durable.
func SyncFolder(folder string) error {
	handle, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer handle.Close()
	if err := handle.Sync(); err != nil {
		return fmt.Errorf("secret: sync folder %s: %w", folder, err)
	}
	return nil
}
