package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/dkek"
)

const (
	peerMarksFile = "peers"
	// peerMarksMagic begins the file; its last byte is the format.
	peerMarksMagic = "KCPEER\x00\x01"
	peerMarkSize   = len(dkek.NodeID{}) + 8
)

// peerMarks is how far each other member has come for certain: the highest
// committed entry that it is known to have on its disk. It is not the member's own
// memory, and so it tells a member that its data folder was put back to an older
// one. Entries that are not committed do not count: they may be cut off again.
// Safe for concurrent use.
type peerMarks struct {
	files files

	mu      sync.Mutex
	known   map[string]uint64 // by node ID in hex, as Raft names servers
	changed bool              // since it was written
}

// openPeerMarks reads the file. One that is damaged is an error beside an empty
// memory, and no reason not to start: others remember too.
func openPeerMarks(f files) (*peerMarks, error) {
	p := &peerMarks{files: f, known: map[string]uint64{}}
	content, err := f.read(peerMarksFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = p.parse(content)
	}
	if err != nil {
		return p, fmt.Errorf("node: the file %q: %w", peerMarksFile, err)
	}
	return p, nil
}

// note raises a member's mark; it never lowers.
func (p *peerMarks) note(id raft.ServerID, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index > p.known[string(id)] {
		p.known[string(id)], p.changed = index, true
	}
}

// of is a member's mark, 0 where nothing is known of it.
func (p *peerMarks) of(id dkek.NodeID) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id.String()]
}

// all are the marks of all members, by node ID in hex.
func (p *peerMarks) all() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.known)
}

// forget drops the marks of members that were removed.
func (p *peerMarks) forget(gone func(dkek.NodeID) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for text := range p.known {
		var id dkek.NodeID
		if !decodeID(id[:], text) || gone(id) {
			delete(p.known, text)
			p.changed = true
		}
	}
}

// write puts what changed on disk.
func (p *peerMarks) write() error {
	p.mu.Lock()
	content, changed := p.encode(), p.changed
	p.changed = false
	p.mu.Unlock()
	if !changed {
		return nil
	}
	if err := p.files.write(peerMarksFile, content); err != nil {
		p.mu.Lock()
		p.changed = true
		p.mu.Unlock()
		return fmt.Errorf("node: the file %q: %w", peerMarksFile, err)
	}
	return nil
}

func (p *peerMarks) encode() []byte {
	content := []byte(peerMarksMagic)
	for _, id := range slices.Sorted(maps.Keys(p.known)) {
		raw, err := hex.DecodeString(id)
		if err != nil || len(raw) != len(dkek.NodeID{}) {
			continue
		}
		content = binary.BigEndian.AppendUint64(append(content, raw...), p.known[id])
	}
	sum := sha256.Sum256(content)
	return append(content, sum[:]...)
}

func (p *peerMarks) parse(content []byte) error {
	rows := len(content) - len(peerMarksMagic) - sha256.Size
	if rows < 0 || rows%peerMarkSize != 0 || !bytes.HasPrefix(content, []byte(peerMarksMagic)) {
		return errors.New("not of this version, or damaged")
	}
	body, sum := content[:len(peerMarksMagic)+rows], content[len(peerMarksMagic)+rows:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return errors.New("damaged: its checksum does not agree")
	}
	for row := range slices.Chunk(body[len(peerMarksMagic):], peerMarkSize) {
		id := dkek.NodeID(row[:len(dkek.NodeID{})])
		p.known[id.String()] = binary.BigEndian.Uint64(row[len(id):])
	}
	return nil
}
