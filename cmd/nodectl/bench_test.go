package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// The benchmarks here measure nodes as their users meet them: processes of their
// own, asked over TLS on loopback, with the load on the same processors.

// profiled is nodectl that profiles its use of the processor from SIGUSR1 until
// SIGUSR2, where KEYCUSTODIAN_PROFILE names a file: the profiles lie beside it,
// with the process ID and their number behind the name.
func profiled() {
	if path := os.Getenv("KEYCUSTODIAN_PROFILE"); path != "" {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
		go func() {
			var profile bytes.Buffer
			for number := 0; ; number++ {
				for <-signals != syscall.SIGUSR1 {
				}
				profile.Reset()
				pprof.StartCPUProfile(&profile)
				for <-signals != syscall.SIGUSR2 {
				}
				pprof.StopCPUProfile()
				file := profileOf(path, os.Getpid(), number)
				if os.WriteFile(file+".new", profile.Bytes(), 0o600) == nil {
					os.Rename(file+".new", file)
				}
			}
		}()
	}
	main()
}

func profileOf(path string, pid, number int) string {
	return fmt.Sprintf("%s.%d.%d", path, pid, number)
}

// BenchmarkAPISign asks one node for P-256 signatures, as 1, 8 and 32 clients
// with a connection each, and in batches. It reports what a signature costs the
// node in processor time, beside what bare crypto/ecdsa costs in this process.
func BenchmarkAPISign(b *testing.B) {
	p := startProcesses(b, 3)
	n := p.nodes[0]
	key, err := p.client(n).CreateKey(b.Context(), api.KeyCreateRequest{Name: "bench", Type: "ecdsa-p256"})
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("bench"))
	b.Run("bare", func(b *testing.B) {
		bare, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		before := processorTime(b, os.Getpid())
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, bare, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(perOperation(processorTime(b, os.Getpid())-before, b.N), "cpu-us/signature")
	})
	for _, load := range []struct{ clients, batch int }{{1, 1}, {8, 1}, {32, 1}, {1, api.MaxInputs}, {8, 100}} {
		b.Run(fmt.Sprintf("clients=%d/batch=%d", load.clients, load.batch), func(b *testing.B) {
			request := api.SignRequest{Key: key.Name, Inputs: slices.Repeat([][]byte{digest[:]}, load.batch), Hash: api.SHA256}
			end := n.profiling(b)
			defer end()
			before := processorTime(b, n.cmd.Process.Pid)
			times := inParallel(b, p, n, load.clients, func(ctx context.Context, c *client.Client) error {
				var response api.SignResponse
				_, err := c.Do(ctx, api.KeySign, request, &response)
				if err == nil && len(response.Signatures) != load.batch {
					err = errors.New("not every input was signed")
				}
				return err
			})
			signatures := b.N * load.batch
			b.ReportMetric(perOperation(processorTime(b, n.cmd.Process.Pid)-before, signatures), "cpu-us/signature")
			b.ReportMetric(float64(signatures)/b.Elapsed().Seconds(), "signatures/s")
			reportTimes(b, times)
		})
	}
}

// profiling begins a profile of the node where one is asked for, and returns what
// ends it.
func (n *process) profiling(b *testing.B) (end func()) {
	path := os.Getenv("KEYCUSTODIAN_PROFILE")
	if path == "" {
		return func() {}
	}
	n.signal(syscall.SIGUSR1)
	file := profileOf(path, n.cmd.Process.Pid, n.profiles)
	n.profiles++
	return func() {
		n.signal(syscall.SIGUSR2)
		eventually(b, "the profile is written", func(context.Context) error {
			_, err := os.Stat(file)
			return err
		})
		b.Logf("profile: %s", file)
	}
}

// inParallel does b.N requests as so many clients, each with a connection of its
// own that is open already, and returns how long each took.
func inParallel(b *testing.B, p *processes, n *process, clients int, one func(context.Context, *client.Client) error) []time.Duration {
	all := make([]*client.Client, clients)
	for i := range all {
		all[i] = p.client(n)
		if err := one(b.Context(), all[i]); err != nil {
			b.Fatal(err)
		}
	}
	times := make([]time.Duration, b.N)
	var next atomic.Int64
	var working sync.WaitGroup
	b.ResetTimer()
	for _, c := range all {
		working.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				if err := one(b.Context(), c); err != nil {
					b.Error(err)
					return
				}
				times[i] = time.Since(began)
			}
		})
	}
	working.Wait()
	b.StopTimer()
	return times
}

func reportTimes(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-us")
}

func perOperation(total time.Duration, count int) float64 {
	return float64(total.Nanoseconds()) / 1000 / float64(count)
}

