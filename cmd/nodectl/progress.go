package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"golang.org/x/term"
)

// waitSeconds is how long one request for news may wait at the node.
const waitSeconds = 20

// patience is how long nobody may answer while a ceremony is waited for.
const patience = time.Minute

// follow shows a ceremony's progress until it ends. An end other than success
// is an error.
func (s *session) follow(ctx context.Context, c api.Ceremony) (api.Ceremony, error) {
	line := s.app.progressLine()
	defer line.end()
	heard := time.Now()
	for c.State != api.CeremonyDone && c.State != api.CeremonyFailed {
		line.show(stepOf(c))
		var next api.Ceremony
		query := api.CeremonyQuery{ID: c.ID, After: c.Revision, WaitSeconds: waitSeconds}
		if err := s.wait(ctx, api.CeremonyShow, query, &next); err != nil {
			if !passing(err) || time.Since(heard) > patience {
				return c, hint("the ceremony goes on without you: nodectl ceremony show "+c.ID, err)
			}
			line.show("waiting for a node that answers")
			if err := pause(ctx, time.Second); err != nil {
				return c, err
			}
			continue
		}
		if next.ID != c.ID {
			return c, errors.New("the answer is about another ceremony")
		}
		heard, c = time.Now(), next
	}
	line.show(c.Kind + ": " + stateOf(c))
	if c.State == api.CeremonyFailed {
		return c, hint("see nodectl ceremony show "+c.ID, fmt.Errorf("ceremony %s ended: %s: %s", c.ID, c.Outcome, c.Detail))
	}
	return c, nil
}

// followOn follows the reshare that a provision named, if it named one: only then is
// the share of the replaced node worth nothing.
func (s *session) followOn(ctx context.Context, c api.Ceremony) error {
	open, err := fsm.ParseOpen(c.Open)
	if err != nil || open.Successor == nil {
		return nil
	}
	line := s.app.progressLine()
	defer line.end()
	for since := time.Now(); c.Successor == ""; {
		line.show("waiting for the reshare that drops the old share")
		if time.Since(since) > patience {
			return hint("see nodectl ceremony list and nodectl cluster status", errors.New("the device is filled, and nobody has opened the reshare that drops the old share"))
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if err := s.wait(ctx, api.CeremonyShow, api.CeremonyQuery{ID: c.ID}, &c); err != nil && !passing(err) {
			return err
		}
	}
	_, err = s.follow(ctx, api.Ceremony{ID: c.Successor, Kind: fsm.CeremonyReshare.String()})
	return err
}

// passing reports whether waiting may mend it: a leader being elected, a node
// restarting.
func passing(err error) bool {
	var said *api.Error
	var silent *client.UnreachableError
	if errors.As(err, &said) {
		return said.Code.Exit() == api.ExitRetry || said.Code == api.CodeUnavailable || said.Code == api.CodeTimeout
	}
	return errors.As(err, &silent)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func stepOf(c api.Ceremony) string {
	switch {
	case c.State == api.CeremonyOpen:
		return fmt.Sprintf("%s: waiting for approvals, %d of %d", c.Kind, len(c.Approvals), c.Needed)
	case c.Progress == nil:
		return c.Kind + ": under way"
	case c.Progress.Total > 0:
		return fmt.Sprintf("%s: %s, %d of %d", c.Kind, c.Progress.Step, c.Progress.Done, c.Progress.Total)
	}
	return c.Kind + ": " + c.Progress.Step
}

// progressLine draws on stderr: one line that changes on a terminal, a line for
// each change elsewhere.
type progressLine struct {
	app      *app
	terminal bool
	last     string
}

func (a *app) progressLine() *progressLine {
	file, ok := a.err.(*os.File)
	return &progressLine{app: a, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

func (p *progressLine) show(text string) {
	text = oneLine(text)
	if text == p.last {
		return
	}
	p.last = text
	if p.terminal {
		fmt.Fprintf(p.app.err, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(p.app.err, text)
}

func (p *progressLine) end() {
	if p.terminal && p.last != "" {
		fmt.Fprintln(p.app.err)
	}
}

// busy says on stderr what takes its time, once it has taken a second, and on a
// terminal for how long by now. Nothing else is to be said before
// done was called: the two would get into one line.
func (a *app) busy(what string) (done func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		line := a.progressLine()
		defer line.end()
		second := time.NewTicker(cmp.Or(a.slow, time.Second))
		defer second.Stop()
		for began := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-second.C:
			}
			text := what
			if line.terminal {
				text += fmt.Sprintf(", %v", time.Since(began).Round(time.Second))
			}
			line.show(text)
		}
	}()
	return func() { close(stop); <-stopped }
}
