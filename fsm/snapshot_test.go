package fsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

func written(t testing.TB, m *fsm.Machine) []byte {
	t.Helper()
	var out bytes.Buffer
	n, err := m.Snapshot().WriteTo(&out)
	if err != nil || n != int64(out.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, out.Len(), err)
	}
	return out.Bytes()
}

// A snapshot with any one byte changed, cut anywhere, or with anything behind
// it is refused, and the state stays.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	small := newLab(t)
	small.init(fsm.Policy{})
	good := written(t, small.machine)
	m := ready(t, 1).machine
	before := m.Digest()
	try := func(what string, at int, bad []byte) {
		t.Helper()
		if err := m.Restore(bytes.NewReader(bad)); err == nil {
			t.Fatalf("%s at %d of %d: restored", what, at, len(good))
		}
	}
	for i := range good {
		for _, flip := range []byte{0x01, 0x80} {
			bad := slices.Clone(good)
			bad[i] ^= flip
			try("flipped bit", i, bad)
		}
		try("cut", i, good[:i])
	}
	try("trailing byte", len(good), append(slices.Clone(good), 0))
	if m.Digest() != before {
		t.Fatal("a refused snapshot changed the state")
	}
	if err := m.Restore(iotest.OneByteReader(bytes.NewReader(good))); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	if m.Digest() != small.machine.Digest() {
		t.Fatal("restored state differs")
	}
}

func TestSnapshotIsDeterministic(t *testing.T) {
	m := story(t).machine
	first := written(t, m)
	restored := fsm.New()
	if err := restored.Restore(bytes.NewReader(first)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, written(t, restored)) {
		t.Fatal("snapshot of a restored state has other bytes")
	}
}

func TestSnapshotShowsItsOwnIndex(t *testing.T) {
	l := ready(t, 1)
	snapshot := l.machine.Snapshot()
	index, digest := l.index, l.machine.Digest()
	l.createKey("later")
	var out bytes.Buffer
	if _, err := snapshot.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	header, err := fsm.ReadSnapshotHeader(bytes.NewReader(out.Bytes()))
	if err != nil || header.Index != index || header.Digest != digest || header.Cluster != cluster || header.Incarnation != 1 {
		t.Fatalf("header %+v, %v: want index %d", header, err, index)
	}
	m := fsm.New()
	if err := m.Restore(&out); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.State().Key("later"); ok {
		t.Fatal("the snapshot shows what came after it")
	}
}

func TestSnapshotWriteFailure(t *testing.T) {
	m := story(t).machine
	for most := range 3 {
		w := &failingWriter{left: most * 5000}
		if _, err := m.Snapshot().WriteTo(w); !errors.Is(err, errFull) {
			t.Errorf("after %d bytes: %v", most*5000, err)
		}
	}
}

var errFull = errors.New("disk full")

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func FuzzRestore(f *testing.F) {
	small := newLab(f)
	small.init(fsm.Policy{})
	f.Add(written(f, small.machine))
	f.Add(written(f, fsm.New()))
	f.Fuzz(func(t *testing.T, snapshot []byte) {
		m := fsm.New()
		if err := m.Restore(bytes.NewReader(snapshot)); err != nil {
			return
		}
		if !bytes.Equal(written(t, m), snapshot) {
			t.Fatal("two snapshots mean the same")
		}
	})
}

// Nodes compare the digests that they had at the same index.
func TestDigestAtAnIndex(t *testing.T) {
	one, other := ready(t, 1), ready(t, 1)
	index, before := one.index, one.machine.Digest()
	one.createKey("here")
	other.createKey("there")
	here, ok := one.machine.DigestAt(one.index)
	if there, known := other.machine.DigestAt(other.index); !ok || !known || here == there {
		t.Errorf("two states have digests %v and %v", here, there)
	}
	if old, ok := one.machine.DigestAt(index); !ok || old != before {
		t.Errorf("the digest of before is %v, %v; was %v", old, ok, before)
	}
	restored := fsm.New()
	if err := restored.Restore(bytes.NewReader(written(t, one.machine))); err != nil {
		t.Fatal(err)
	}
	if _, ok := restored.DigestAt(index); ok {
		t.Error("a restored node remembers an index that it has not applied")
	}
}

func TestIndexesOnlyGrow(t *testing.T) {
	l := ready(t, 1)
	again, _ := fsm.Encode(l.as(l.nodes[0], l.nodes[0], l.keyCreate("k")))
	if result := l.machine.Apply(l.index, again); result.Fatal == nil {
		t.Fatal("an index was applied twice")
	}
}

// BenchmarkSnapshot writes and reads the state of a cluster with so many P-256
// keys, in memory.
func BenchmarkSnapshot(b *testing.B) {
	for _, keys := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			l := ready(b, 3)
			for i := range keys {
				create := l.keyCreate(fmt.Sprintf("bench/%06d", i))
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err == nil {
					create.Material.Public, err = x509.MarshalPKIXPublicKey(key.Public())
				}
				if err != nil {
					b.Fatal(err)
				}
				create.Type, create.Material.Blob = hsm.ECDSAP256, make([]byte, 366) // see hsm/keyblob
				l.self(l.nodes[0], create)
			}
			var snapshot []byte
			b.Run("write", func(b *testing.B) {
				for b.Loop() {
					snapshot = written(b, l.machine)
				}
				b.ReportMetric(float64(len(snapshot))/(1<<20), "MiB")
			})
			b.Run("read", func(b *testing.B) {
				for b.Loop() {
					if err := fsm.New().Restore(bytes.NewReader(snapshot)); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
