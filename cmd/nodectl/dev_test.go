package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// realBinary builds nodectl as users run it.
func realBinary(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs real processes")
	}
	program := filepath.Join(t.TempDir(), "nodectl")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// devRun is a running nodectl dev.
type devRun struct {
	t            *testing.T
	program, dir string
	command      *exec.Cmd
	out, err     bytes.Buffer
	done         chan struct{}
	heard        heard // from nodectl
}

// startDev starts nodectl dev and waits until it is ready. It ends with the test.
func startDev(t *testing.T, program, dir string, args ...string) *devRun {
	t.Helper()
	d := &devRun{t: t, program: program, dir: dir, done: make(chan struct{})}
	d.command = exec.Command(program, append([]string{"dev", "--dir", dir}, args...)...)
	pipe, err := d.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.command.Stderr = &d.err
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.command.Process.Signal(syscall.SIGKILL)
		<-d.done
	})
	ready := make(chan struct{})
	go func() {
		defer close(d.done)
		line := make([]byte, 4096)
		for {
			n, err := pipe.Read(line)
			d.out.Write(line[:n])
			if ready != nil && strings.Contains(d.out.String(), "/env\n") {
				close(ready)
				ready = nil
			}
			if err != nil {
				break
			}
		}
		d.command.Wait()
	}()
	select {
	case <-ready:
	case <-d.done:
		t.Fatalf("dev ended: %s", d.err.String())
	case <-time.After(40 * time.Second):
		t.Fatal("dev is not ready in 40 s")
	}
	return d
}

// interrupt ends dev in order and returns its exit code.
func (d *devRun) interrupt() int {
	d.t.Helper()
	d.command.Process.Signal(syscall.SIGINT)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		d.t.Fatal("dev does not end")
	}
	return d.command.ProcessState.ExitCode()
}

// env is what D/env sets.
func (d *devRun) env() []string {
	d.t.Helper()
	content, err := os.ReadFile(filepath.Join(d.dir, "env"))
	if err != nil {
		d.t.Fatal(err)
	}
	var env []string
	for line := range strings.Lines(string(content)) {
		env = append(env, strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "export "), "'"))
	}
	return env
}

// nodectl runs a command line and returns everything it says and its exit code.
func (d *devRun) nodectl(args ...string) (string, int) {
	d.t.Helper()
	c := exec.Command(d.program, args...)
	c.Env = append(os.Environ(), d.env()...)
	out, err := c.CombinedOutput()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		d.t.Fatal(err)
	}
	d.heard.keep(string(out))
	return string(out), c.ProcessState.ExitCode()
}

