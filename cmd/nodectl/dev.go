package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const (
	devNodes = 3
	maxNodes = 15
)

// dev is a development cluster: one process for each node, all on loopback.
type dev struct {
	app      *app
	dir      string
	nodes    []*devNode
	program  string // this binary
	operator string // key file
	cluster  string // cluster file
}

func (a *app) devCommand() *cobra.Command {
	var dir string
	var count int
	c := &cobra.Command{
		Use: "dev --dir D", Short: "run a cluster for development: separate processes on loopback", Args: cobra.NoArgs,
		Long: `Runs a cluster of separate node processes on loopback until it is interrupted,
and resumes it with the same folder. When it is ready, "ready" is printed and

  D/env                    says where it is and as whom to ask: . D/env
  D/operator.pem           is the key of its one operator
  D/seal/N                 is the seal secret of node N
  D/node-N/config.yaml     starts the node again: nodectl run --config ...
  D/node-N/pid, log        are the process's number and what it says
  D/node-N/device, data    are the node's device and data folder

A node that dies is not started again: start it by its config.yaml. A device file
that was deleted is a device that died: the node starts with a blank one, which
waits for nodectl device replace.

Everything lies on one disk, the seal secrets too: this is no place for keys that
matter, and cluster status says so.`,
		Example: `  nodectl dev --dir /tmp/custodians
  . /tmp/custodians/env && nodectl cluster status`,
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usage("dev wants --dir D, a folder for everything")
			}
			if count < 1 || count > maxNodes {
				return usage("--nodes is 1 to %d", maxNodes)
			}
			ctx, cancel := a.context(c)
			defer cancel()
			return a.runDev(ctx, dir, count, c.Flags().Changed("nodes"))
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "`FOLDER` for everything")
	c.Flags().IntVar(&count, "nodes", devNodes, "`NUMBER` of nodes")
	return c
}

func (a *app) runDev(ctx context.Context, dir string, count int, asked bool) error {
	// A child dies with the thread that started it, see devNode.start.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Umask(0o077)
	d, release, err := a.prepareDev(dir, count, asked)
	if err != nil {
		return err
	}
	defer release()
	defer d.stop()
	for _, n := range d.nodes {
		if err := n.start(ctx, d.program); err != nil {
			return err
		}
	}
	for _, n := range d.nodes {
		if err := n.waitForSocket(ctx); err != nil {
			return err
		}
	}
	if err := d.form(ctx); err != nil {
		return err
	}
	if err := d.writeEnv(); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "ready\n. %s\n", shellQuote(filepath.Join(d.dir, "env")))
	a.say("%d nodes run until this is interrupted", len(d.nodes))
	d.watch(ctx)
	return nil
}

// prepareDev makes or finds everything that lies in the folder, and holds it
// against a second process.
func (a *app) prepareDev(dir string, count int, asked bool) (*dev, func(), error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "seal"), 0o700); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil, hint("stop the other one, or take another folder", fmt.Errorf("%s is in use by another nodectl dev", dir))
	}
	d := &dev{app: a, dir: dir, operator: filepath.Join(dir, "operator.pem"), cluster: filepath.Join(dir, "cluster.json")}
	err = d.prepare(count, asked)
	if err != nil {
		lock.Close()
		return nil, nil, err
	}
	return d, func() { lock.Close() }, nil
}

func (d *dev) prepare(count int, asked bool) (err error) {
	if d.program, err = os.Executable(); err != nil {
		return err
	}
	there, err := filepath.Glob(filepath.Join(d.dir, "node-*", "config.yaml"))
	if err != nil {
		return err
	}
	if len(there) > 0 && asked && len(there) != count {
		return hint("leave --nodes away to resume it, or take another folder", usage("%s holds a cluster of %d nodes, not %d", d.dir, len(there), count))
	}
	if len(there) > 0 {
		count = len(there)
	}
	if _, err := os.Stat(d.operator); errors.Is(err, os.ErrNotExist) {
		if _, err := d.call("", "operator", "new", "--out", d.operator, "--name", "developer"); err != nil {
			return err
		}
	}
	ports, err := freePorts(count)
	if err != nil {
		return err
	}
	for i := range count {
		n := &devNode{number: i + 1, name: fmt.Sprintf("node-%d", i+1), dir: filepath.Join(d.dir, fmt.Sprintf("node-%d", i+1)), say: d.app.say}
		if err := n.prepare(filepath.Join(d.dir, "seal", fmt.Sprint(i+1)), ports[i]); err != nil {
			return err
		}
		d.nodes = append(d.nodes, n)
	}
	return nil
}

// writeEnv writes what a shell needs to be the operator of this cluster.
func (d *dev) writeEnv() error {
	var addresses []string
	for _, n := range d.nodes {
		addresses = append(addresses, n.listen)
	}
	text := fmt.Sprintf("export NODECTL_ADDR=%s\nexport NODECTL_CLUSTER=%s\nexport NODECTL_KEY=%s\n",
		shellQuote(strings.Join(addresses, ",")), shellQuote(d.cluster), shellQuote(d.operator))
	return os.WriteFile(filepath.Join(d.dir, "env"), []byte(text), 0o600)
}

func shellQuote(text string) string {
	if strings.IndexFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:,+@%", r))
	}) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// watch says when a node has ended, until it is told to stop.
func (d *dev) watch(ctx context.Context) {
	ended := make(chan *devNode)
	for _, n := range d.nodes {
		if n.done == nil {
			continue
		}
		go func() {
			select {
			case <-n.done:
			case <-ctx.Done():
				return
			}
			select {
			case ended <- n:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-ended:
			d.app.say("%s has ended (%v): nodectl run --config %s starts it again", n.name, n.err, n.config)
		}
	}
}

// endTime is how long nodes may take for an orderly end.
const endTime = 10 * time.Second

// stop ends all nodes that this process started, in order where they can, and
// returns when none of them is left.
func (d *dev) stop() {
	for _, n := range d.nodes {
		n.signal(unix.SIGTERM)
	}
	limit := time.NewTimer(endTime)
	defer limit.Stop()
	late := limit.C
	for _, n := range d.nodes {
		if n.done == nil {
			continue
		}
		select {
		case <-n.done:
		case <-late:
			late = closedTimer()
			d.app.say("%s did not end in order: killed", n.name)
			n.signal(unix.SIGKILL)
			<-n.done
		}
		n.tidy()
	}
}

// closedTimer is a time that is over.
func closedTimer() <-chan time.Time {
	over := make(chan time.Time)
	close(over)
	return over
}
