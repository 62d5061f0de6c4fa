package node_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Every benchmark here runs beside its limit, what the machine does without a
// custodian around it: the ratio of the two says something, each alone does not.

func BenchmarkSignP256(b *testing.B) {
	bare, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	// As a daemon does by default, it logs at Info: who used which key.
	c := nodetest.StartWith(b, 1, nodetest.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	key, err := c.Members[0].CreateKey(b.Context(), node.KeySpec{Name: "bench", Type: hsm.ECDSAP256})
	if err != nil {
		b.Fatal(err)
	}
	for _, signer := range []struct {
		name string
		crypto.Signer
	}{{"bare", bare}, {"key", key}} {
		sign := func(b *testing.B) {
			if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Error(err)
			}
		}
		b.Run(signer.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sign(b)
			}
		})
		b.Run(signer.name+" in parallel", func(b *testing.B) {
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					sign(b)
				}
			})
		})
	}
}

// BenchmarkCreateP256 makes keys in a cluster of three with its data on disk,
// with 1, 8 and 64 writers at the leader, and commits entries of the same size
// by Raft alone. "covered" waits until every node's device holds every key.
func BenchmarkCreateP256(b *testing.B) {
	c := nodetest.StartWith(b, 3, nodetest.Options{Dir: b.TempDir()})
	leader := c.Leader()
	var number atomic.Int64
	create := func() error {
		_, err := leader.CreateKey(b.Context(), node.KeySpec{Name: fmt.Sprintf("bench/%d", number.Add(1)), Type: hsm.ECDSAP256})
		return err
	}
	if err := create(); err != nil {
		b.Fatal(err)
	}
	size := createSize(b, leader.Node)
	bare := startBareRaft(b, 3)
	entry := make([]byte, size)
	rand.Read(entry)
	apply := func() error { return bare.Apply(entry, time.Minute).Error() }
	b.Logf("an entry has %d bytes", size)
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("raft/%d", writers), func(b *testing.B) { write(b, writers, apply) })
		c.Eventually("devices hold every key", func() bool { return covered(leader.Node) })
		b.Run(fmt.Sprintf("create/%d", writers), func(b *testing.B) { write(b, writers, create) })
		b.Run(fmt.Sprintf("covered/%d", writers), func(b *testing.B) {
			c.Eventually("devices hold every key", func() bool { return covered(leader.Node) })
			b.ResetTimer()
			write(b, writers, create)
			for !covered(leader.Node) {
				time.Sleep(time.Millisecond)
			}
		})
	}
}

// write does b.N writes with so many at a time.
func write(b *testing.B, writers int, one func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := one(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

// covered tells whether every member's device holds every version.
func covered(n *node.Node) bool {
	view := n.View()
	counts := view.Covered()
	for m := range view.Members() {
		if counts[m.ID] != view.Count(fsm.TableVersions) {
			return false
		}
	}
	return true
}

// createSize is how long the command is that made the newest key, in bytes.
func createSize(b *testing.B, n *node.Node) int {
	view := n.View()
	key, ok := view.Key("bench/1")
	if !ok {
		b.Fatal("no key")
	}
	version, ok := view.Version(key.ID, 1)
	if !ok {
		b.Fatal("no version")
	}
	encoded, err := fsm.Encode(fsm.Command{
		Header: fsm.Header{Request: version.Request, Actor: fsm.Actor{Node: n.ID()}, Time: n.Now().UnixMilli()},
		Body:   &fsm.KeyCreate{Name: key.Name, Type: key.Type, Usage: key.Usage, Policy: key.Policy, Material: version.Material},
	})
	if err != nil {
		b.Fatal(err)
	}
	return len(encoded)
}

// startBareRaft starts a Raft group in this process, each member with a bbolt
// file, and returns its leader.
func startBareRaft(b *testing.B, count int) *raft.Raft {
	b.Helper()
	var members []*raft.Raft
	var servers []raft.Server
	var transports []*raft.InmemTransport
	for i := range count {
		id := fmt.Sprintf("bare-%d", i)
		address, transport := raft.NewInmemTransport(raft.ServerAddress(id))
		servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: address})
		transports = append(transports, transport)
	}
	for i, server := range servers {
		for _, other := range transports {
			transports[i].Connect(other.LocalAddr(), other)
		}
		options := *bbolt.DefaultOptions
		options.NoFreelistSync = true
		store, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(b.TempDir(), "log.db"), BoltOptions: &options})
		if err != nil {
			b.Fatal(err)
		}
		config := raft.DefaultConfig()
		config.LocalID, config.Logger = server.ID, hclog.NewNullLogger()
		member, err := raft.NewRaft(config, nothingMachine{}, store, store, raft.NewInmemSnapshotStore(), transports[i])
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			member.Shutdown().Error()
			store.Close()
		})
		members = append(members, member)
	}
	if err := members[0].BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, member := range members {
			if member.State() == raft.Leader {
				return member
			}
		}
	}
	b.Fatal("no leader of the bare group")
	return nil
}

