package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// realCommand is the name under which the test binary is nodectl itself, node
// and all: a process of its own without a build of its own.
const realCommand = "nodectl-real"

// heartbeatSetting is the environment variable of such a process that says how long its
// node waits for a leader that says nothing.
const heartbeatSetting = "KEYCUSTODIAN_HEARTBEAT"

// realMain is main, with a heartbeat that a test may set.
func realMain() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, os.Getenv, func(ctx context.Context, cfg *config, logger *slog.Logger) (daemon, error) {
		heartbeat, err := time.ParseDuration(cmp.Or(os.Getenv(heartbeatSetting), "0s"))
		if err != nil {
			return nil, err
		}
		return startTimed(ctx, cfg, logger, node.Timing{Heartbeat: heartbeat})
	})
	stop()
	os.Exit(code)
}

// settleTime bounds a step of a cluster's life on a machine that is busy with
// other things.
const settleTime = 60 * time.Second

// processes is a cluster of nodes, each a process of its own on loopback. What
// one operator needs lies in dir: cluster.json and alice.pem.
type processes struct {
	t     testing.TB
	dir   string
	nodes []*process
	key   crypto.Signer // alice's

	disk    func(dir string) // makes a disk of a node's folder; nil: it lies where it is
	env     []string         // of every node
	program string           // that a node runs; empty: this one

	clients map[string]*client.Client // by whom they ask, see client
	tokens  []string                  // that were made
	heard   heard                     // from nodectl, but for tokens
}

// process is one node: its data folder and device in a folder of its own, its
// seal secret beside the folders of all.
type process struct {
	t                     testing.TB
	name, dir, addr, seal string
	program               string   // see processes
	env                   []string // added to this process's own
	late                  bool     // it joined when the cluster had been at work

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	state  *os.ProcessState
}

// startProcesses starts count nodes, makes a cluster of them and deals the
// DKEK, all as an operator does it. Every process ends with the test.
func startProcesses(t testing.TB, count int, set ...func(*processes)) *processes {
	t.Helper()
	p := newProcesses(t, count, set...)
	p.nodectl(p.nodes[0], "cluster", "init", "--operator", p.path("alice.pem.pub"))
	for _, n := range p.nodes[1:] {
		p.join(n)
	}
	p.awaitVoters()
	p.nodectl(nil, "--timeout", settleTime.String(), "dkek", "create", "--reason", "first deal")
	p.awaitReady()
	return p
}

