package soft

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// The layout of a device file; docs/format.md, "Software device file".
const (
	magic      = "KCSOFT\x00\x01" // the last two bytes are the format, 1
	headerSize = len(magic) + 16  // magic, file ID
	frameSize  = 8 + 4            // record number, length of the sealed part
	purpose    = "soft device"    // of the seal secret
)

// Where a record lies.
type place struct {
	offset int64 // of its frame
	number uint64
	length int32 // of the sealed part
}

func (p place) end() int64 { return p.offset + frameSize + int64(p.length) }

// log is an append-only sequence of sealed records. The context of each binds
// the file's header and the record's number, so a record opens only in its own
// file at its own place in the order.
//
// Every record also says how much of the file was known to be durable when it
// was written (its mark). That is how open tells a torn tail, which was never
// acknowledged, from damage.
type log struct {
	box   *secret.Box
	media media

	mu      sync.Mutex
	header  [headerSize]byte
	next    uint64 // number of the next record
	end     int64  // where it goes
	mark    int64  // durable up to here
	file    uint64 // counts replacements
	changes uint64 // counts records ever written by this process
	durable uint64 // of changes
	flight  *flight
	suspect bool // a sync failed: what the system kept is unknown
}

// flight is one sync that several callers wait for.
type flight struct {
	done chan struct{}
	goal uint64
	err  error
}

// errSuspect asks for a rewrite: after a failed sync, syncing again may report
// success for pages that the system has dropped.
var errSuspect = errors.New("an earlier sync failed")

func (l *log) context(number uint64) []byte {
	return binary.BigEndian.AppendUint64(l.header[:], number)
}

// frame appends the record to buffer as it lies in the file.
func (l *log) frame(buffer []byte, number uint64, mark int64, record []byte) []byte {
	plain := make([]byte, 8, 8+len(record))
	binary.BigEndian.PutUint64(plain, uint64(mark))
	plain = append(plain, record...)
	sealed := l.box.Seal(plain, l.context(number))
	secret.Wipe(plain)
	buffer = binary.BigEndian.AppendUint64(buffer, number)
	buffer = binary.BigEndian.AppendUint32(buffer, uint32(len(sealed)))
	return append(buffer, sealed...)
}

// append writes a record, which is visible to read and not yet durable. After
// an error the log is as it was.
func (l *log) append(record []byte) (place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	framed := l.frame(nil, l.next, l.mark, record)
	at := place{offset: l.end, number: l.next, length: int32(len(framed) - frameSize)}
	if _, err := l.media.WriteAt(framed, l.end); err != nil {
		// If this fails too, the next record overwrites what is there and open
		// cuts the rest.
		l.media.truncate(l.end)
		return place{}, err
	}
	l.next++
	l.changes++
	l.end = at.end()
	return at, nil
}

// read returns the record at a place, which the caller wipes.
func (l *log) read(at place) ([]byte, error) {
	sealed := make([]byte, at.length)
	if _, err := l.media.ReadAt(sealed, at.offset+frameSize); err != nil {
		return nil, err
	}
	plain, err := l.box.Open(sealed, l.context(at.number))
	if err != nil {
		return nil, err
	}
	if len(plain) < 8 {
		return nil, errRecord
	}
	return plain[8:], nil
}

