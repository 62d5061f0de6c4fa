package secret_test

import (
	"bytes"
	"runtime"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
)

func TestTakeWipesItsArgument(t *testing.T) {
	from := []byte("648219")
	b := secret.Take(from)
	if !bytes.Equal(from, make([]byte, 6)) {
		t.Errorf("left %q", from)
	}
	b.With(func(p []byte) {
		if string(p) != "648219" || cap(p) != 6 {
			t.Errorf("holds %q, capacity %d", p, cap(p))
		}
	})
	if b.Len() != 6 {
		t.Errorf("length %d", b.Len())
	}
}

// A wiped secret is an empty one, and so are nil and the zero value.
func TestEmpty(t *testing.T) {
	wiped := secret.Random(32)
	wiped.Wipe()
	wiped.Wipe()
	for name, b := range map[string]*secret.Bytes{"wiped": wiped, "nil": nil, "zero": new(secret.Bytes), "of no bytes": secret.New(0)} {
		called := false
		b.With(func(p []byte) { called = len(p) == 0 })
		if !called || b.Len() != 0 || b.Clone().Len() != 0 || !b.Equal(nil) {
			t.Errorf("%s: not empty", name)
		}
		b.Wipe()
	}
}

func TestWipeOverwritesABuffer(t *testing.T) {
	b := []byte("648219")
	secret.Wipe(b)
	if !bytes.Equal(b, make([]byte, 6)) {
		t.Errorf("left %q", b)
	}
	secret.Wipe(nil)
}

func TestEqualAndClone(t *testing.T) {
	a := secret.Random(32)
	b := a.Clone()
	if !a.Equal(b) || !a.Equal(a) || a.Equal(secret.Random(32)) || a.Equal(secret.New(31)) || a.Equal(nil) {
		t.Error("Equal is wrong")
	}
	b.With(func(p []byte) { p[31] ^= 1 })
	if a.Equal(b) {
		t.Error("a clone shares memory, or the last byte does not count")
	}
}

// Wipe waits for a With that runs, and those that come later find nothing; a
// With within a With never waits.
func TestWipeAndWith(t *testing.T) {
	b := secret.Take([]byte("648219"))
	inside, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b.With(func(p []byte) {
			close(inside)
			for b.Len() != 0 { // until the Wipe below has begun
				runtime.Gosched()
			}
			b.With(func(q []byte) {
				if len(q) != 0 {
					t.Error("a With after Wipe found the secret")
				}
			})
			if string(p) != "648219" {
				t.Error("wiped under a running With")
			}
		})
	}()
	<-inside
	b.Wipe()
	<-done
}

// A panic in f does not leave Wipe waiting.
func TestWipeAfterPanic(t *testing.T) {
	b := secret.Random(8)
	func() {
		defer func() { recover() }()
		b.With(func([]byte) { panic("f") })
	}()
	b.Wipe()
}

// Read, cloned, compared both ways and wiped at once: for the race detector,
// and a clone is whole or empty.
func TestConcurrentUse(t *testing.T) {
	for range 50 {
		a, b := secret.Take([]byte("648219")), secret.Take([]byte("648219"))
		whole := secret.Take([]byte("648219"))
		var group sync.WaitGroup
		for _, f := range []func(){
			func() { a.Equal(b) }, func() { b.Equal(a) }, func() { a.Len() },
			func() {
				if c := a.Clone(); c.Len() != 0 && !c.Equal(whole) {
					t.Error("half a clone")
				}
			},
			func() { b.With(func(p []byte) { _ = bytes.Count(p, []byte("6")) }) },
			a.Wipe, b.Wipe, a.Wipe,
		} {
			group.Go(f)
		}
		group.Wait()
		whole.Wipe()
	}
}

// Thousands at a time are cheap, and forgotten ones are freed.
func TestManySecrets(t *testing.T) {
	many := make([]*secret.Bytes, 5000)
	for i := range many {
		many[i] = secret.Random(32)
	}
	for i := range many {
		if many[i].Len() != 32 || i > 0 && many[i].Equal(many[i-1]) {
			t.Fatalf("secret %d", i)
		}
	}
	for i := range many[:2500] {
		many[i].Wipe()
	}
}

func BenchmarkNewAndWipe(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		secret.New(32).Wipe()
	}
}

func BenchmarkWith(b *testing.B) {
	s := secret.New(32)
	b.ReportAllocs()
	for b.Loop() {
		s.With(func([]byte) {})
	}
}
