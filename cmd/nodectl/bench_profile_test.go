package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"

	"github.com/google/pprof/profile"

	"github.com/keycustodian/keycustodian/node/api"
)

// profileVariable names the file for a profile of a node's use of the processor.
const profileVariable = "KEYCUSTODIAN_PROFILE"

// profiled is nodectl that profiles itself from one SIGUSR1 to the next, into the
// file that profileVariable names.
func profiled() {
	if path := os.Getenv(profileVariable); path != "" {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1)
		go func() {
			for {
				<-signals
				if err := profileUntil(path, signals); err != nil {
					fmt.Fprintln(os.Stderr, "profile:", err)
				}
			}
		}()
	}
	realMain()
}

func profileUntil(path string, end <-chan os.Signal) error {
	file, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.Join(err, file.Close())
	}
	<-end
	pprof.StopCPUProfile()
	return errors.Join(file.Close(), os.Rename(file.Name(), path))
}

// BenchmarkAPISignProfile says what a node's processor time goes to while it signs,
// in percent. The profile slows the node by a few percent.
func BenchmarkAPISignProfile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "profile")
	p := startProcesses(b, 3, func(p *processes) { p.env = append(p.env, profileVariable+"="+path) })
	n := p.nodes[0]
	if _, err := p.client(n).CreateKey(b.Context(), api.KeyCreateRequest{Name: "bench", Type: "ecdsa-p256"}); err != nil {
		b.Fatal(err)
	}
	for _, load := range signLoads {
		b.Run(load.String(), func(b *testing.B) {
			n.signal(syscall.SIGUSR1)
			for range b.N {
				for range 3 {
					load.ask(b, p, n)
				}
			}
			n.signal(syscall.SIGUSR1)
			var found *profile.Profile
			eventually(b, "the profile is written", func(context.Context) error {
				file, err := os.Open(path)
				if err != nil {
					return err
				}
				defer file.Close()
				found, err = profile.Parse(file)
				return err
			})
			os.Remove(path)
			b.ReportMetric(0, "ns/op")
			for part, share := range shares(found) {
				b.ReportMetric(100*share, part+"-%")
			}
		})
	}
}

// parts are what a sample can belong to, told by the first of these packages on
// the way up its stack. What comes from none of them is the runtime's.
var parts = []struct{ name, prefixes string }{
	{"sockets", "internal/poll. syscall. internal/runtime/syscall."},
	{"signature", "crypto/ecdsa. crypto/internal/fips140/ecdsa. crypto/internal/fips140/nistec. github.com/keycustodian/keycustodian/hsm"},
	{"TLS", "crypto/tls."},
	{"JSON", "encoding/json"},
	{"HTTP", "net/http. net/textproto. bufio."},
	{"custodian", "github.com/keycustodian/keycustodian/"},
}

// shares sorts a profile's samples by part.
func shares(p *profile.Profile) map[string]float64 {
	counts, total := map[string]float64{}, 0.0
	for _, sample := range p.Sample {
		counts[partOf(sample)] += float64(sample.Value[0])
		total += float64(sample.Value[0])
	}
	for part := range counts {
		counts[part] /= total
	}
	return counts
}

func partOf(sample *profile.Sample) string {
	for _, location := range sample.Location {
		for _, line := range location.Line {
			for _, part := range parts {
				for prefix := range strings.FieldsSeq(part.prefixes) {
					if strings.HasPrefix(line.Function.Name, prefix) {
						return part.name
					}
				}
			}
		}
	}
	return "runtime"
}
