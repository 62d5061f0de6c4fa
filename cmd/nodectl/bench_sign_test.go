package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// signLoad is so many requests by so many clients, each with a connection of its
// own, for so many P-256 signatures each.
type signLoad struct{ clients, batch, requests int }

var signLoads = []signLoad{{1, 1, 4000}, {8, 1, 8000}, {32, 1, 8000}, {8, 100, 400}, {1, api.MaxInputs, 40}}

func (l signLoad) String() string { return fmt.Sprintf("clients=%d/batch=%d", l.clients, l.batch) }

// BenchmarkAPISign asks one node of three for P-256 signatures and reports what
// one costs the node in processor time. The limit is what it costs bare
// crypto/ecdsa in this process, measured by turns with it.
func BenchmarkAPISign(b *testing.B) {
	p := startProcesses(b, 3, asBuilt)
	n := p.nodes[0]
	if _, err := p.client(n).CreateKey(b.Context(), api.KeyCreateRequest{Name: "bench", Type: "ecdsa-p256"}); err != nil {
		b.Fatal(err)
	}
	bare, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("bench"))
	for _, load := range signLoads {
		b.Run(load.String(), func(b *testing.B) {
			var limits, costs, ratios, rates []float64
			var times []time.Duration
			for range b.N {
				for range 7 {
					limit := processorCost(b, os.Getpid(), 20_000, func() {
						for range 20_000 {
							if _, err := ecdsa.SignASN1(rand.Reader, bare, digest[:]); err != nil {
								b.Fatal(err)
							}
						}
					})
					began := time.Now()
					signatures := load.requests * load.batch
					cost := processorCost(b, n.cmd.Process.Pid, signatures, func() { times = append(times, load.ask(b, p, n)...) })
					rates = append(rates, float64(signatures)/time.Since(began).Seconds())
					limits, costs, ratios = append(limits, limit), append(costs, cost), append(ratios, cost/limit)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(limits), "limit-cpu-us")
			b.ReportMetric(median(costs), "cpu-us")
			b.ReportMetric(median(ratios), "of-limit")
			b.ReportMetric(median(rates), "signatures/s")
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-us")
		})
	}
}

// ask has the clients do all requests at the node and returns how long each took.
func (l signLoad) ask(b *testing.B, p *processes, n *process) []time.Duration {
	digest := sha256.Sum256([]byte("bench"))
	request := api.SignRequest{Key: "bench", Inputs: slices.Repeat([][]byte{digest[:]}, l.batch), Hash: api.SHA256}
	times := make([]time.Duration, l.requests)
	var next atomic.Int64
	var working sync.WaitGroup
	for range l.clients {
		c, err := client.New(p.clientConfig(n))
		if err != nil {
			b.Fatal(err)
		}
		working.Go(func() {
			defer c.Close()
			for i := next.Add(1) - 1; i < int64(l.requests); i = next.Add(1) - 1 {
				began := time.Now()
				if err := l.one(b.Context(), c, request); err != nil {
					b.Error(err)
					return
				}
				times[i] = time.Since(began)
			}
		})
	}
	working.Wait()
	return times
}

func (l signLoad) one(ctx context.Context, c *client.Client, request api.SignRequest) error {
	var response api.SignResponse
	if _, err := c.Do(ctx, api.KeySign, request, &response); err != nil {
		return err
	}
	if len(response.Signatures) != l.batch {
		return errors.New("not every input was signed")
	}
	return nil
}
