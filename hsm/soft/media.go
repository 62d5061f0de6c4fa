package soft

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// media is where the bytes of a log lie.
type media interface {
	io.ReaderAt
	io.WriterAt
	size() (int64, error)
	truncate(size int64) error
	// sync makes what was written, and a replacement, durable.
	sync() error
	// replace puts new content in the old one's place: whole, or not at all.
	// It is durable after the next sync.
	replace(write func(w io.Writer) error) error
	close() error
}

// disk is a file. It must be opened by one process only: see lock.
type disk struct {
	path string
	lock io.Closer

	mu     sync.Mutex
	file   *os.File
	folder bool // the folder has a rename in it that may not be durable
}

// openDisk opens the file at path and locks it against other processes. A
// missing file is no error: exists is false, and replace makes it.
func openDisk(path string) (d *disk, exists bool, err error) {
	guard, err := lock(path + ".lock")
	if err != nil {
		return nil, false, err
	}
	d = &disk{path: path, lock: guard}
	// What an interrupted replace left beside is not needed.
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		guard.Close()
		return nil, false, err
	}
	d.file, err = os.OpenFile(path, os.O_RDWR, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		guard.Close()
		return nil, false, err
	}
	return d, err == nil, nil
}

func (d *disk) current() *os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file
}

func (d *disk) ReadAt(p []byte, offset int64) (int, error)  { return d.current().ReadAt(p, offset) }
func (d *disk) WriteAt(p []byte, offset int64) (int, error) { return d.current().WriteAt(p, offset) }
func (d *disk) truncate(size int64) error                   { return d.current().Truncate(size) }

func (d *disk) size() (int64, error) {
	info, err := d.current().Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d *disk) sync() error {
	d.mu.Lock()
	file, folder := d.file, d.folder
	d.mu.Unlock()
	if err := file.Sync(); err != nil {
		return err
	}
	if !folder {
		return nil
	}
	if err := secret.SyncFolder(filepath.Dir(d.path)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == file {
		d.folder = false
	}
	return nil
}

func (d *disk) replace(write func(w io.Writer) error) error {
	beside := d.path + ".new"
	file, err := os.OpenFile(beside, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(file, 256<<10)
	err = write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = file.Sync() // before the rename: a name never shows half a file
	}
	if err == nil {
		err = os.Rename(beside, d.path)
	}
	if err != nil {
		file.Close()
		os.Remove(beside)
		return err
	}
	d.mu.Lock()
	old := d.file
	d.file, d.folder = file, true
	d.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

func (d *disk) close() error {
	var err error
	if file := d.current(); file != nil {
		err = file.Close()
	}
	return errors.Join(err, d.lock.Close())
}

// memory is a media that is gone with the process.
type memory struct {
	mu   sync.RWMutex
	data []byte
}

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if offset >= int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes at or before the end, which is all that a log does.
func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := copy(m.data[offset:], p)
	m.data = append(m.data, p[n:]...)
	return len(p), nil
}

func (m *memory) size() (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.data)), nil
}

func (m *memory) truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = m.data[:size]
	return nil
}

func (m *memory) sync() error { return nil }

func (m *memory) replace(write func(w io.Writer) error) error {
	var content appender
	if err := write(&content); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = content
	return nil
}

func (m *memory) close() error { return nil }

type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}
