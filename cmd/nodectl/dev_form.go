package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

// dealTries is how often the DKEK is dealt: an attempt of which a node was
// killed half way is lost, and the next one begins anew.
const dealTries = 3

// call runs a command line of nodectl as the operator of this cluster. addr is
// the socket that is asked, else the nodes.
func (d *dev) call(in string, args ...string) (string, error) { return d.callAt("", in, args...) }

func (d *dev) callAt(addr, in string, args ...string) (string, error) {
	var out, prose bytes.Buffer
	env := map[string]string{"NODECTL_CLUSTER": d.cluster, "NODECTL_KEY": d.operator, "NODECTL_ADDR": addr}
	code := run(context.Background(), args, streams{strings.NewReader(in), &out, &prose}, func(name string) string { return env[name] }, nil)
	if code != api.ExitDone {
		lines := strings.Split(strings.TrimSpace(prose.String()), "\n")
		for i, line := range lines {
			lines[i] = strings.TrimPrefix(strings.TrimPrefix(line, "nodectl: "), "hint: ")
		}
		return "", hint(lines[len(lines)-1], &exitError{code, strings.Join(args[:min(2, len(args))], " ") + ": " + lines[max(0, len(lines)-2)]})
	}
	return out.String(), nil
}

// exitError is a command line that failed.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// form makes the cluster as far as it is not made yet: init, join, deal. Each
// step looks first, so that an interrupted one is finished the next time.
func (d *dev) form(ctx context.Context) error {
	first := d.nodes[0]
	if _, err := os.Stat(d.cluster); errors.Is(err, os.ErrNotExist) {
		if _, err := d.callAt("unix:"+first.socket, "", "cluster", "init", "--operator", d.operator+".pub", "--name", "dev"); err != nil {
			return err
		}
	}
	for _, n := range d.nodes {
		if err := d.join(ctx, n); err != nil {
			return err
		}
	}
	for try := 1; ; try++ {
		err := d.deal(ctx)
		if err == nil || try == dealTries || ctx.Err() != nil {
			return err
		}
		d.app.say("dealing the DKEK again: %v", err)
	}
}

// join brings a node into the cluster and waits until it votes.
func (d *dev) join(ctx context.Context, n *devNode) error {
	member, err := d.inCluster(n)
	if err != nil {
		return err
	}
	if !member {
		token, err := d.call("", "cluster", "token", "--name", n.name)
		if err != nil {
			return err
		}
		if _, err := d.callAt("unix:"+n.socket, token, "cluster", "join", "--token-file", "-"); err != nil {
			return err
		}
		d.app.say("%s joined", n.name)
	}
	return n.until(ctx, "votes", func() (bool, error) {
		status, err := d.status()
		if err != nil {
			return false, nil // no leader yet
		}
		for _, m := range status.Members {
			if m.Name == n.name && m.Suffrage == "voter" && status.Quorum {
				return true, nil
			}
		}
		return false, nil
	})
}

// inCluster asks a node itself.
func (d *dev) inCluster(n *devNode) (bool, error) {
	out, err := d.callAt("unix:"+n.socket, "", "cluster", "status", "-o", "json")
	if err != nil {
		return false, err
	}
	var status api.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return false, err
	}
	return status.Cluster.ID != "", nil
}

func (d *dev) status() (status api.Status, err error) {
	out, err := d.call("", "cluster", "status", "-o", "json")
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal([]byte(out), &status)
}

// deal has the DKEK dealt, and waits until it is proven. A ceremony that an
// interrupted run has left open is approved and followed.
func (d *dev) deal(ctx context.Context) error {
	status, err := d.status()
	if err != nil {
		return err
	}
	if status.DKEK.State == "proven" {
		return nil
	}
	for _, c := range status.Ceremonies {
		if c.Kind != "create" {
			continue
		}
		if c.State == api.CeremonyOpen {
			if _, err := d.call("", "ceremony", "approve", c.ID, "--yes"); err != nil {
				return err
			}
		}
		return d.nodes[0].until(ctx, "has proven the DKEK", func() (bool, error) {
			status, err := d.status()
			if err != nil || status.DKEK.State == "proven" {
				return err == nil, nil
			}
			for _, open := range status.Ceremonies {
				if open.ID == c.ID {
					return false, nil
				}
			}
			return false, fmt.Errorf("ceremony %s ended without a DKEK", short(c.ID))
		})
	}
	d.app.say("dealing the DKEK")
	began := time.Now()
	if _, err := d.call("", "dkek", "create", "--reason", "first deal of a development cluster"); err != nil {
		return err
	}
	d.app.say("the DKEK is dealt and proven, in %v", time.Since(began).Round(10*time.Millisecond))
	return nil
}