// processorTime is what a process has used so far, in user mode and in the
// kernel. Linux counts it in hundredths of a second, see proc_pid_stat(5).
func processorTime(b *testing.B, pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skipf("this system does not say what a process uses: %v", err)
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, counted from the state
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkFailover kills the leader b.N times, under a load of creates and
// signs by clients that go to the next node when one does not answer, and
// reports for how long no create and no sign succeeded.
func BenchmarkFailover(b *testing.B) {
	p := startProcesses(b, 3)
	if _, err := p.client().CreateKey(b.Context(), api.KeyCreateRequest{Name: "bench", Type: "ecdsa-p256"}); err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("bench"))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var number atomic.Int64
	creates := keepAsking(ctx, p.client(), func(ctx context.Context, c *client.Client) error {
		_, err := c.CreateKey(ctx, api.KeyCreateRequest{Name: fmt.Sprintf("bench/%d", number.Add(1)), Type: "ecdsa-p256"})
		return err
	})
	signs := keepAsking(ctx, p.client(), func(ctx context.Context, c *client.Client) error {
		_, err := c.Do(ctx, api.KeySign, api.SignRequest{Key: "bench", Inputs: [][]byte{digest[:]}, Hash: api.SHA256}, &api.SignResponse{})
		return err
	})
	var noCreate, noSign []time.Duration
	for range b.N {
		creates.longest(time.Second) // at peace
		signs.longest(0)
		leader := p.leader()
		leader.kill()
		noCreate = append(noCreate, creates.longest(5*time.Second))
		noSign = append(noSign, signs.longest(0))
		leader.start()
		p.awaitReady()
	}
	cancel()
	for name, times := range map[string][]time.Duration{"create": noCreate, "sign": noSign} {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Milliseconds()), "no-"+name+"-median-ms")
		b.ReportMetric(float64(times[len(times)-1].Milliseconds()), "no-"+name+"-max-ms")
	}
}

// asking is one client that asks for the same again and again.
type asking struct {
	mu   sync.Mutex
	last time.Time     // of a success
	gap  time.Duration // longest between two, since it was last read
}

func keepAsking(ctx context.Context, c *client.Client, one func(context.Context, *client.Client) error) *asking {
	a := &asking{last: time.Now()}
	go func() {
		for ctx.Err() == nil {
			if one(ctx, c) != nil {
				continue
			}
			a.mu.Lock()
			now := time.Now()
			a.gap, a.last = max(a.gap, now.Sub(a.last)), now
			a.mu.Unlock()
		}
	}()
	return a
}

// longest waits, and returns the longest time without a success since it was
// called last.
func (a *asking) longest(wait time.Duration) time.Duration {
	time.Sleep(wait)
	a.mu.Lock()
	defer a.mu.Unlock()
	gap := max(a.gap, time.Since(a.last))
	a.gap = 0
	return gap
}

// leader is the node that leads now.
func (p *processes) leader() (leader *process) {
	p.t.Helper()
	p.eventually("there is a leader", func(ctx context.Context) error {
		status, _, err := p.client().Status(ctx)
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

// BenchmarkKeys makes KEYCUSTODIAN_KEYS keys (1,000 unless set) and reports what
// the nodes need for them: memory, a restart of one node, and a cold start of all.
func BenchmarkKeys(b *testing.B) {
	count, err := strconv.Atoi(os.Getenv("KEYCUSTODIAN_KEYS"))
	if err != nil {
		count = 1000
	}
	for range b.N {
		p := startProcesses(b, 3)
		time.Sleep(5 * time.Second) // what starting needed is given back
		anonymous, file := p.nodes[0].resident(b)
		b.ReportMetric(anonymous/1024, "idle-anonymous-MiB")
		b.ReportMetric(file/1024, "idle-file-MiB")
		began := time.Now()
		p.makeKeys(b, count)
		b.ReportMetric(float64(count)/time.Since(began).Seconds(), "creates/s")
		keys := p.awaitCovered(count)
		b.ReportMetric(float64(keys)/time.Since(began).Seconds(), "covered/s")
		time.Sleep(5 * time.Second)
		used, _ := p.nodes[0].resident(b)
		b.ReportMetric((used-anonymous)/float64(count), "KiB/key")

		n := p.nodes[0]
		n.stop()
		began = time.Now()
		n.start()
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
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
		for _, n := range p.nodes {
			n.stop()
		}
	}
}

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

// awaitCovered waits until every node's device holds so many keys.
func (p *processes) awaitCovered(count int) int {
	p.eventually("every device holds every key", func(ctx context.Context) error {
		for _, n := range p.nodes {
			var d api.DeviceDetails
			if _, err := p.client(n).Do(ctx, api.DeviceInfo, api.DeviceQuery{Node: n.name}, &d); err != nil {
				return err
			}
			if d.Keys < count {
				return fmt.Errorf("%s holds %d", n.name, d.Keys)
			}
		}
		return nil
	})
	return count
}

// resident is the memory that a node occupies, in KiB: its own, and pages of
// files. See proc_pid_status(5).
func (n *process) resident(b *testing.B) (anonymous, file float64) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		b.Skipf("this system does not say what a process uses: %v", err)
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "RssAnon:":
			anonymous, _ = strconv.ParseFloat(fields[1], 64)
		case "RssFile:":
			file, _ = strconv.ParseFloat(fields[1], 64)
		}
	}
	return anonymous, file
}
