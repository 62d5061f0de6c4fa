// Package secret holds key material outside the Go heap and refuses to show it.
//
// [Bytes] is the one type for a DKEK, a share, a seal secret or a PIN: its
// memory is mapped apart, locked and kept out of core dumps where the system
// allows, wiped by Wipe, and no encoder or formatter gets at it. Start with
// [Take], [Random] or [ParseSource]; look at the bytes only inside [Bytes.With].
//
// Guaranteed: fmt, log/slog, encoding/json, encoding/gob, encoding/xml, CBOR and
// text encoders print a placeholder or fail. Not guaranteed: what a callback of
// With copies elsewhere is the caller's to wipe ([Wipe]).
//
//	pin := secret.Take([]byte("648219")) // the argument is wiped
//	defer pin.Wipe()
//	pin.With(func(p []byte) { send(p) })
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"runtime"
	"sync"
)

// ErrRefused is returned by every encoder that is asked to encode a secret.
var ErrRefused = errors.New("secret: refused to encode a secret")

// Bytes is a secret of fixed length. The zero value and nil are empty secrets.
// Its methods may be called concurrently.
type Bytes struct {
	mu     sync.RWMutex
	memory *mapping // nil once wiped
	length int
}

// mapping is the memory of one secret, apart from Bytes so that a cleanup can
// free it when a secret is forgotten without Wipe.
type mapping struct {
	data []byte // whole pages
}

// New returns a secret of n zero bytes.
func New(n int) *Bytes {
	m := &mapping{data: allocate(n)}
	b := &Bytes{memory: m, length: n}
	runtime.AddCleanup(b, func(m *mapping) { m.free() }, m)
	return b
}

// Take moves b into a new secret: b is wiped.
func Take(b []byte) *Bytes {
	s := New(len(b))
	copy(s.memory.data, b)
	Wipe(b)
	return s
}

// Random returns a secret of n bytes from the system's generator.
func Random(n int) *Bytes {
	s := New(n)
	// crypto/rand.Read never fails; it ends the process instead.
	rand.Read(s.memory.data[:n])
	return s
}

// Len returns the length in bytes; 0 for nil and after Wipe.
func (b *Bytes) Len() int {
	if b == nil {
		return 0
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.memory == nil {
		return 0
	}
	return b.length
}

// With calls f with the secret's own memory, which f may change in place and
// must not keep. After Wipe, f gets an empty slice. f runs inside [Do] and must
// not wipe this same secret.
func (b *Bytes) With(f func(p []byte)) {
	if b == nil {
		f(nil)
		return
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.memory == nil {
		f(nil)
		return
	}
	Do(func() { f(b.memory.data[:b.length:b.length]) })
}

// Clone returns an independent copy.
func (b *Bytes) Clone() *Bytes {
	c := New(b.Len())
	b.With(func(p []byte) { c.With(func(q []byte) { copy(q, p) }) })
	return c
}

// Equal compares in constant time for equal lengths. Empty secrets are equal.
func (b *Bytes) Equal(other *Bytes) bool {
	if b == other {
		return true
	}
	equal := false
	b.With(func(p []byte) {
		other.With(func(q []byte) { equal = subtle.ConstantTimeCompare(p, q) == 1 })
	})
	return equal
}

// Wipe overwrites and frees the secret. It waits for running With calls; a
// second call does nothing.
func (b *Bytes) Wipe() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory != nil {
		b.memory.free()
		b.memory = nil
	}
}

// Wipe overwrites a buffer that held a secret. Copies that append or a string
// conversion made elsewhere are out of its reach.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}
