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
	if err := writeFile(path, content); err != nil {
		return fmt.Errorf("secret: write %s: %w", path, err)
	}
	return SyncFolder(filepath.Dir(path))
}

func writeFile(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
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
	return os.Rename(file.Name(), path)
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
