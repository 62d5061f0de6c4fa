package keyblob

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math/big"
)

// writer appends to a buffer that is made large enough at once: growing would
// leave a copy of the plaintext behind.
type writer struct{ b []byte }

func newWriter() *writer { return &writer{b: make([]byte, 0, MaxBlob)} }

// space appends n zero bytes for the caller to fill.
func (w *writer) space(n int) []byte {
	start := len(w.b)
	w.b = w.b[:start+n]
	return w.b[start:]
}

func (w *writer) byte(v byte)  { w.space(1)[0] = v }
func (w *writer) uint16(v int) { binary.BigEndian.PutUint16(w.space(2), uint16(v)) }
func (w *writer) raw(b []byte) { copy(w.space(len(b)), b) }
func (w *writer) lv(b []byte)  { w.uint16(len(b)); w.raw(b) }
func (w *writer) lvSpace(n int) []byte {
	w.uint16(n)
	return w.space(n)
}

// number appends n as a big-endian LV of exactly size bytes.
func (w *writer) number(n *big.Int, size int) { n.FillBytes(w.lvSpace(size)) }

// reader takes fields off the front of a buffer; what it returns lies in it.
// After the first field that does not fit, err is set and fields are empty.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) raw(n int, name string) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.rest) {
		r.err = fmt.Errorf("%w: %s: cut short", ErrMalformed, name)
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint16(name string) int {
	b := r.raw(2, name)
	if b == nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

// lv takes a 2-byte length and that many bytes, at most limit.
func (r *reader) lv(limit int, name string) []byte {
	n := r.uint16(name)
	if r.err == nil && n > limit {
		r.err = fmt.Errorf("%w: %s: %d bytes, at most %d", ErrMalformed, name, n, limit)
	}
	return r.raw(n, name)
}

// number takes an LV of at most size bytes and returns it with leading zeros
// to size: some devices leave them out. The result is a copy to be wiped.
func (r *reader) number(size int, name string) []byte {
	b := r.lv(size, name)
	if r.err == nil && len(b) == 0 {
		r.err = fmt.Errorf("%w: %s: empty", ErrMalformed, name)
	}
	out := make([]byte, size)
	copy(out[size-len(b):], b)
	return out
}

// end checks that only padding is left: 80 00.. to the end of the block, or
// nothing, which some devices write when the fields end with a block.
func (r *reader) end() error {
	if r.err != nil || len(r.rest) == 0 {
		return r.err
	}
	bad := r.rest[0] ^ 0x80
	for _, b := range r.rest[1:] {
		bad |= b
	}
	if bad != 0 || len(r.rest) > 16 {
		return fmt.Errorf("%w: padding", ErrMalformed)
	}
	return nil
}

// equal compares in constant time.
func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
