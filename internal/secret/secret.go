// Package secret holds key material outside the Go heap and refuses to show it.
//
// [Bytes] is the one type for a DKEK, a share, a seal secret or a PIN: its
// memory is mapped apart, locked and kept out of core dumps where the system
// allows, wiped by Wipe, and no encoder or formatter gets at it. Start with
// [Take], [Random] or [ParseSource]; look at the bytes only inside [Bytes.With].
//
// Guaranteed: fmt, log/slog, encoding/json, encoding/gob, encoding/xml, CBOR and
// text encoders print a placeholder or fail. Not guaranteed: what a callback of
// With copies elsewhere is the caller's to wipe ([Wipe]); memory that could not be
// locked, which [Unlocked] tells, may reach swap.
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
	mu     sync.Mutex
	idle   sync.Cond // signalled when users falls to 0; its L is set by New
	users  int       // running With calls
	memory *mapping  // nil once Wipe has begun
	length int
}

// mapping is the memory of one secret, apart from Bytes so that a cleanup can
// free it when a secret is forgotten without Wipe.
type mapping struct {
	data []byte // whole pages
}

// New returns a secret of n zero bytes. Each secret has pages of its own, so that
// a slice kept too long does not meet another secret beside it: about four system
// calls and 4 KiB of lockable memory each. Thousands are fine where
// RLIMIT_MEMLOCK allows 4 KiB for each; above it [Unlocked] says so.
func New(n int) *Bytes {
	m := &mapping{data: allocate(n)}
	b := &Bytes{memory: m, length: n}
	b.idle.L = &b.mu
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
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory == nil {
		return 0
	}
	return b.length
}

// With calls f with the secret's own memory, which f may change in place and
// must not keep. After Wipe, f gets an empty slice: a caller that needs a certain
// length checks it there, not before. f runs inside [Do]: what a goroutine that it
// starts does is not wiped. f may use this and other secrets, and must not wipe
// this one, which would wait for f.
func (b *Bytes) With(f func(p []byte)) {
	memory := b.enter()
	if memory == nil {
		f(nil)
		return
	}
	defer b.leave()
	Do(func() { f(memory.data[:b.length:b.length]) })
}

// enter counts a user in, or returns nil for an empty secret. No lock is held
// while f runs: a With within a With would wait for ever behind a Wipe.
func (b *Bytes) enter() *mapping {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory != nil {
		b.users++
	}
	return b.memory
}

func (b *Bytes) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users == 0 {
		b.idle.Broadcast()
	}
}

// Clone returns an independent copy; an empty secret of a wiped one.
func (b *Bytes) Clone() *Bytes {
	var c *Bytes
	b.With(func(p []byte) {
		c = New(len(p))
		copy(c.memory.data, p)
	})
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

// Wipe overwrites and frees the secret. From its start new With calls find an
// empty secret; it waits for those that run. A second call does nothing, and
// may return before the first.
func (b *Bytes) Wipe() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	memory := b.memory
	if memory == nil {
		return
	}
	b.memory = nil
	for b.users > 0 {
		b.idle.Wait()
	}
	memory.free()
}

// Wipe overwrites a buffer that held a secret. Copies that append or a string
// conversion made elsewhere are out of its reach.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}
