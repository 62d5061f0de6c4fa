package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The benchmarks measure nodes as their users meet them: processes of their own,
// built as `make build` does, asked over TLS on loopback, with the load on the
// same processors.

// asBuilt has the nodes run the program that users run instead of the test binary.
func asBuilt(p *processes) {
	p.program = filepath.Join(p.dir, "nodectl")
	build := exec.Command("go", "build", "-trimpath", "-o", p.program, ".")
	build.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret")
	if out, err := build.CombinedOutput(); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// processorCost is what a process uses for one of so many operations that do
// makes, in microseconds of a processor.
func processorCost(b *testing.B, pid, operations int, do func()) float64 {
	before := processorTime(b, pid)
	do()
	return float64((processorTime(b, pid) - before).Nanoseconds()) / 1000 / float64(operations)
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

// memory is what a process occupies, in KiB: its own, pages of files, and the most
// of both that it ever did.
type memory struct{ anonymous, file, peak float64 }

// settled is the memory of a node that has had time to give back what its work
// needed. See proc_pid_status(5).
func (n *process) settled(b *testing.B) (m memory) {
	time.Sleep(10 * time.Second)
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		b.Skipf("this system does not say what a process uses: %v", err)
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		for name, value := range map[string]*float64{"RssAnon:": &m.anonymous, "RssFile:": &m.file, "VmHWM:": &m.peak} {
			if fields[0] == name {
				if *value, err = strconv.ParseFloat(fields[1], 64); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	return m
}
