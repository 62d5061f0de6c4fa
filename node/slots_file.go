package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keycustodian/keycustodian/hsm"
)

const slotsFile = "slots"

// errSlots: no key can be made here, because which slots it may have cannot be
// written down. Nothing was changed.
var errSlots = errors.New("node: slots of the device cannot be reserved")

// slotRuns are the slots in which this node makes keys: JSON, in the file
// "slots". A run is in the file before one of its slots is used, so that an
// object in any other slot is certainly not one of ours.
type slotRuns struct {
	Format int    `json:"format"` // 1
	Serial string `json:"serial"` // of the device
	// Runs are first and last slot of each run, ascending.
	Runs [][2]hsm.Slot `json:"runs"`
}

func (r slotRuns) holds(slot hsm.Slot) bool {
	for _, run := range r.Runs {
		if run[0] <= slot && slot <= run[1] {
			return true
		}
	}
	return false
}

// last is the highest slot of all runs.
func (r slotRuns) last() hsm.Slot {
	if len(r.Runs) == 0 {
		return 0
	}
	return r.Runs[len(r.Runs)-1][1]
}

func (r slotRuns) room(count int) bool { return int(r.last()) < count }

// add appends the slots from one to another that occupied does not claim.
func (r *slotRuns) add(from, to hsm.Slot, occupied func(hsm.Slot) bool) {
	for slot := from; slot <= to; slot++ {
		switch last := len(r.Runs) - 1; {
		case occupied(slot):
		case last >= 0 && r.Runs[last][1] == slot-1:
			r.Runs[last][1] = slot
		default:
			r.Runs = append(r.Runs, [2]hsm.Slot{slot, slot})
		}
	}
}

func (r slotRuns) clone() slotRuns {
	r.Runs = append([][2]hsm.Slot(nil), r.Runs...)
	return r
}

// readRuns reads the runs of a device. A file of another device, and one that is
// damaged, reserves nothing: then everything in the device that has no key in the
// state is kept aside, and none of it is deleted.
func readRuns(f files, serial string) (runs slotRuns, damage, err error) {
	empty := slotRuns{Format: 1, Serial: serial}
	content, err := f.read(slotsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil, nil
	}
	if err != nil {
		return empty, nil, fmt.Errorf("node: slots: %w", err)
	}
	runs, damage = parseRuns(content)
	if damage != nil || runs.Serial != serial {
		return empty, damage, nil
	}
	return runs, nil, nil
}

// damage says what is wrong with the file, as this boot found it, or nil.
func (t *slotTable) damage() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.damaged
}

// foundDamaged takes note, once. t.mu is held.
func (t *slotTable) foundDamaged(err error) {
	if err == nil || t.damaged != nil {
		return
	}
	t.damaged = fmt.Errorf("%w: which slots of the device were this node's is not known, so every object in it without a key in the state is kept aside (nodectl device aside); no key is lost, and the file is begun anew", err)
	t.device.node.logger.Error("device: slots", "reason", t.damaged)
}

func parseRuns(content []byte) (slotRuns, error) {
	var runs slotRuns
	if err := json.Unmarshal(content, &runs); err != nil {
		return slotRuns{}, fmt.Errorf("node: the file %q is damaged: %w", slotsFile, err)
	}
	if runs.Format != 1 {
		return slotRuns{}, fmt.Errorf("node: the file %q is of format %d, want 1", slotsFile, runs.Format)
	}
	var before hsm.Slot
	for _, run := range runs.Runs {
		if run[0] <= before || run[1] < run[0] {
			return slotRuns{}, fmt.Errorf("node: the file %q is damaged: its runs are not in order", slotsFile)
		}
		before = run[1]
	}
	return runs, nil
}

// reserve makes one more run of slots ours, durably.
func (t *slotTable) reserve(ctx context.Context) error {
	if err := take(ctx, t.reserving); err != nil {
		return err
	}
	defer give(t.reserving)
	t.mu.Lock()
	if !t.isOpen || len(t.free) > 0 || !t.runs.room(t.count) {
		t.mu.Unlock()
		return nil
	}
	from, life := t.runs.last()+1, t.life
	next, to := t.runs.clone(), hsm.Slot(t.count)
	// Slots that others use are passed over; the run ends after so many of ours.
	fresh, run := 0, max(slotRun, t.count/slotShare)
	for slot := from; slot <= to; slot++ {
		if t.content[slot] == nil {
			if fresh++; fresh == run {
				to = slot
			}
		}
	}
	occupied := func(slot hsm.Slot) bool { return t.content[slot] != nil }
	if fresh == 0 {
		t.count = int(t.runs.last()) // all the rest is others'
		t.mu.Unlock()
		return nil
	}
	next.add(from, to, occupied)
	t.mu.Unlock()
	content, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := t.device.node.files.write(slotsFile, append(content, '\n')); err != nil {
		return fmt.Errorf("%w: %w", errSlots, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != life || !t.isOpen {
		return nil
	}
	t.runs = next
	for slot := to; slot >= from; slot-- {
		if t.content[slot] == nil && next.holds(slot) {
			t.free = append(t.free, slot)
		}
	}
	t.wake()
	return nil
}
