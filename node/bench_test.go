package node_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
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
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Every benchmark here runs beside its limit, what the machine does without a
// custodian around it: the ratio of the two says something, each alone does not.

// beside measures the limit and the product by turns, so that both meet the same
// machine, and reports the median of each and of their ratio.
func beside(b *testing.B, rounds int, limit, product func() (perSecond float64)) {
	var limits, products, ratios []float64
	for range b.N {
		for range rounds {
			l, p := limit(), product()
			limits, products, ratios = append(limits, l), append(products, p), append(ratios, p/l)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(limits), "limit/s")
	b.ReportMetric(median(products), "product/s")
	b.ReportMetric(median(ratios), "ratio")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkSignP256 signs through the public API, on one goroutine and on one for
// each processor. The limit is crypto/ecdsa.
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
	for _, goroutines := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			signs := func(signer crypto.Signer) func() float64 {
				return func() float64 {
					return rate(b, 20_000, goroutines, func() error {
						_, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
						return err
					})
				}
			}
			beside(b, 9, signs(bare), signs(key))
		})
	}
}

// BenchmarkCreateP256 makes keys in a cluster of three with its data on disk, as
// so many writers at the leader. The limit is an entry of the same size in a bare
// Raft group of three with raft-boltdb.
func BenchmarkCreateP256(b *testing.B) {
	l := startCreates(b)
	entry := make([]byte, createSize(b, l.leader.Node))
	rand.Read(entry)
	bare := startBareRaft(b, 3)
	b.Logf("an entry has %d bytes", len(entry))
	for _, load := range []struct{ writers, writes int }{{1, 200}, {8, 1000}, {64, 4000}} {
		b.Run(fmt.Sprintf("writers=%d", load.writers), func(b *testing.B) {
			beside(b, 7, func() float64 {
				l.awaitCovered()
				return rate(b, load.writes, load.writers, func() error { return bare.apply(entry) })
			}, func() float64 { return rate(b, load.writes, load.writers, l.create) })
		})
	}
}

// BenchmarkCoverage makes keys as 64 writers while no other device takes a key,
// and while the others have as many to take as are made meanwhile; "covered" is
// how many a second are made and in every device.
func BenchmarkCoverage(b *testing.B) {
	const keys, writers, rounds = 2000, 64, 3
	l := startCreates(b)
	var deferred, running, covered []float64
	for range b.N {
		for range rounds {
			l.awaitCovered()
			taken := l.takeNone()
			deferred = append(deferred, rate(b, keys, writers, l.create))
			close(taken)
			running = append(running, rate(b, keys, writers, l.create))
			l.awaitCovered()
			covered = append(covered, rate(b, 1, 1, func() error {
				rate(b, keys, writers, l.create)
				l.awaitCovered()
				return nil
			})*keys)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(deferred), "deferred/s")
	b.ReportMetric(median(running), "running/s")
	b.ReportMetric(median(covered), "covered/s")
}

// creates is a cluster of three with its data on disk that has one key, bench/1.
type creates struct {
	*nodetest.Cluster
	leader *nodetest.Member
	number atomic.Int64
}

func startCreates(b *testing.B) *creates {
	l := &creates{Cluster: nodetest.StartWith(b, 3, nodetest.Options{Dir: b.TempDir()})}
	l.leader = l.Leader()
	if err := l.create(); err != nil {
		b.Fatal(err)
	}
	return l
}

func (l *creates) create() error {
	_, err := l.leader.CreateKey(l.T.Context(), node.KeySpec{Name: fmt.Sprintf("bench/%d", l.number.Add(1)), Type: hsm.ECDSAP256})
	return err
}

// awaitCovered waits until every member's device holds every version.
func (l *creates) awaitCovered() {
	l.T.Helper()
	l.Eventually("devices hold every key", func() bool { return covered(l.leader.Node) })
}

// takeNone has the followers' devices keep every key waiting until it is closed.
func (l *creates) takeNone() chan struct{} {
	taken := make(chan struct{})
	for _, m := range l.Members {
		if m != l.leader {
			m.Device.Hook(func(call hsmtest.Call) {
				if call.Op == hsmtest.OpUnwrap {
					<-taken
				}
			}, nil)
		}
	}
	return taken
}

// rate is how many writes a second succeed, with so many at a time.
func rate(b *testing.B, writes, writers int, one func() error) float64 {
	var left atomic.Int64
	left.Store(int64(writes))
	began := time.Now()
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
	return float64(writes) / time.Since(began).Seconds()
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

// bareRaft is a Raft group in this process, each member with a bbolt file.
type bareRaft []*raft.Raft

func startBareRaft(b *testing.B, count int) bareRaft {
	b.Helper()
	var members bareRaft
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
	return members
}

// apply commits an entry at the member that leads, whichever that is.
func (g bareRaft) apply(entry []byte) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, member := range g {
			if member.State() == raft.Leader && member.Apply(entry, time.Minute).Error() == nil {
				return nil
			}
		}
	}
	return errors.New("the bare group has no leader")
}

