package soft

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
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
	case f.err != nil && l.file != file:
		// The file was replaced meanwhile, and closed: the next round syncs
		// the new one, which has it all.
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

// rewrite replaces the file by a new one that holds only these records, sealed
// in box, and returns their places. What it writes needs a sync to be durable.
func (l *log) rewrite(box *secret.Box, records int, record func(i int) ([]byte, error)) ([]place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := &log{box: box}
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
	l.box, l.header, l.next, l.end, l.mark = box, fresh.header, fresh.next, fresh.end, fresh.end
	l.file++
	l.changes++ // the replacement itself
	l.suspect = false
	return places, nil
}

// sealedIn reports whether box opens the first record, which every file has.
func (l *log) sealedIn(box *secret.Box) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var frame [frameSize]byte
	if _, err := l.media.ReadAt(frame[:], int64(headerSize)); err != nil {
		return false, err
	}
	length := binary.BigEndian.Uint32(frame[8:])
	if length > maxSealed {
		return false, errRecord
	}
	sealed := make([]byte, length)
	if _, err := l.media.ReadAt(sealed, int64(headerSize)+frameSize); err != nil {
		return false, err
	}
	plain, err := box.Open(sealed, l.context(0))
	secret.Wipe(plain)
	return err == nil, nil
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
