package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// snapshotStore offers Raft the newest snapshot only, and tells the machine's
// adapter the index of what it restores. With an older one to fall back on, Raft
// would start from it silently and stop at the gap between it and the log.
type snapshotStore struct {
	raft.SnapshotStore
}

func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.SnapshotStore.List()
	if len(list) > 1 {
		list = list[:1]
	}
	return list, err
}

func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, content, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, &openSnapshot{content, *meta}, nil
}

// openSnapshot is a snapshot's content that knows where in the log it belongs.
type openSnapshot struct {
	io.ReadCloser
	meta raft.SnapshotMeta
}

// metaOf finds the description of a snapshot below Raft's counting readers.
func metaOf(content io.ReadCloser) (raft.SnapshotMeta, error) {
	for {
		if open, ok := content.(*openSnapshot); ok {
			return open.meta, nil
		}
		wrapper, ok := content.(raft.ReadCloserWrapper)
		if !ok {
			return raft.SnapshotMeta{}, errors.New("node: restore: a snapshot that is not from this store")
		}
		content = wrapper.WrappedReadCloser()
	}
}

// openSnapshots opens dir/snapshots after a look at what is there: Raft skips a
// snapshot that it cannot read, and so would start from too old a state.
func openSnapshots(dir string, logger hclog.Logger, readOnly bool) (*snapshotStore, error) {
	folder := filepath.Join(dir, "snapshots")
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("node: open snapshots: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		if strings.HasSuffix(entry.Name(), ".tmp") { // cut off while it was written
			if readOnly {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				return nil, fmt.Errorf("node: open snapshots: %w", err)
			}
			continue
		}
		if entry.IsDir() {
			if err := checkMeta(filepath.Join(path, "meta.json")); err != nil {
				return nil, &DamagedLogError{Path: path, Cause: err}
			}
		}
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, logger)
	if err != nil {
		return nil, fmt.Errorf("node: open snapshots: %w", err)
	}
	store := &snapshotStore{files}
	list, err := store.List()
	if err != nil {
		return nil, fmt.Errorf("node: open snapshots: %w", err)
	}
	if len(list) == 0 {
		return store, nil
	}
	_, content, err := store.Open(list[0].ID) // reads it all and compares its checksum
	if err != nil {
		return nil, &DamagedLogError{Path: filepath.Join(folder, list[0].ID), Cause: err}
	}
	return store, content.Close()
}

func checkMeta(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return checkMetaContent(content)
}

func checkMetaContent(content []byte) error {
	var meta raft.SnapshotMeta
	if err := json.Unmarshal(content, &meta); err != nil {
		return fmt.Errorf("meta.json: %w", err)
	}
	if meta.Index == 0 || meta.Version > raft.SnapshotVersionMax {
		return fmt.Errorf("meta.json: version %d, index %d", meta.Version, meta.Index)
	}
	return nil
}