// newProcesses starts count nodes that are in no cluster yet.
func newProcesses(t testing.TB, count int, set ...func(*processes)) *processes {
	t.Helper()
	runtime.LockOSThread() // a child ends with the thread that started it: also when the test binary is killed
	p := &processes{t: t, dir: t.TempDir()}
	for _, set := range set {
		set(p)
	}
	for i := range count {
		p.nodes = append(p.nodes, p.add(fmt.Sprintf("node-%d", i+1)))
	}
	for _, n := range p.nodes {
		n.awaitUnsealed()
	}
	p.nodectl(nil, "operator", "new", "--out", p.path("alice.pem"))
	a := &app{getenv: func(string) string { return "" }, key: p.path("alice.pem")}
	var err error
	if p.key, err = a.loadKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// join has a node join by a token.
func (p *processes) join(n *process, options ...string) {
	p.t.Helper()
	p.newToken(options...)
	p.nodectl(n, "cluster", "join", "--token-file", p.path("token"))
}

// newToken writes a token to the file token.
func (p *processes) newToken(options ...string) {
	p.t.Helper()
	code, token, said := p.try(nil, append([]string{"cluster", "token"}, options...)...)
	if code != 0 {
		p.t.Fatalf("nodectl cluster token: exit %d\n%s", code, said)
	}
	p.tokens = append(p.tokens, token)
	if err := os.WriteFile(p.path("token"), []byte(token), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// awaitVoters waits until every node is a member with a vote.
func (p *processes) awaitVoters() {
	p.t.Helper()
	p.nodectl(nil, "cluster", "refresh")
	p.eventually("everybody has a vote", func(ctx context.Context) error {
		status, _, err := p.client(p.nodes[0]).Status(ctx)
		for _, m := range status.Members {
			if m.Suffrage != "voter" {
				return fmt.Errorf("%s is a %s", m.Name, m.Suffrage)
			}
		}
		if len(status.Members) != len(p.nodes) {
			return errors.Join(err, fmt.Errorf("%d members", len(status.Members)))
		}
		return err
	})
}

func (p *processes) path(name string) string { return filepath.Join(p.dir, name) }

// add makes a node's folder, seal secret and configuration, and starts it. The
// node's own seal secret seals the device too.
func (p *processes) add(name string) *process {
	p.t.Helper()
	n := &process{t: p.t, name: name, dir: p.path(name), seal: p.path(name + ".seal"), addr: quietAddress(p.t), program: p.program}
	key := secret.Random(secret.KeySize)
	defer key.Wipe()
	err := os.Mkdir(n.dir, 0o700)
	if err == nil && p.disk != nil {
		p.disk(n.dir)
	}
	key.With(func(b []byte) { err = errors.Join(err, secret.WriteFile(n.seal, b)) })
	if err := errors.Join(err, n.configure()); err != nil {
		p.t.Fatal(err)
	}
	n.env = []string{ // a build with the tag faults obeys them
		"KEYCUSTODIAN_CRASH=" + n.orderFile(), "KEYCUSTODIAN_LIE=" + n.lieFile(),
		"KEYCUSTODIAN_TORN=" + n.tornFile(), "KEYCUSTODIAN_CLOCK=" + n.clockFile(),
	}
	n.env = append(n.env, p.env...)
	p.t.Cleanup(n.kill)
	n.start()
	return n
}

// lieFile is where the node's lie is named: see node/faults_lies.go.
func (n *process) lieFile() string { return filepath.Join(n.dir, "lie") }

// configure writes what the node is started with.
func (n *process) configure() error {
	level := "debug"
	if _, ok := n.t.(*testing.B); ok {
		level = "info" // as it is without a word
	}
	config := fmt.Sprintf("name: %s\ndir: %s\nlisten: %q\nseal-source: file:%s\ndevice: %q\nlog-level: %s\n",
		n.name, filepath.Join(n.dir, "data"), n.addr, n.seal, "soft:"+n.devicePath(), level)
	return os.WriteFile(n.config(), []byte(config), 0o600)
}

// quietAddress finds a port below those that the system gives to connections:
// it must still be free when the node comes back.
func quietAddress(t testing.TB) string {
	for port := 10000 + os.Getpid()%10000; port < 32768; port++ {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if taken[address] {
			continue
		}
		if listener, err := net.Listen("tcp", address); err == nil {
			taken[address] = true
			listener.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// taken are the addresses that quietAddress has given away.
var taken = map[string]bool{}

// device is the URI by which a test opens the node's device.
func (n *process) device() string { return "soft:" + n.devicePath() + "?seal-source=file:" + n.seal }

func (n *process) devicePath() string { return filepath.Join(n.dir, "device") }

func (n *process) orderFile() string { return filepath.Join(n.dir, "crash") }

func (n *process) tornFile() string { return n.dir + ".torn" }

func (n *process) clockFile() string { return n.dir + ".clock" }

// logFile is beside the folder: that may be a disk that is full.
func (n *process) logFile() string { return n.dir + ".log" }

func (n *process) socket() string { return "unix:" + filepath.Join(n.dir, "data", "socket") }

// start runs the node, on the test's own goroutine.
func (n *process) start() {
	n.t.Helper()
	n.run("run", "--config", n.config())
}

// run is a nodectl of the node's machine. What it says is appended to the file log.
func (n *process) run(args ...string) {
	n.t.Helper()
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	program := n.program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			n.t.Fatal(err)
		}
	}
	cmd := &exec.Cmd{Path: program, Args: append([]string{realCommand}, args...), Env: append(os.Environ(), n.env...), Stdout: log, Stderr: log, SysProcAttr: childAttributes()}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() {
		cmd.Wait()
		n.state = cmd.ProcessState
		close(exited)
	}()
}

func (n *process) signal(s syscall.Signal) {
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Errorf("%s: %v: %v", n.name, s, err)
	}
}

// kill ends the process as a power cut would; paused ones too.
func (n *process) kill() {
	if n.cmd == nil {
		return
	}
	n.signal(syscall.SIGKILL)
	<-n.exited
}

// stop ends the process in order.
func (n *process) stop() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	select {
	case <-n.exited:
		if !n.state.Success() {
			n.t.Errorf("%s ended with %v\n%s", n.name, n.state, n.log())
		}
	case <-time.After(settleTime):
		n.t.Errorf("%s does not end\n%s", n.name, n.log())
	}
}

func (n *process) pause()  { n.signal(syscall.SIGSTOP) }
func (n *process) resume() { n.signal(syscall.SIGCONT) }

// log is the end of what the node said.
func (n *process) log() string {
	content, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("--- %s:\n%s", n.name, content[max(0, len(content)-8<<10):])
}

// isOpen tells whether there is a channel, and it is not closed.
func isOpen(c chan struct{}) bool {
	if c == nil {
		return false
	}
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// awaitHealth waits until the node says about itself what is wanted.
func (n *process) awaitHealth(wanted func(api.Health) bool) {
	n.t.Helper()
	c, err := client.New(client.Config{Addresses: []string{n.socket()}, Timeout: 5 * time.Second})
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	eventually(n.t, n.name+" is as it should be", func(ctx context.Context) error {
		select {
		case <-n.exited:
			n.t.Fatalf("%s has ended: %v\n%s", n.name, n.state, n.log())
		default:
		}
		var health api.Health
		if _, err := c.Do(ctx, api.HealthState, nil, &health); err != nil || !wanted(health) {
			return fmt.Errorf("%+v, %v\n%s", health, err, n.log())
		}
		return nil
	})
}

// awaitUnsealed waits until the node has started with its secrets.
func (n *process) awaitUnsealed() {
	n.t.Helper()
	n.awaitHealth(func(h api.Health) bool { return h.State != api.StateSealed }) // it says so while it starts
}

// awaitReady waits until every node can use keys and hears from a majority.
func (p *processes) awaitReady() {
	p.t.Helper()
	for _, n := range p.nodes {
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
	}
}

// eventually polls until check finds nothing wrong.
func eventually(t testing.TB, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTime)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			t.Fatalf("not so after %v: %s: %v", settleTime, what, last)
		}
	}
}