// sync returns when everything appended before it is durable. Callers that come
// while a sync runs share the next one.
func (l *log) sync(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	goal := l.changes
	for l.durable < goal {
		if l.suspect {
			return errSuspect
		}
		running := l.flight
		if running == nil {
			l.fly()
			continue
		}
		l.mu.Unlock()
		select {
		case <-running.done:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if ctx.Err() != nil && l.durable < goal {
			return ctx.Err()
		}
	}
	return nil
}

// fly syncs once, without holding the lock meanwhile.
func (l *log) fly() {
	f := &flight{done: make(chan struct{}), goal: l.changes}
	l.flight = f
	file, end := l.file, l.end
	l.mu.Unlock()
	f.err = l.media.sync()
	l.mu.Lock()
	l.flight = nil
	switch {
	case f.err != nil:
		l.suspect = true
	default:
		l.durable = max(l.durable, f.goal)
		if l.file == file {
			l.mark = end
		}
	}
	close(f.done)
}

// rewrite replaces the file by a new one that holds only these records, and
// returns their places. What it writes needs a sync to be durable.
func (l *log) rewrite(records int, record func(i int) ([]byte, error)) ([]place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := &log{box: l.box}
	copy(fresh.header[:], magic)
	rand.Read(fresh.header[len(magic):])
	fresh.end = int64(headerSize)
	places := make([]place, 0, records)
	err := l.media.replace(func(w io.Writer) error {
		if _, err := w.Write(fresh.header[:]); err != nil {
			return err
		}
		var buffer []byte
		for i := range records + 1 {
			plain, mark := []byte{kindMark}, fresh.end // the last one
			if i < records {
				var err error
				if plain, err = record(i); err != nil {
					return err
				}
				mark = 0
			}
			buffer = fresh.frame(buffer[:0], fresh.next, mark, plain)
			secret.Wipe(plain)
			if _, err := w.Write(buffer); err != nil {
				return err
			}
			at := place{offset: fresh.end, number: fresh.next, length: int32(len(buffer) - frameSize)}
			if i < records {
				places = append(places, at)
			}
			fresh.end, fresh.next = at.end(), fresh.next+1
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.header, l.next, l.end, l.mark = fresh.header, fresh.next, fresh.end, fresh.end
	l.file++
	l.changes++ // the replacement itself
	l.suspect = false
	return places, nil
}

// damage is a file that cannot have become what it is by a crash.
type damage struct {
	offset int64
	cause  string
}

func (d *damage) Error() string {
	return fmt.Sprintf("damaged at byte %d (%s): wipe and replace this device: keys come back from the cluster", d.offset, d.cause)
}

// errSeal is a file whose first record does not open.
var errSeal = errors.New("does not open: wrong seal secret, or the beginning of the file is damaged (give the seal secret that it was made with, or wipe and replace this device: keys come back from the cluster)")

// open reads all records in order. A torn tail is cut; anything else that does
// not read is an error.
func (l *log) open(visit func(at place, record []byte) error) error {
	size, err := l.media.size()
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(l.media, 0, size), 256<<10)
	if _, err := io.ReadFull(in, l.header[:]); err != nil || !bytes.HasPrefix(l.header[:], []byte(magic)) {
		return &damage{0, "not a software device file of this version"}
	}
	l.end = int64(headerSize)
	for l.end < size {
		at, plain, err := l.readNext(in)
		if err != nil {
			if !errors.Is(err, errTorn) {
				return err
			}
			if l.next == 0 {
				return errSeal
			}
			return l.cut(size)
		}
		err = visit(at, plain[8:])
		secret.Wipe(plain)
		if err != nil {
			return &damage{at.offset, err.Error()}
		}
		l.next, l.end = at.number+1, at.end()
	}
	if l.next == 0 {
		return errSeal
	}
	return l.settle()
}

// settle makes durable what was found, which a process killed before its sync
// may have left in the system's cache only.
func (l *log) settle() error {
	if err := l.media.sync(); err != nil {
		return err
	}
	l.mark = l.end
	return nil
}

// errTorn is a record that is not whole.
var errTorn = errors.New("record is not whole")

func (l *log) readNext(in io.Reader) (place, []byte, error) {
	var frame [frameSize]byte
	if _, err := io.ReadFull(in, frame[:]); err != nil {
		return place{}, nil, torn(err)
	}
	number, length := binary.BigEndian.Uint64(frame[:]), binary.BigEndian.Uint32(frame[8:])
	if number != l.next || length > maxSealed {
		return place{}, nil, errTorn
	}
	sealed := make([]byte, length)
	if _, err := io.ReadFull(in, sealed); err != nil {
		return place{}, nil, torn(err)
	}
	plain, err := l.box.Open(sealed, l.context(number))
	if err != nil || len(plain) < 8 {
		return place{}, nil, errTorn
	}
	return place{l.end, number, int32(length)}, plain, nil
}

// torn tells the end of the file from a disk that does not read: a tail that
// cannot be read now is not cut.
func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// cut removes what follows the last whole record, unless a later record says
// that this place was durable before: then it is damage.
func (l *log) cut(size int64) error {
	tail := make([]byte, size-l.end)
	if _, err := l.media.ReadAt(tail, l.end); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for i := 1; i+frameSize < len(tail); i++ {
		number := binary.BigEndian.Uint64(tail[i:])
		length := int(binary.BigEndian.Uint32(tail[i+8:]))
		from := i + frameSize
		if number < l.next || number > l.next+uint64(i) || length > maxSealed || length > len(tail)-from {
			continue
		}
		plain, err := l.box.Open(tail[from:from+length], l.context(number))
		if err != nil || len(plain) < 8 {
			continue
		}
		mark := int64(binary.BigEndian.Uint64(plain))
		secret.Wipe(plain)
		if mark > l.end {
			return &damage{l.end, "a record does not open, and later ones show that it was durable"}
		}
	}
	if err := l.media.truncate(l.end); err != nil {
		return err
	}
	return l.settle()
}

// close makes the last records durable, says so in the file, and lets go.
func (l *log) close() error {
	err := l.sync(context.Background())
	if err == nil && l.changes > 0 {
		if _, err = l.append([]byte{kindMark}); err == nil {
			err = l.sync(context.Background())
		}
	}
	return errors.Join(err, l.media.close())
}

// doubtful reports whether a sync failed since the file was last written whole.
func (l *log) doubtful() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.suspect
}

// size is the length of the file in bytes.
func (l *log) size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}
