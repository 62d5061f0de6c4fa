package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// demoTime bounds the whole story.
const demoTime = 3 * time.Minute

func (a *app) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "show the whole story on this machine, and prove every step", Args: cobra.NoArgs,
		Long: `Starts three nodes with software devices on loopback, in one process and a
temporary folder, deals a DKEK, makes keys, destroys a node with its device, puts
a new one in its place and proves that every key is back. Then it tries what must
not work. Exits 0 only if every step was proven, and leaves nothing behind.`,
		Example: "  nodectl demo",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			ctx, cancel := context.WithTimeout(c.Context(), demoTime)
			defer cancel()
			dir, err := os.MkdirTemp("", "keycustodian-demo-")
			if err != nil {
				return err
			}
			d := &demo{app: a, dir: dir, started: time.Now()}
			defer func() {
				d.closeAll()
				if removed := os.RemoveAll(dir); removed != nil && err == nil {
					err = removed
				}
			}()
			return d.tell(ctx)
		},
	}
}

// demo is one run of the story.
type demo struct {
	app      *app
	dir      string
	started  time.Time
	chapter  int
	nodes    []*demoNode
	operator demoOperator
	keys     []demoKey
}

// tell goes through the chapters; the first that is not proven ends it.
func (d *demo) tell(ctx context.Context) error {
	chapters := []struct {
		title string
		tell  func(context.Context) error
	}{
		{"three nodes meet", d.meet},
		{"the DKEK is dealt", d.deal},
		{"keys are made", d.makeKeys},
		{"keys are used", d.useKeys},
		{"a node burns, with its device", d.burn},
		{"a new node takes its place", d.replace},
		{"every key is back", d.everyKeyIsBack},
		{"the shares are dealt anew", d.reshare},
		{"one share is not enough", d.tooFew},
		{"a tampered share", d.tampered},
		{"a stolen data folder", d.stolen},
		{"a forged approval", d.forged},
	}
	for i, chapter := range chapters {
		d.chapter = i + 1
		fmt.Fprintf(d.app.out, "\n%d of %d: %s\n", d.chapter, len(chapters), chapter.title)
		if err := chapter.tell(ctx); err != nil {
			return hint("this is a bug: please report it with the whole output", fmt.Errorf("demo: %s: %w", chapter.title, err))
		}
	}
	fmt.Fprintf(d.app.out, "\nEvery step was proven, in %.1f s. Nothing is left in %s.\n", time.Since(d.started).Seconds(), filepath.Dir(d.dir))
	return nil
}

// proven says what was shown to be so.
func (d *demo) proven(format string, args ...any) {
	fmt.Fprintf(d.app.out, "  ok  "+format+"\n", args...)
}

// saying tells what is going on.
func (d *demo) saying(format string, args ...any) {
	fmt.Fprintf(d.app.out, "      "+format+"\n", args...)
}

// until waits for a condition, and shows what it waits for.
func (d *demo) until(ctx context.Context, what func() string, done func() (bool, error)) error {
	line := d.app.progressLine()
	defer line.end()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		line.show("      " + what())
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("waiting: %s: %w", what(), err)
		}
	}
}