func (d *devRun) must(args ...string) string {
	d.t.Helper()
	out, code := d.nodectl(args...)
	if code != 0 {
		d.t.Fatalf("nodectl %s: exit %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

func (d *devRun) path(name string) string { return filepath.Join(d.dir, name) }

func (d *devRun) pid(node string) int {
	d.t.Helper()
	content, err := os.ReadFile(d.path(node + "/pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		d.t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func (d *devRun) eventually(what string, is func() bool) {
	d.t.Helper()
	for limit := time.Now().Add(30 * time.Second); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			d.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// restart starts a node by its configuration, as a person would. It ends with
// the test.
func (d *devRun) restart(node string) *exec.Cmd {
	d.t.Helper()
	c := exec.Command(d.program, "run", "--config", d.path(node+"/config.yaml"))
	log, err := os.Create(filepath.Join(d.t.TempDir(), "log"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c
}

// A development cluster from the first deal to a replaced device, by command
// lines alone. One cluster serves all parts, which follow one another.
func TestDev(t *testing.T) {
	program := realBinary(t)
	d := startDev(t, program, filepath.Join(t.TempDir(), "d"))
	s := newSought(t)
	s.seal(d.path("seal/1"), "")
	t.Run("openssl verifies what nodectl signed", func(t *testing.T) { scripts(t, d) })
	t.Run("a killed node is started again by its configuration", func(t *testing.T) { killed(t, d) })
	t.Run("a deleted device comes back with its keys", func(t *testing.T) { replaced(t, d) })
	t.Run("a node is resealed with its device", func(t *testing.T) { resealed(t, d) })
	t.Run("what a node needs is its own", func(t *testing.T) { refused(t, d) })
	t.Run("it ends whole and resumes", func(t *testing.T) { resumed(t, d) })
	t.Run("no secret lies elsewhere", func(*testing.T) { d.holdsNoSecret(s) })
}

// resealed is proven by the resumption, which starts node-1 under the new secret.
func resealed(t *testing.T, d *devRun) {
	next := filepath.Join(t.TempDir(), "next")
	if err := writeSeal(next); err != nil {
		t.Fatal(err)
	}
	d.must("--addr", "unix:"+d.path("node-1/socket"), "device", "reseal", "--present", "file:"+d.path("seal/1"), "--new", "file:"+next)
	if err := os.Rename(next, d.path("seal/1")); err != nil {
		t.Fatal(err)
	}
}

func scripts(t *testing.T, d *devRun) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/dev",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(d.program)+string(os.PathListSeparator)+env.Getenv("PATH"))
			for _, v := range d.env() {
				name, value, _ := strings.Cut(v, "=")
				env.Setenv(name, value)
			}
			env.Setenv("D", d.dir)
			return nil
		},
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exit": exit},
		RequireExplicitExec: true,
	})
}

func killed(t *testing.T, d *devRun) {
	before := d.must("key", "public", "kept")
	pid := d.pid("node-2")
	syscall.Kill(pid, syscall.SIGKILL)
	d.eventually("dev says that it has ended", func() bool { return !alive(pid) })
	out, code := d.nodectl("device", "info", "--node", "node-2")
	if code != 1 || !strings.Contains(out, "nodectl: node node-2: does not answer: ") || !strings.Contains(out, "hint: start it") {
		t.Errorf("a device whose node is down: exit %d: %s", code, out)
	}
	d.must("key", "create", "made-without-node-2", "--type", "ecdsa-p256")
	d.restart("node-2")
	d.eventually("node-2 is back", func() bool {
		out, code := d.nodectl("--addr", "unix:"+d.path("node-2/socket"), "cluster", "status")
		return code == 0 && strings.Contains(out, "node-2, open")
	})
	if again := d.pid("node-2"); again == pid || !alive(again) {
		t.Errorf("pid %d after %d", again, pid)
	}
	if after := d.must("key", "public", "kept"); after != before {
		t.Error("the key is another one")
	}
}

func replaced(t *testing.T, d *devRun) {
	syscall.Kill(d.pid("node-3"), syscall.SIGKILL)
	d.eventually("node-3 is gone", func() bool { return !alive(d.pid("node-3")) })
	if err := os.Remove(d.path("node-3/device")); err != nil {
		t.Fatal(err)
	}
	d.restart("node-3")
	d.eventually("node-3 waits for a provision", func() bool {
		out, _ := d.nodectl("device", "list")
		return regexp.MustCompile(`node-3 +soft +\S+ +blank`).MatchString(out)
	})
	if out := d.must("cluster", "status"); !strings.Contains(out, "device replace --node node-3") {
		t.Errorf("status does not say what to do: %s", out)
	}
	out := d.must("device", "replace", "--node", "node-3", "--reason", "its disk died", "--wait")
	if !strings.Contains(out, "success") {
		t.Error(out)
	}
	d.eventually("every key is back in it", func() bool {
		out, _ := d.nodectl("key", "show", "kept")
		return strings.Contains(out, "node-3")
	})
}

// refused: a second process on one folder, a port that is taken, a wrong seal
// secret, truncated files, unknown settings. Each names the thing and the way
// out, and nothing is changed by it.
func refused(t *testing.T, d *devRun) {
	start := func(change func(string) string) (string, int) {
		content, err := os.ReadFile(d.path("node-1/config.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(change(string(content))), 0o600); err != nil {
			t.Fatal(err)
		}
		return d.nodectl("run", "--config", file)
	}
	elsewhere := func(content string) string {
		return strings.ReplaceAll(content, d.path("node-1"), t.TempDir())
	}
	for what, c := range map[string]struct {
		change func(string) string
		says   string
		code   int
	}{
		"a second process": {func(c string) string { return c }, "in use by another process", 1},
		"a port in use":    {elsewhere, "address already in use", 1},
		"unknown field":    {func(c string) string { return c + "surprise: 1\n" }, "surprise", 2},
		"truncated config": {func(c string) string { return c[:len(c)/2] }, "", 2},
		"a device in use": {func(c string) string {
			return regexp.MustCompile(`(?m)^(dir|socket|pid-file): .*$`).ReplaceAllString(c, "$1: "+t.TempDir()+"/$1")
		}, "in use", 1},
	} {
		out, code := start(c.change)
		if code != c.code && what != "truncated config" || !strings.Contains(out, c.says) || !strings.Contains(out, "hint: ") {
			t.Errorf("%s: exit %d: %s", what, code, out)
		}
	}
	copied(t, d)
	if out := d.must("cluster", "status"); !strings.Contains(out, "works now") {
		t.Error(out)
	}
}

// copied starts a copy of a running node at another port.
func copied(t *testing.T, d *devRun) {
	place := t.TempDir()
	if err := os.CopyFS(filepath.Join(place, "data"), os.DirFS(d.path("node-1/data"))); err != nil {
		t.Fatal(err)
	}
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	for from, change := range map[string]func([]byte) []byte{
		"device": func(c []byte) []byte { return c },
		"config.yaml": func(c []byte) []byte {
			c = bytes.ReplaceAll(c, []byte(d.path("node-1")), []byte(place))
			return regexp.MustCompile(`(?m)^listen: .*$`).ReplaceAll(c, fmt.Appendf(nil, "listen: 127.0.0.1:%d", ports[0]))
		},
	} {
		content, err := os.ReadFile(d.path("node-1/" + from))
		if err == nil {
			err = os.WriteFile(filepath.Join(place, from), change(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, code := d.nodectl("run", "--config", filepath.Join(place, "config.yaml")); code != 1 || !strings.Contains(out, "another process with this node's key answers at 127.0.0.1:") {
		t.Errorf("a copy: exit %d: %s", code, out)
	}
}

func resumed(t *testing.T, d *devRun) {
	// Nodes that were started by hand are nobody's children.
	for _, node := range []string{"node-2", "node-3"} {
		pid := d.pid(node)
		syscall.Kill(pid, syscall.SIGTERM)
		d.eventually(node+" ends in order", func() bool { return !alive(pid) || zombie(pid) })
	}
	first := d.pid("node-1")
	if code := d.interrupt(); code != 0 {
		t.Errorf("exit %d: %s", code, d.err.String())
	}
	if alive(first) {
		t.Error("node-1 was left behind")
	}
	again := startDev(t, d.program, d.dir)
	if out := again.must("key", "list"); !strings.Contains(out, "kept") {
		t.Errorf("keys are gone: %s", out)
	}
	if out, code := again.nodectl("dev", "--dir", d.dir); code != 1 || !strings.Contains(out, "in use") {
		t.Errorf("a second dev: exit %d: %s", code, out)
	}
	// A node that hangs is ended all the same.
	pids := []int{again.pid("node-1"), again.pid("node-2"), again.pid("node-3")}
	syscall.Kill(pids[1], syscall.SIGSTOP)
	again.interrupt()
	for i, pid := range pids {
		if alive(pid) {
			t.Errorf("node-%d was left behind", i+1)
		}
	}
}

// zombie tells whether a process has ended and waits for its parent.
func zombie(pid int) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(content, []byte(") Z "))
}

// A node with the wrong seal secret starts sealed: it answers health on its
// socket, says what is missing, and goes on when it is given the right one.
func TestRunStartsSealed(t *testing.T) {
	program := realBinary(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right, wrong := write("right", strings.Repeat("ab", 32)), write("wrong", strings.Repeat("cd", 32))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	d := &devRun{t: t, program: program, dir: dir}
	write("env", "")
	socket := filepath.Join(dir, "s")
	serve := func(seal string) *exec.Cmd {
		c := exec.Command(program, "run", "--name", "a", "--dir", filepath.Join(dir, "data"), "--listen", address, "--seal-source", seal, "--socket", socket)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Process.Kill()
			c.Wait()
		})
		return c
	}
	says := func(what string) func() bool {
		return func() bool {
			out, _ := d.nodectl("--addr", "unix:"+socket, "cluster", "status")
			return strings.Contains(out, what)
		}
	}
	first := serve("file:" + right)
	d.eventually("it answers", says("in no cluster"))
	first.Process.Signal(syscall.SIGTERM)
	if err := first.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	serve("file:" + wrong)
	d.eventually("it says that it is sealed", says("sealed"))
	if out, code := d.nodectl("--addr", "unix:"+socket, "cluster", "join", "x"); code == 0 {
		t.Errorf("a sealed node joined: %s", out)
	}
	if out, code := d.nodectl("--addr", "unix:"+socket, "device", "enter", "seal", "--source", "file:"+wrong); code != 3 {
		t.Errorf("the wrong secret: exit %d: %s", code, out)
	}
}
