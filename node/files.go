package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// files are a node's own small files, under names like "pins" or "shares/3-1".
// Every change is durable when the call returns: synced, and so is its folder.
type files interface {
	// read returns the whole file, or an error that is fs.ErrNotExist.
	read(name string) ([]byte, error)
	// write replaces the file atomically.
	write(name string, content []byte) error
	// append adds to the end, and makes the file where there is none. After an
	// error or a crash a part of content may be there.
	append(name string, content []byte) error
	// remove deletes the file; a missing one is no error.
	remove(name string) error
	// list returns the names of the files in one folder, sorted.
	list(folder string) ([]string, error)
}

// disk is a data folder.
type disk struct {
	dir string
}

// openDisk makes the data folder where it is missing and takes it for this
// process; the returned function lets it go.
func openDisk(dir string) (disk, func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return disk{}, nil, fmt.Errorf("node: data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return disk{}, nil, fmt.Errorf("node: data folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return disk{}, nil, fmt.Errorf("node: data folder %s: %w", dir, ErrInUse)
		}
		return disk{}, nil, fmt.Errorf("node: data folder %s: lock: %w", dir, err)
	}
	clearUnfinished(dir)
	return disk{dir: dir}, func() { lock.Close() }, nil
}

// clearUnfinished removes the copies that writes left which were killed. One that
// cannot be removed is in nobody's way.
func clearUnfinished(dir string) {
	for _, pattern := range []string{".*.new", "*/.*.new"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern)) // fails for bad patterns only
		for _, name := range names {
			os.Remove(name)
		}
	}
}

func (d disk) path(name string) string { return filepath.Join(d.dir, filepath.FromSlash(name)) }

func (d disk) read(name string) ([]byte, error) { return os.ReadFile(d.path(name)) }

func (d disk) write(name string, content []byte) error {
	if err := d.makeFolder(name); err != nil {
		return err
	}
	return secret.WriteFile(d.path(name), content)
}

func (d disk) append(name string, content []byte) error {
	if err := d.makeFolder(name); err != nil {
		return err
	}
	return secret.AppendFile(d.path(name), content)
}

func (d disk) remove(name string) error {
	err := os.Remove(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return secret.SyncFolder(filepath.Dir(d.path(name)))
}

func (d disk) list(folder string) ([]string, error) {
	entries, err := os.ReadDir(d.path(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		// What starts with a dot is the unfinished copy of an interrupted write.
		if entry.Type().IsRegular() && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, folder+"/"+entry.Name())
		}
	}
	return names, nil
}

// makeFolder makes the folder of a name like "shares/3-1", durably.
func (d disk) makeFolder(name string) error {
	folder, _, nested := strings.Cut(name, "/")
	if !nested {
		return nil
	}
	err := os.Mkdir(d.path(folder), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return secret.SyncFolder(d.dir)
}

// memoryFiles are files that outlive a node but not the process.
type memoryFiles struct {
	mu      sync.Mutex
	content map[string][]byte
	// changing, where a test sets it, may refuse a change to a file.
	changing func(name string) error
}

// change does one change, unless it is refused.
func (m *memoryFiles) change(name string, do func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changing != nil {
		if err := m.changing(name); err != nil {
			return err
		}
	}
	if m.content == nil {
		m.content = make(map[string][]byte)
	}
	do()
	return nil
}

func (m *memoryFiles) read(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	content, ok := m.content[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(content), nil
}

func (m *memoryFiles) write(name string, content []byte) error {
	return m.change(name, func() { m.content[name] = slices.Clone(content) })
}

func (m *memoryFiles) append(name string, content []byte) error {
	return m.change(name, func() { m.content[name] = append(slices.Clone(m.content[name]), content...) })
}

func (m *memoryFiles) remove(name string) error {
	return m.change(name, func() { delete(m.content, name) })
}

func (m *memoryFiles) list(folder string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.content {
		if strings.HasPrefix(name, folder+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