// nothingMachine is a state without a state.
type nothingMachine struct{}

func (nothingMachine) Apply(*raft.Log) any                 { return nil }
func (nothingMachine) Snapshot() (raft.FSMSnapshot, error) { return nothingMachine{}, nil }
func (nothingMachine) Restore(r io.ReadCloser) error       { return r.Close() }
func (nothingMachine) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (nothingMachine) Release()                            {}

// BenchmarkRestore puts a blank device in the place of one that died, b.N times
// with 1,000 keys, and reports how many keys a second come back, each proven;
// "bare" unwraps and proves the same keys in a device without a custodian.
func BenchmarkRestore(b *testing.B) {
	const keys = 1000
	l := startKeys(b, 3, nodetest.Options{Dir: b.TempDir()})
	m := l.Follower()
	for i := range keys {
		if _, err := l.Leader().CreateKey(b.Context(), node.KeySpec{Name: fmt.Sprintf("bench/%d", i), Type: hsm.ECDSAP256}); err != nil {
			b.Fatal(err)
		}
	}
	l.Eventually("devices hold every key", func() bool { return covered(m.Node) })
	b.Run("bare", func(b *testing.B) {
		var versions []*fsm.Version
		for v := range m.View().AllVersions(fsm.VersionRef{}) {
			versions = append(versions, v)
		}
		for b.Loop() {
			for i, v := range versions {
				slot := hsm.Slot(20_000 + i)
				object, err := m.Device.Unwrap(b.Context(), slot, v.Material.Blob, hsm.Attributes{Label: "bench"})
				if err != nil {
					b.Fatal(err)
				}
				signature, err := m.Device.Sign(b.Context(), slot, digest[:], hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
				if err != nil || !ecdsa.VerifyASN1(object.Public.(*ecdsa.PublicKey), digest[:], signature) {
					b.Fatalf("%v", err)
				}
			}
			b.StopTimer()
			for i := range versions {
				if err := m.Device.Delete(b.Context(), hsm.Slot(20_000+i)); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(b.N*keys)/b.Elapsed().Seconds(), "keys/s")
	})
	b.Run("restore", func(b *testing.B) {
		var ceremonies time.Duration
		for range b.N {
			b.StopTimer()
			m.Crash()
			m.NewDevice()
			m.Start()
			l.Leader()
			b.StartTimer()
			began := time.Now()
			l.provision(m)
			ceremonies += time.Since(began)
			for m.RestoreProgress().Done < keys {
				time.Sleep(time.Millisecond)
			}
		}
		b.ReportMetric(float64(b.N*keys)/b.Elapsed().Seconds(), "keys/s")
		b.ReportMetric(float64(ceremonies.Milliseconds())/float64(b.N), "ceremony-ms")
	})
}
