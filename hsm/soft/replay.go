package soft

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keycustodian/keycustodian/internal/secret"
)

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
