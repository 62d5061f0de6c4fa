//go:build faults

package soft

import (
	"io"
	"path/filepath"
	"sync"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// tearable lets a test tear what the device writes: see TearNow in
// internal/secret.
func tearable(d *disk) media {
	size, err := d.size()
	if err != nil {
		size = 0 // the file is yet to be made
	}
	return &tornDisk{disk: d, synced: size}
}

// tornDisk is a disk that knows how much of its file is durable. What is written
// is always added at the end.
type tornDisk struct {
	*disk

	mu     sync.Mutex
	synced int64
	lost   *secret.Torn // an order to die in the next sync
	broken bool         // an order to fail in the next sync
}

func (d *tornDisk) order() *secret.Torn { return secret.TearNow(filepath.Base(d.path)) }

func (d *tornDisk) WriteAt(p []byte, offset int64) (int, error) {
	order := d.order()
	if order == nil {
		return d.disk.WriteAt(p, offset)
	}
	d.mu.Lock()
	d.synced = min(d.synced, offset)
	d.mu.Unlock()
	switch {
	case order.How == "lost":
		d.mu.Lock()
		d.lost = order
		d.mu.Unlock()
		return d.disk.WriteAt(p, offset)
	case order.How == "fail" && order.Random.IntN(2) == 0:
		d.mu.Lock()
		d.broken = true
		d.mu.Unlock()
		return d.disk.WriteAt(p, offset)
	}
	n, _ := d.disk.WriteAt(p[:order.Random.IntN(len(p)+1)], offset)
	if order.How == "cut" {
		secret.Die()
	}
	return n, secret.ErrTorn
}

func (d *tornDisk) sync() error {
	size, err := d.disk.size()
	if err != nil {
		return err
	}
	d.mu.Lock()
	lost, broken, synced := d.lost, d.broken, d.synced
	d.broken = false
	d.mu.Unlock()
	if lost != nil {
		d.disk.truncate(min(size, synced+lost.Random.Int64N(size-min(synced, size)+1)))
		secret.Die()
	}
	if broken {
		return secret.ErrTorn
	}
	if err := d.disk.sync(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced = max(d.synced, size)
	return nil
}

func (d *tornDisk) replace(write func(w io.Writer) error) error {
	if order := d.order(); order != nil {
		switch {
		case order.How == "fail":
			return secret.ErrTorn
		case order.Random.IntN(2) == 0:
			secret.Die()
		}
		d.disk.replace(write)
		secret.Die()
	}
	if err := d.disk.replace(write); err != nil {
		return err
	}
	size, err := d.disk.size()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced = size // replace syncs before it renames
	return nil
}
