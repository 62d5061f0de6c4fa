package soft_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

func readyFile(b *testing.B) (*soft.Device, soft.Options) {
	b.Helper()
	options := soft.Options{Path: filepath.Join(b.TempDir(), "device"), Seal: newSeal()}
	device := mustOpen(b, options)
	if err := prepare(device); err != nil {
		b.Fatal(err)
	}
	return device, options
}

// BenchmarkSign against the bare library: the difference is what a device costs.
func BenchmarkSign(b *testing.B) {
	digest := make([]byte, 32)
	rand.Read(digest)
	b.Run("bare", func(b *testing.B) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, key, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
	device, _ := readyFile(b)
	ctx := context.Background()
	if _, err := device.Generate(ctx, 1, hsm.ECDSAP256, hsm.Attributes{}); err != nil {
		b.Fatal(err)
	}
	sign := func() error {
		_, err := device.Sign(ctx, 1, digest, hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
		return err
	}
	b.Run("device", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := sign(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("device in parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := sign(); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkGenerateSync is one durable key, with 64 writers at it.
func BenchmarkGenerateSync(b *testing.B) {
	device, _ := readyFile(b)
	var slot atomic.Uint32
	b.SetParallelism((64 + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			if _, err := device.Generate(ctx, hsm.Slot(slot.Add(1)), hsm.ECDSAP256, hsm.Attributes{}); err != nil {
				b.Error(err)
			}
			if err := device.Sync(ctx); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkOpen opens a file of 10,000 keys and says what a key costs in memory.
func BenchmarkOpen(b *testing.B) {
	const keys = 10000
	device, options := readyFile(b)
	for slot := range hsm.Slot(keys) {
		if _, err := device.Generate(b.Context(), slot+1, hsm.ECDSAP256, hsm.Attributes{Tag: make([]byte, hsm.MaxTag)}); err != nil {
			b.Fatal(err)
		}
	}
	device.Close()
	for b.Loop() {
		var before, after runtime.MemStats
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		device, err := soft.Open(options)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keys, "bytes/key")
		device.Close()
		b.StartTimer()
	}
}
