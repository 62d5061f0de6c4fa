package soft

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

var errDisk = errors.New("no space left on device")

// testDisk is a disk that fails on purpose and remembers what a power cut would
// leave.
type testDisk struct {
	memory
	mu       sync.Mutex
	durable  []byte
	full     bool          // writes and replacements fail, half done
	noSync   int           // so many syncs fail
	syncTime time.Duration // of virtual time
	syncs    int
	replaced int
}

func (d *testDisk) WriteAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	full := d.full
	d.mu.Unlock()
	if full {
		n, _ := d.memory.WriteAt(p[:len(p)/2], offset)
		return n, errDisk
	}
	return d.memory.WriteAt(p, offset)
}

func (d *testDisk) replace(write func(w io.Writer) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return errDisk
	}
	d.replaced++
	return d.memory.replace(write)
}

func (d *testDisk) sync() error {
	time.Sleep(d.syncTime)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	if d.noSync > 0 {
		d.noSync--
		return errors.New("input/output error")
	}
	d.memory.mu.RLock()
	defer d.memory.mu.RUnlock()
	d.durable = bytes.Clone(d.data)
	return nil
}

// image is what the file holds now, lastSync what a power cut leaves at least.
func (d *testDisk) image() []byte {
	d.memory.mu.RLock()
	defer d.memory.mu.RUnlock()
	return bytes.Clone(d.data)
}

func (d *testDisk) lastSync() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.durable)
}

func (d *testDisk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

var testBox = func() *secret.Box {
	box, err := secret.NewBox(hsm.NewSecret(bytes.Repeat([]byte{7}, secret.KeySize)), purpose)
	if err != nil {
		panic(err)
	}
	return box
}()

// load opens a file's bytes.
func load(content []byte) (*Device, error) {
	return open(Options{}, testBox, &testDisk{memory: memory{data: bytes.Clone(content)}}, true)
}

func pin() *hsm.Secret   { return hsm.NewSecret([]byte("648219")) }
func soPIN() *hsm.Secret { return hsm.NewSecret([]byte("3537363231383830")) }

// onDisk returns a new device that is ready and logged in.
func onDisk(t testing.TB, disk media) *Device {
	t.Helper()
	d, err := open(Options{}, testBox, disk, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	prepare(t, d)
	return d
}

func prepare(t testing.TB, d *Device) {
	t.Helper()
	ok(t, d.Initialise(t.Context(), hsm.InitOptions{PIN: pin(), SOPIN: soPIN(), Shares: 1}))
	ok(t, d.Login(t.Context(), pin()))
	_, err := d.ImportShare(t.Context(), secret.Random(hsm.ShareSize))
	ok(t, err)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func generate256(t testing.TB, d *Device, slots ...hsm.Slot) {
	t.Helper()
	for _, slot := range slots {
		_, err := d.Generate(t.Context(), slot, hsm.ECDSAP256, hsm.Attributes{})
		ok(t, err)
	}
}

// slotsOf lists and uses every key of a device that was just opened.
func slotsOf(t testing.TB, d *Device) map[hsm.Slot]bool {
	t.Helper()
	ok(t, d.Login(t.Context(), pin()))
	objects, err := d.List(t.Context())
	ok(t, err)
	slots := map[hsm.Slot]bool{}
	for _, object := range objects {
		slots[object.Slot] = true
		if _, err := d.Wrap(t.Context(), object.Slot); err != nil {
			t.Errorf("slot %d is listed and cannot be used: %v", object.Slot, err)
		}
	}
	return slots
}
