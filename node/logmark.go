package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// markMagic begins a mark file; its last byte is the format.
const markMagic = "KCMARK\x00\x01"

// markSize is the length of a mark file: magic, incarnation, index, SHA-256.
const markSize = len(markMagic) + 8 + 8 + sha256.Size

// position is a place in the history of a cluster. A higher incarnation comes
// after every index of a lower one.
type position struct {
	incarnation, index uint64
}

func (p position) before(q position) bool {
	return p.incarnation < q.incarnation || p.incarnation == q.incarnation && p.index < q.index
}

// mark is the high-water mark: the furthest position that this node has applied,
// kept in a file apart from the log. A log that does not reach it was lost or put
// back, and the node could act a second time, or against what it already did.
// Safe for concurrent use.
type mark struct {
	path string // "" keeps it in memory

	mu      sync.Mutex // held while writing, so that callers of sync share a write
	written position

	noteMu sync.Mutex
	noted  position // applied, and not yet on disk where it is after written
}

// createMark writes the mark of a node that has applied nothing.
func createMark(path string) (*mark, error) {
	m := &mark{path: path}
	return m, m.write(position{})
}

// openMark reads the mark. A missing file is an error that wraps fs.ErrNotExist.
func openMark(path string) (*mark, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("node: read mark: %w", err)
	}
	p, err := parseMark(content)
	if err != nil {
		return nil, fmt.Errorf("node: read mark %s: %w", path, err)
	}
	return &mark{path: path, written: p, noted: p}, nil
}

func parseMark(content []byte) (position, error) {
	if len(content) != markSize || !bytes.HasPrefix(content, []byte(markMagic)) {
		return position{}, errors.New("not a mark file of this version, or damaged")
	}
	body, sum := content[:markSize-sha256.Size], content[markSize-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return position{}, errors.New("damaged: its checksum does not agree")
	}
	numbers := body[len(markMagic):]
	return position{binary.BigEndian.Uint64(numbers), binary.BigEndian.Uint64(numbers[8:])}, nil
}

func encodeMark(p position) []byte {
	content := []byte(markMagic)
	content = binary.BigEndian.AppendUint64(content, p.incarnation)
	content = binary.BigEndian.AppendUint64(content, p.index)
	sum := sha256.Sum256(content)
	return append(content, sum[:]...)
}

// note remembers that the state contains this position, without writing.
func (m *mark) note(p position) {
	m.noteMu.Lock()
	defer m.noteMu.Unlock()
	if m.noted.before(p) {
		m.noted = p
	}
}

func (m *mark) latest() position {
	m.noteMu.Lock()
	defer m.noteMu.Unlock()
	return m.noted
}

// sync returns when the noted position is on disk.
func (m *mark) sync() error {
	want := m.latest()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.written.before(want) {
		return nil // another caller's write took this one along
	}
	return m.write(m.latest())
}

func (m *mark) write(p position) error {
	if m.path != "" {
		if err := secret.WriteFile(m.path, encodeMark(p)); err != nil {
			return fmt.Errorf("node: write mark: %w", err)
		}
	}
	m.written = p
	return nil
}

// check fails where the log's last index does not reach the mark.
func (m *mark) check(last uint64) error {
	if last < m.written.index {
		return &BehindMarkError{Mark: m.written.index, Incarnation: m.written.incarnation, Last: last}
	}
	return nil
}

// BehindMarkError refuses a start: this node has applied more than its log and
// snapshots now hold.
type BehindMarkError struct {
	Mark        uint64 // the index that this node has applied
	Incarnation uint64 // of the cluster, at the mark
	Last        uint64 // the last index that its log or snapshot holds
}

func (e *BehindMarkError) Error() string {
	return fmt.Sprintf("node: start refused: this node has applied entry %d (incarnation %d), but its log and snapshots end at entry %d: "+
		"they were lost or replaced by older ones; this node does not come back under its ID: remove it from the cluster (nodectl cluster remove) and join with an empty data folder; "+
		"where too few others are left for that, go on at one of them (nodectl cluster recover), and where no log is left, from a backup (nodectl cluster restore)", e.Mark, e.Incarnation, e.Last)
}

// openMarkFor opens the mark of a data folder, and creates it in one that is new.
// A folder with a log but no mark was tampered with or half restored.
func openMarkFor(path string, hasState bool, last uint64) (*mark, error) {
	if path == "" {
		return &mark{}, nil
	}
	m, err := openMark(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !hasState:
		return createMark(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("node: start refused: the log holds entries up to %d, but its mark %s is missing: "+
			"put the file back, or remove this node from the cluster and join with an empty data folder", last, path)
	case err != nil:
		return nil, err
	}
	return m, m.check(last)
}