// nothingMachine is a state without a state.
type nothingMachine struct{}

func (nothingMachine) Apply(*raft.Log) any                 { return nil }
func (nothingMachine) Snapshot() (raft.FSMSnapshot, error) { return nothingMachine{}, nil }
func (nothingMachine) Restore(r io.ReadCloser) error       { return r.Close() }
func (nothingMachine) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (nothingMachine) Release()                            {}

// BenchmarkRestore puts a blank device in the place of one that died and counts
// how many keys a second come back, each proven. The limit is the device alone: it
// unwraps the same keys and signs once with each.
func BenchmarkRestore(b *testing.B) {
	for _, size := range []struct{ keys, rounds int }{{1000, 5}, {10_000, 1}} {
		b.Run(fmt.Sprintf("keys=%d", size.keys), func(b *testing.B) { benchmarkRestore(b, size.keys, size.rounds) })
	}
}

func benchmarkRestore(b *testing.B, keys, rounds int) {
	l := startKeys(b, 3, nodetest.Options{Dir: b.TempDir()})
	m := l.Follower()
	var number atomic.Int64
	rate(b, keys, 64, func() error {
		_, err := l.Leader().CreateKey(b.Context(), node.KeySpec{Name: fmt.Sprintf("bench/%d", number.Add(1)), Type: hsm.ECDSAP256})
		return err
	})
	l.Eventually("devices hold every key", func() bool { return covered(m.Node) })
	var ceremonies []float64
	beside(b, rounds, func() float64 {
		const first = 30_000
		var versions []*fsm.Version
		for v := range m.View().AllVersions(fsm.VersionRef{}) {
			versions = append(versions, v)
		}
		began := time.Now()
		for i, v := range versions {
			slot := hsm.Slot(first + i)
			object, err := m.Device.Unwrap(b.Context(), slot, v.Material.Blob, hsm.Attributes{Label: "bench"})
			if err != nil {
				b.Fatal(err)
			}
			signature, err := m.Device.Sign(b.Context(), slot, digest[:], hsm.SignOptions{Scheme: hsm.ECDSA, Hash: crypto.SHA256})
			if err != nil || !ecdsa.VerifyASN1(object.Public.(*ecdsa.PublicKey), digest[:], signature) {
				b.Fatalf("%v", err)
			}
		}
		if err := m.Device.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
		return float64(keys) / time.Since(began).Seconds()
	}, func() float64 {
		m.Crash()
		m.NewDevice()
		m.Start()
		l.Leader()
		began := time.Now()
		l.provision(m)
		ceremonies = append(ceremonies, time.Since(began).Seconds())
		already, proven := m.RestoreProgress().Done, time.Now()
		for m.RestoreProgress().Done < keys {
			time.Sleep(time.Millisecond)
		}
		return float64(keys-already) / time.Since(proven).Seconds()
	})
	b.ReportMetric(median(ceremonies), "ceremony-s")
}
