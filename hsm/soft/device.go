// Package soft is a software SmartCard-HSM: the device of development, tests
// and clusters without hardware.
//
// Start with [Open] for a device in a file, [NewMemory] for one that is gone
// with the process. It has the card's rules: a DKEK that is the XOR of all
// shares, no key before the last share, counted PINs with the try stored before
// the answer, 15 wrong SO-PINs for its life, blobs of the card's format.
//
// Guaranteed: what a Sync came back for survives a kill or a power cut; the file
// is readable only with its seal secret; a file that was damaged, reordered or
// mixed with another is refused and never half used. Not guaranteed: that the
// host cannot read the DKEK and keys, which lie in this process's memory, and
// that an older copy of the whole file is noticed. See DESIGN.md.
//
//	device, err := soft.Open(soft.Options{Path: "/var/lib/keycustodian/device", Seal: seal})
//	defer device.Close()
package soft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Options says what device to open.
type Options struct {
	// Path is the device's file; its folder must exist. A missing file becomes
	// a blank device with a new serial. Beside it lies PATH.lock.
	Path string
	// Seal is the 32-byte secret that seals the file. The caller keeps and
	// wipes it. Not used by NewMemory.
	Seal *hsm.Secret
	// Slots is how many keys fit, 1 to MaxSlots; 0 is DefaultSlots. Keys in
	// higher slots, from a time when it was larger, stay usable.
	Slots int
	// Bytes is how much memory there is for keys, so that a device fills up
	// like a card; 0 is no limit.
	Bytes int
	// Serial names a new device, up to 32 printable characters without spaces;
	// empty draws one. An existing file keeps its own.
	Serial string
}

// Device is a software device. It implements hsm.Device.
type Device struct {
	slots  int
	bytes  int
	serial string
	log    *log

	changing sync.Mutex // orders what changes the state: PINs, shares, initialise

	mu       sync.RWMutex
	state    state
	loggedIn bool
	closed   bool
	life     uint64 // counts initialisations
	entries  map[hsm.Slot]*entry
	reserved map[hsm.Slot]struct{} // slots of keys being made
	used     int64                 // bytes of sealed keys
	retry    int64                 // after a failed compaction: not before this size
	cache    *cache

	keys *keyblob.Keys // nil until the DKEK is complete
}

var _ hsm.Device = (*Device)(nil)

// Open opens the device in a file, or makes a blank one. A second process gets
// hsm.ErrInUse, a file that does not read hsm.ErrStorage.
func Open(options Options) (*Device, error) {
	if options.Path == "" || options.Seal == nil {
		return nil, errors.New("soft: open: Path and Seal are needed")
	}
	box, err := secret.NewBox(options.Seal, purpose)
	if err != nil {
		return nil, fmt.Errorf("soft: open: %w", err)
	}
	disk, exists, err := openDisk(options.Path)
	if err != nil {
		return nil, storageError(options.Path, err)
	}
	device, err := open(options, box, tearable(disk), exists)
	if err != nil {
		disk.close()
		return nil, storageError(options.Path, err)
	}
	return device, nil
}

// NewMemory makes a blank device without a file. Options that Open would refuse
// are taken as zero. It starts no goroutine and reads no clock.
func NewMemory(options Options) *Device {
	if options.validate() != nil {
		options = Options{}
	}
	seal := secret.Random(secret.KeySize)
	defer seal.Wipe()
	box, _ := secret.NewBox(seal, purpose)            // fails for other sizes only
	device, _ := open(options, box, &memory{}, false) // memory does not fail
	return device
}

func storageError(path string, err error) error {
	if errors.Is(err, hsm.ErrInUse) {
		return &hsm.Error{Op: "open", Device: "soft " + path, Err: hsm.ErrInUse}
	}
	return &hsm.Error{Op: "open", Device: "soft " + path, Err: fmt.Errorf("%w: %w", hsm.ErrStorage, err)} // the cause too: a full disk is no damage
}

func open(options Options, box *secret.Box, media media, exists bool) (*Device, error) {
	if err := options.validate(); err != nil {
		return nil, err
	}
	d := &Device{
		slots: options.Slots, bytes: options.Bytes,
		log:      &log{box: box, media: media},
		entries:  map[hsm.Slot]*entry{},
		reserved: map[hsm.Slot]struct{}{},
		cache:    &cache{},
	}
	if d.slots == 0 {
		d.slots = DefaultSlots
	}
	if exists {
		return d, d.load()
	}
	serial := options.Serial
	if serial == "" {
		serial = newSerial()
	}
	d.state, d.serial = newState(serial), serial
	if err := d.rewrite(d.state, nil); err != nil {
		return nil, err
	}
	return d, d.log.sync(context.Background())
}

func (o Options) validate() error {
	if o.Slots < 0 || o.Slots > MaxSlots || o.Bytes < 0 {
		return fmt.Errorf("soft: slots must be 1 to %d, bytes not negative", MaxSlots)
	}
	bad := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(o.Serial) > maxSerial || slices.ContainsFunc([]rune(o.Serial), bad) {
		return fmt.Errorf("soft: a serial has up to %d printable characters", maxSerial)
	}
	return nil
}

// Info identifies the device. It works without login.
func (d *Device) Info(ctx context.Context) (hsm.Info, error) {
	if err := ctx.Err(); err != nil {
		return hsm.Info{}, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return hsm.Info{}, d.fail("info", hsm.ErrGone, "")
	}
	info := hsm.Info{
		Kind: "soft", Serial: d.serial, Label: d.state.label, Model: "software device", Firmware: "1",
		State: d.state.status(), LoggedIn: d.loggedIn,
		Slots: d.slots, FreeSlots: max(0, d.slots-d.occupied()), FreeBytes: -1,
	}
	if d.bytes > 0 {
		info.FreeBytes = max(0, d.bytes-int(d.used))
	}
	return info, nil
}

// Capabilities says what every software device can do.
func (d *Device) Capabilities() hsm.Capabilities {
	return hsm.Capabilities{
		Types: supported(), BlobKind: hsm.BlobSmartCardHSM, Combines: true,
		MaxSeal: maxSymmetric, MaxCMAC: maxSymmetric,
	}
}

func supported() []hsm.KeyType {
	var types []hsm.KeyType
	for _, t := range hsm.KeyTypes() {
		if typeNumbers[t] != 0 {
			types = append(types, t)
		}
	}
	return types
}

// fail is an operation that was not done.
func (d *Device) fail(op string, cause error, detail string) error {
	return &hsm.Error{Op: op, Device: "soft " + d.serial, Err: cause, Detail: detail}
}

// ready says why a logged-in operation cannot start, or nil. Callers hold mu.
func (d *Device) ready(op string) error {
	switch {
	case d.closed:
		return d.fail(op, hsm.ErrGone, "")
	case !d.state.initialised:
		return d.fail(op, hsm.ErrNotInitialised, "")
	case !d.loggedIn:
		return d.fail(op, hsm.ErrNotLoggedIn, "")
	}
	return nil
}

// Close makes everything durable, wipes the DKEK and lets go of the file.
func (d *Device) Close() error {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed, d.loggedIn = true, false
	err := d.log.close()
	d.state.dkek.Wipe()
	d.entries, d.cache = map[hsm.Slot]*entry{}, &cache{}
	if d.keys != nil {
		d.keys.Wipe()
	}
	if err != nil {
		return d.unsure("close", err)
	}
	return nil
}
