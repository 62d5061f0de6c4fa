package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"go.yaml.in/yaml/v3"
)

const (
	// startTime is how long a node may take until its socket answers.
	startTime = 30 * time.Second
	pollEvery = 50 * time.Millisecond
	// roomForSocket is how long a socket's path may be, with room to spare.
	roomForSocket = 100
)

// devNode is one node of a development cluster and its process.
type devNode struct {
	number                      int
	name, dir                   string
	config, pid, listen, socket string
	say                         func(format string, args ...any)

	command *exec.Cmd
	done    chan struct{} // closed when the process has ended; nil: not ours
	err     error         // how it ended, after done
}

// prepare makes the node's folder, seal secret and configuration, or reads the
// one that is there.
func (n *devNode) prepare(seal string, port int) error {
	n.config, n.pid = filepath.Join(n.dir, "config.yaml"), filepath.Join(n.dir, "pid")
	content, err := os.ReadFile(n.config)
	if errors.Is(err, fs.ErrNotExist) {
		return n.make(seal, port)
	}
	if err != nil {
		return err
	}
	values, err := new(config).parse(content)
	if err != nil {
		return fmt.Errorf("%s: %w", n.config, err)
	}
	if n.listen, n.socket = values["listen"], values["socket"]; n.listen == "" || n.socket == "" {
		return hint("delete the folder and begin anew, or put listen and socket back", fmt.Errorf("%s lacks listen or socket", n.config))
	}
	return nil
}

func (n *devNode) make(seal string, port int) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(seal); errors.Is(err, fs.ErrNotExist) {
		if err := writeSeal(seal); err != nil {
			return err
		}
	}
	n.listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	n.socket = filepath.Join(n.dir, "socket")
	if len(n.socket) > roomForSocket {
		short, err := os.MkdirTemp("", "custodian-")
		if err != nil {
			return err
		}
		n.socket = filepath.Join(short, "socket")
	}
	device := (&url.URL{Path: filepath.Join(n.dir, "device")}).EscapedPath()
	content, err := yaml.Marshal(map[string]string{
		"name": n.name, "dir": filepath.Join(n.dir, "data"), "listen": n.listen, "socket": n.socket, "pid-file": n.pid,
		"device":      "soft:" + device, // under the node's seal secret, so that device reseal takes it along
		"seal-source": "file:" + seal,
	})
	if err != nil {
		return err
	}
	return secret.WriteFile(n.config, content)
}

// writeSeal draws a seal secret.
func writeSeal(path string) error {
	seal := secret.Random(secret.KeySize)
	defer seal.Wipe()
	var err error
	seal.With(func(p []byte) {
		text := fmt.Appendf(nil, "%x\n", p)
		defer secret.Wipe(text)
		err = secret.WriteFile(path, text)
	})
	return err
}

// freePorts finds ports that nobody uses now. All are held until the last is
// found, so that none comes twice.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// start starts the node's process, unless it runs already: somebody has started
// it by its configuration. The process has a group of its own, so that an
// interrupt at the terminal ends it through this one and in order, and it ends
// by itself where this one is killed.
func (n *devNode) start(ctx context.Context, program string) error {
	if n.answers(ctx) {
		n.say("%s runs already", n.name)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(n.socket), 0o700); err != nil { // a short one, of which a cleaner may have been
		return err
	}
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.command = exec.Command(program, "run", "--config", n.config)
	n.command.Stdout, n.command.Stderr = log, log
	n.command.Dir = n.dir
	n.command.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { // this node's settings are in its file
		return strings.HasPrefix(v, "KEYCUSTODIAN_") || strings.HasPrefix(v, "NOTIFY_SOCKET=")
	})
	n.command.SysProcAttr = childAttributes()
	if err := n.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.done = make(chan struct{})
	go func() {
		n.err = n.command.Wait()
		close(n.done)
	}()
	return nil
}

// tidy removes what an ended node left outside its folder, and a number that is
// no process's any more.
func (n *devNode) tidy() {
	os.Remove(n.pid)
	if folder := filepath.Dir(n.socket); folder != n.dir {
		os.Remove(n.socket)
		os.Remove(folder)
	}
}

func (n *devNode) signal(s syscall.Signal) {
	if n.done == nil {
		return
	}
	select {
	case <-n.done:
	default:
		n.command.Process.Signal(s) // it may have ended this moment
	}
}

// answers tells whether the node's socket does.
func (n *devNode) answers(ctx context.Context) bool {
	_, err := n.health(ctx)
	return err == nil
}

func (n *devNode) health(ctx context.Context) (health api.Health, err error) {
	c, err := client.New(client.Config{Addresses: []string{"unix:" + n.socket}, Timeout: time.Second})
	if err != nil {
		return health, err
	}
	defer c.Close()
	_, err = c.Do(ctx, api.HealthState, nil, &health)
	return health, err
}

// waitForSocket returns when the node answers and has its seal secret.
func (n *devNode) waitForSocket(ctx context.Context) error {
	return n.until(ctx, "answers", func() (bool, error) {
		health, err := n.health(ctx)
		return err == nil && health.State != api.StateSealed, nil
	})
}

// until polls a node's process until it is as wanted.
func (n *devNode) until(ctx context.Context, what string, is func() (bool, error)) error {
	limit := time.Now().Add(startTime)
	for {
		good, err := is()
		if good || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.done:
			return hint("mend what it says; nothing that it kept is lost", fmt.Errorf("%s has ended (%v): %s", n.name, n.err, n.lastWords()))
		case <-time.After(pollEvery):
		}
		if time.Now().After(limit) {
			return hint("see its log: "+filepath.Join(n.dir, "log"), fmt.Errorf("not within %v: %s %s", startTime, n.name, what))
		}
	}
}

// lastWords are the end of the node's log.
func (n *devNode) lastWords() string {
	content, err := os.ReadFile(filepath.Join(n.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-2):], "; ")
}
