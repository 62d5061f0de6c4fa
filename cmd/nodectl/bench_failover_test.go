package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// failovers is how often a leader is killed for one figure.
const failovers = 20

// BenchmarkFailover kills the leader of three and reports for how long no create
// and no sign succeeded, by clients that go to the next node when one does not
// answer: idle but for one client of each kind that asks every few milliseconds,
// and under the load of 16 that create and 8 that sign without a pause.
func BenchmarkFailover(b *testing.B) {
	for _, load := range []struct {
		name              string
		creators, signers int
		pause             time.Duration
	}{{"idle", 1, 1, 5 * time.Millisecond}, {"load", 16, 8, 0}} {
		b.Run(load.name, func(b *testing.B) {
			p := startProcesses(b, 3, asBuilt)
			if _, err := p.client().CreateKey(b.Context(), api.KeyCreateRequest{Name: "bench", Type: "ecdsa-p256"}); err != nil {
				b.Fatal(err)
			}
			digest := sha256.Sum256([]byte("bench"))
			var number atomic.Int64
			creates := p.keepAsking(b, load.creators, load.pause, func(ctx context.Context, c *client.Client) error {
				_, err := c.CreateKey(ctx, api.KeyCreateRequest{Name: fmt.Sprintf("bench/%d", number.Add(1)), Type: "ecdsa-p256"})
				return err
			})
			defer creates.end()
			signs := p.keepAsking(b, load.signers, load.pause, func(ctx context.Context, c *client.Client) error {
				_, err := c.Do(ctx, api.KeySign, api.SignRequest{Key: "bench", Inputs: [][]byte{digest[:]}, Hash: api.SHA256}, &api.SignResponse{})
				return err
			})
			defer signs.end()
			var noCreate, noSign []float64
			for range b.N {
				for range failovers {
					time.Sleep(time.Second) // at peace
					leader := p.leader()
					creates.longest()
					signs.longest()
					leader.kill()
					time.Sleep(5 * time.Second)
					noCreate = append(noCreate, creates.longest().Seconds())
					noSign = append(noSign, signs.longest().Seconds())
					leader.start()
					p.awaitReady()
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(noCreate), "no-create-median-s")
			b.ReportMetric(slices.Max(noCreate), "no-create-max-s")
			b.ReportMetric(median(noSign), "no-sign-median-s")
			b.ReportMetric(slices.Max(noSign), "no-sign-max-s")
		})
	}
}

// asking is a number of clients that ask for the same again and again.
type asking struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	last time.Time     // of a success of any of them
	gap  time.Duration // longest between two, since it was last read
}

func (p *processes) keepAsking(b *testing.B, clients int, pause time.Duration, one func(context.Context, *client.Client) error) *asking {
	ctx, cancel := context.WithCancel(b.Context())
	a := &asking{cancel: cancel, last: time.Now()}
	for range clients {
		c := p.newClient()
		a.running.Go(func() {
			for ctx.Err() == nil {
				if one(ctx, c) == nil {
					a.succeeded()
				}
				time.Sleep(pause)
			}
		})
	}
	return a
}

func (a *asking) succeeded() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.gap, a.last = max(a.gap, now.Sub(a.last)), now
}

// longest is the longest time without a success since it was called last.
func (a *asking) longest() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	gap := max(a.gap, time.Since(a.last))
	a.gap = 0
	return gap
}

func (a *asking) end() {
	a.cancel()
	a.running.Wait()
}

// leader is the node that leads now.
func (p *processes) leader() (leader *process) {
	p.t.Helper()
	c := p.client()
	p.eventually("there is a leader", func(ctx context.Context) error {
		status, _, err := c.Status(ctx)
		for _, m := range status.Members {
			for _, n := range p.nodes {
				if m.Leader && m.Name == n.name {
					leader = n
				}
			}
		}
		if leader == nil {
			return errors.Join(err, errors.New("nobody leads"))
		}
		return nil
	})
	return leader
}
