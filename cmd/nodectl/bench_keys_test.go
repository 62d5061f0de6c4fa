package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// BenchmarkKeys makes keys in a cluster of three and reports what its nodes need
// for them: a backup, a restart of one node, a cold start of all, a list, and
// memory, before there are keys, with all of them, and after the cold start.
func BenchmarkKeys(b *testing.B) {
	for _, count := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", count), func(b *testing.B) {
			for range b.N {
				benchmarkKeys(b, count)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchmarkKeys(b *testing.B, count int) {
	p := startProcesses(b, 3, asBuilt)
	n := p.nodes[0]
	idle := n.settled(b)
	b.ReportMetric(idle.anonymous/1024, "idle-anonymous-MiB")
	b.ReportMetric(idle.file/1024, "idle-file-MiB")

	began := time.Now()
	p.makeKeys(b, count)
	b.ReportMetric(float64(count)/time.Since(began).Seconds(), "creates/s")
	p.awaitCovered(b, count)
	b.ReportMetric(float64(count)/time.Since(began).Seconds(), "covered/s")
	full := n.settled(b)
	b.ReportMetric(full.anonymous/1024, "anonymous-MiB")
	b.ReportMetric(full.file/1024, "file-MiB")
	b.ReportMetric(full.peak/1024, "peak-MiB")
	b.ReportMetric((full.anonymous-idle.anonymous)/float64(count), "KiB/key")

	began = time.Now()
	p.nodectl(nil, "cluster", "backup", "--out", p.path("backup"))
	b.ReportMetric(time.Since(began).Seconds(), "backup-s")
	file, err := os.Stat(p.path("backup"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(file.Size())/(1<<20), "backup-MiB")

	n.stop()
	began = time.Now()
	n.start()
	n.awaitHealth(isReady)
	b.ReportMetric(time.Since(began).Seconds(), "restart-s")
	for _, n := range p.nodes {
		n.stop()
	}
	began = time.Now()
	for _, n := range p.nodes {
		n.start()
	}
	p.awaitReady()
	b.ReportMetric(time.Since(began).Seconds(), "cold-start-s")
	started := n.settled(b)
	b.ReportMetric(started.anonymous/1024, "started-anonymous-MiB")
	b.ReportMetric((started.anonymous-idle.anonymous)/float64(count), "started-KiB/key")

	began = time.Now()
	listed := 0
	for _, err := range p.client().Keys(b.Context(), api.KeyListQuery{Limit: api.MaxPage}) {
		if err != nil {
			b.Fatal(err)
		}
		listed++
	}
	b.ReportMetric(time.Since(began).Seconds(), "list-s")
	if listed != count {
		b.Errorf("%d keys listed of %d", listed, count)
	}
}

func isReady(h api.Health) bool { return h.Ready && h.Quorum }

func (p *processes) makeKeys(b *testing.B, count int) {
	var next atomic.Int64
	var working sync.WaitGroup
	for range 32 {
		c := p.client()
		working.Go(func() {
			for i := next.Add(1); i <= int64(count); i = next.Add(1) {
				if _, err := c.CreateKey(b.Context(), api.KeyCreateRequest{Name: fmt.Sprintf("bench/%06d", i), Type: "ecdsa-p256"}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
}

// awaitCovered waits, as long as the benchmark may take, until every node's device
// holds so many keys.
func (p *processes) awaitCovered(b *testing.B, count int) {
	for _, n := range p.nodes {
		c := p.client(n)
		for {
			held, err := heldBy(b.Context(), c, n)
			if err == nil && held >= count {
				break
			}
			select {
			case <-time.After(pollEvery):
			case <-b.Context().Done():
				b.Fatal(errors.Join(err, fmt.Errorf("%s holds %d", n.name, held)))
			}
		}
	}
}

func heldBy(ctx context.Context, c *client.Client, n *process) (int, error) {
	var d api.DeviceDetails
	_, err := c.Do(ctx, api.DeviceInfo, api.DeviceQuery{Node: n.name}, &d)
	return d.Keys, err
}