func (p *processes) eventually(what string, check func(ctx context.Context) error) {
	p.t.Helper()
	eventually(p.t, what, check)
}

// nodectl runs a command line as alice; at a node it goes over that node's
// socket. It returns what was printed.
func (p *processes) nodectl(at *process, args ...string) string {
	p.t.Helper()
	code, out, said := p.try(at, args...)
	if code != 0 {
		p.t.Fatalf("nodectl %s: exit %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
	return out
}

// try is nodectl that may fail; it returns stderr too.
func (p *processes) try(at *process, args ...string) (code int, printed, said string) {
	env := map[string]string{"NODECTL_CLUSTER": p.path("cluster.json"), "NODECTL_KEY": p.path("alice.pem")}
	if at != nil {
		env["NODECTL_ADDR"] = at.socket()
	}
	var out, errs bytes.Buffer
	code = run(p.t.Context(), args, streams{strings.NewReader(""), &out, &errs}, func(name string) string { return env[name] }, openIdle)
	if len(args) < 2 || !slices.Equal(args[:2], []string{"cluster", "token"}) {
		p.heard.keep(out.String())
	}
	p.heard.keep(errs.String())
	return code, out.String(), errs.String()
}

// client asks as alice: the nodes that are named in this order, else all. Whoever asks
// the same ones again has the same client: each one has connections of its own, and
// nodes refuse the newest of a caller that has too many.
func (p *processes) client(nodes ...*process) *client.Client {
	p.t.Helper()
	config := p.clientConfig(nodes...)
	whom := fmt.Sprint(config.Addresses, config.Members)
	if p.clients[whom] == nil {
		if p.clients == nil {
			p.clients = map[string]*client.Client{}
		}
		p.clients[whom] = p.newClient(nodes...)
	}
	return p.clients[whom]
}

// newClient is one with connections of its own, and an own memory of who answered last.
func (p *processes) newClient(nodes ...*process) *client.Client {
	p.t.Helper()
	c, err := client.New(p.clientConfig(nodes...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// connect makes a client of the cluster file as it is now, which asks any of the members
// first.
func (p *processes) connect(rng *rand.Rand) (*client.Client, error) {
	file, err := client.ReadClusterFile(p.path("cluster.json"))
	if err != nil {
		return nil, err
	}
	addresses := file.Addresses()
	rng.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return client.New(client.Config{Cluster: file.Cluster.ID, Members: file.Fingerprints(), Key: p.key, Addresses: addresses, Timeout: 10 * time.Second})
}

// clientConfig is what such a client is made of.
func (p *processes) clientConfig(nodes ...*process) client.Config {
	p.t.Helper()
	file, err := client.ReadClusterFile(p.path("cluster.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	if len(nodes) == 0 {
		nodes = p.nodes
	}
	config := client.Config{Cluster: file.Cluster.ID, Members: file.Fingerprints(), Key: p.key, Timeout: 10 * time.Second}
	for _, n := range nodes {
		config.Addresses = append(config.Addresses, n.addr)
	}
	return config
}
