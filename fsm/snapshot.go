package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/keycustodian/keycustodian/dkek"
)

const (
	snapshotMagic  = "KCSTATE\n"
	snapshotFormat = 1
	maxHeader      = 4096 // bytes
)

// SnapshotHeader is what a snapshot says about itself.
type SnapshotHeader struct {
	Format      int            `cbor:"1,keyasint"`
	Version     uint64         `cbor:"2,keyasint"` // command version; 0 before Init
	Cluster     dkek.ClusterID `cbor:"3,keyasint"`
	Incarnation uint64         `cbor:"4,keyasint"`
	Index       uint64         `cbor:"5,keyasint"` // applied
	Time        int64          `cbor:"6,keyasint"` // the log's
	AuditSeq    uint64         `cbor:"7,keyasint"`
	AuditHead   dkek.Hash      `cbor:"8,keyasint"`
	Counts      []uint64       `cbor:"9,keyasint"` // rows of table 1, 2, ...
	Digest      dkek.Hash      `cbor:"10,keyasint"`
}

// Snapshot is the state at one index, to be written while applies go on.
type Snapshot struct {
	view *View
}

// Snapshot takes a snapshot: a pointer.
func (m *Machine) Snapshot() *Snapshot { return &Snapshot{view: m.State()} }

// Snapshot is the same of a view.
func (v *View) Snapshot() *Snapshot { return &Snapshot{view: v} }

// Header returns the header that WriteTo writes.
func (s *Snapshot) Header() SnapshotHeader {
	r := s.view.root()
	h := SnapshotHeader{Format: snapshotFormat, Index: r.Index, Time: r.Time, AuditSeq: r.AuditSeq, AuditHead: r.AuditHead, Counts: r.Counts[1:], Digest: r.digest()}
	if cluster, ok := s.view.Cluster(); ok {
		h.Version, h.Cluster, h.Incarnation = cluster.Version, cluster.ID, cluster.Incarnation
	}
	return h
}

// WriteTo writes the snapshot: magic, header, rows by table and key, SHA-256 of
// all that. It may be called again.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &countingWriter{w: w, hash: sha256.New()}
	buffered := bufio.NewWriterSize(out, 64<<10)
	if err := s.write(buffered); err != nil {
		return out.n, fmt.Errorf("fsm: snapshot: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return out.n, fmt.Errorf("fsm: snapshot: %w", err)
	}
	n, err := w.Write(out.hash.Sum(nil))
	if err != nil {
		err = fmt.Errorf("fsm: snapshot: %w", err)
	}
	return out.n + int64(n), err
}

