package soft

import (
	"context"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// unsure is a change that was made and may not be durable: not an *hsm.Error.
func (d *Device) unsure(op string, cause error) error {
	return fmt.Errorf("hsm: %s: soft %s: %w: %v", op, d.serial, hsm.ErrStorage, cause)
}

// Sync returns when everything changed before it is durable. Concurrent calls
// share one write to the disk.
func (d *Device) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.RLock()
	closed := d.closed
	d.mu.RUnlock()
	if closed {
		return d.fail("sync", hsm.ErrGone, "")
	}
	return d.sync(ctx, "sync")
}

func (d *Device) sync(ctx context.Context, op string) error {
	err := d.log.sync(ctx)
	if !errors.Is(err, errSuspect) {
		return err // nil or the context's
	}
	// The system may have dropped what it could not write. Write it all again,
	// from what reads and proves whole, to a new file.
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return d.fail(op, hsm.ErrGone, "")
	}
	if d.log.doubtful() {
		if err := d.rewrite(d.state, d.entries); err != nil {
			d.mu.Unlock()
			return d.unsure(op, err)
		}
	}
	d.mu.Unlock()
	if err = d.log.sync(ctx); errors.Is(err, errSuspect) {
		return d.unsure(op, err)
	}
	return err
}

// rewrite replaces the file by one that holds only this state and these keys.
// Callers hold mu. It is durable after a sync.
func (d *Device) rewrite(s state, entries map[hsm.Slot]*entry) error {
	return d.rewriteIn(d.log.box, s, entries)
}

// rewriteIn is rewrite into another box, which is the log's from then on.
func (d *Device) rewriteIn(box *secret.Box, s state, entries map[hsm.Slot]*entry) error {
	live := make([]*entry, 0, len(entries))
	for _, e := range entries {
		live = append(live, e)
	}
	places, err := d.log.rewrite(box, 1+len(live), func(i int) ([]byte, error) {
		if i == 0 {
			return s.encode(), nil
		}
		return d.log.read(live[i-1].at)
	})
	if err != nil {
		return err
	}
	for i, e := range live {
		e.at = places[i+1]
	}
	return nil
}

// compact rewrites the file when more than half of it is of no use any more.
// Callers hold mu. A failure costs only room: it is tried again later.
func (d *Device) compact() {
	size := d.log.size()
	if garbage := size - d.used; garbage < compactFrom || garbage < d.used || size < d.retry {
		return
	}
	if d.rewrite(d.state, d.entries) != nil {
		d.retry = size + compactFrom
		return
	}
	d.retry = 0
}