type countingWriter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.hash.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func (s *Snapshot) write(w *bufio.Writer) error {
	if _, err := w.WriteString(snapshotMagic); err != nil {
		return err
	}
	h := s.Header()
	var buffer bytes.Buffer
	if err := writeChunk(w, &buffer, &h); err != nil {
		return err
	}
	for table := Table(1); table <= lastTable; table++ {
		for r := range s.view.all(table, byKey, nil) {
			if err := writeChunk(w, &buffer, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeChunk writes the length, 4 bytes big endian, and the CBOR of v.
func writeChunk(w *bufio.Writer, buffer *bytes.Buffer, v any) error {
	enc, _ := modes()
	buffer.Reset()
	if err := enc.MarshalToBuffer(v, buffer); err != nil {
		return err
	}
	if buffer.Len() > MaxSnapshot {
		return fmt.Errorf("%T of %d bytes", v, buffer.Len())
	}
	if err := binary.Write(w, binary.BigEndian, uint32(buffer.Len())); err != nil {
		return err
	}
	_, err := w.Write(buffer.Bytes())
	return err
}

// ErrSnapshot means that a snapshot is not whole, or not as it was written.
var ErrSnapshot = errors.New("snapshot is damaged")

// Restore replaces the state by a snapshot's. The snapshot is read and verified
// wholly before; after an error the state is what it was.
func (m *Machine) Restore(r io.Reader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fatal != nil {
		return m.fatal
	}
	db, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("fsm: restore: %w", err)
	}
	m.become(db)
	m.history = history{}
	m.wake()
	return nil
}

// snapshotReader reads chunks and hashes what it reads.
type snapshotReader struct {
	r    *bufio.Reader
	hash hash.Hash
	buf  []byte
}

func (s *snapshotReader) read(p []byte) error {
	if _, err := io.ReadFull(s.r, p); err != nil {
		return fmt.Errorf("%w: %v", ErrSnapshot, err)
	}
	s.hash.Write(p)
	return nil
}

// chunk reads one length and its bytes, which hold until the next call.
func (s *snapshotReader) chunk(most int) ([]byte, error) {
	var length [4]byte
	if err := s.read(length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(length[:]))
	if n > most {
		return nil, fmt.Errorf("%w: %d bytes where %d is the most", ErrSnapshot, n, most)
	}
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	s.buf = s.buf[:n]
	return s.buf, s.read(s.buf)
}

// ReadSnapshotHeader reads the header alone. It does not verify the rest.
func ReadSnapshotHeader(r io.Reader) (SnapshotHeader, error) {
	s := &snapshotReader{r: bufio.NewReader(r), hash: sha256.New()}
	h, err := s.header()
	if err != nil {
		return h, fmt.Errorf("fsm: snapshot header: %w", err)
	}
	return h, nil
}

func (s *snapshotReader) header() (SnapshotHeader, error) {
	var h SnapshotHeader
	magic := make([]byte, len(snapshotMagic))
	if err := s.read(magic); err != nil {
		return h, err
	}
	if string(magic) != snapshotMagic {
		return h, fmt.Errorf("%w: it does not begin as one", ErrSnapshot)
	}
	encoded, err := s.chunk(maxHeader)
	if err != nil {
		return h, err
	}
	if err := unmarshal(encoded, &h); err != nil {
		return h, fmt.Errorf("%w: header: %v", ErrSnapshot, err)
	}
	if h.Format != snapshotFormat || h.Version > CommandVersion {
		return h, fmt.Errorf("%w (snapshot format %d, command version %d)", ErrUnknownKind, h.Format, h.Version)
	}
	if len(h.Counts) != int(lastTable) {
		return h, fmt.Errorf("%w: %d tables", ErrSnapshot, len(h.Counts))
	}
	return h, nil
}

func readSnapshot(r io.Reader) (*memdb.MemDB, error) {
	s := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), hash: sha256.New()}
	h, err := s.header()
	if err != nil {
		return nil, err
	}
	db, err := newDB()
	if err != nil {
		return nil, err
	}
	t := newTxn(db, h.Index, Command{})
	defer t.abort()
	for table := Table(1); table <= lastTable; table++ {
		if err := s.rows(t, table, h.Counts[table-1]); err != nil {
			return nil, err
		}
	}
	want := s.hash.Sum(nil)
	trailer := make([]byte, sha256.Size)
	if err := s.read(trailer); err != nil {
		return nil, err
	}
	if !bytes.Equal(trailer, want) {
		return nil, fmt.Errorf("%w: SHA-256 differs", ErrSnapshot)
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes behind its end", ErrSnapshot)
	}
	t.state.Index, t.state.Time, t.state.AuditSeq, t.state.AuditHead = h.Index, h.Time, h.AuditSeq, h.AuditHead
	if t.state.digest() != h.Digest {
		return nil, fmt.Errorf("%w: the state's digest differs", ErrSnapshot)
	}
	if cluster, ok := t.Cluster(); ok && (cluster.ID != h.Cluster || cluster.Incarnation != h.Incarnation || cluster.Version != h.Version) {
		return nil, fmt.Errorf("%w: header and state differ", ErrSnapshot)
	}
	return db, t.commit()
}

// rows reads one table: rows in strict order of their keys.
func (s *snapshotReader) rows(t *txn, table Table, count uint64) error {
	var last []byte
	for i := range count {
		encoded, err := s.chunk(MaxSnapshot)
		if err != nil {
			return err
		}
		r := newRow(table)
		if err := unmarshal(encoded, r); err != nil {
			return fmt.Errorf("%w: table %s row %d: %v", ErrSnapshot, table, i, err)
		}
		key := r.key()
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("%w: table %s row %d is out of order", ErrSnapshot, table, i)
		}
		last = key
		if x, ok := r.(indexed); ok && t.find(table, bySecond, x.second()) != nil {
			return fmt.Errorf("%w: table %s row %d: second key is there twice", ErrSnapshot, table, i)
		}
		// unmarshal has shown that these are the bytes that the row encodes to.
		sum := dkek.Hash(sha256.Sum256(slices.Concat([]byte(rowDomain), []byte{byte(table)}, encoded)))
		if table == TableRequests { // not all of its bytes count
			if sum, err = hashRow(r); err != nil {
				return err
			}
		}
		t.state.Counts[table]++
		t.state.Sums[table].add(sum)
		t.fail(t.tx.Insert(table.String(), &record{row: r, sum: sum}))
	}
	if t.broken != nil {
		return t.broken
	}
	return nil
}
