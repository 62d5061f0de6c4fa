package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

const (
	rejectedFile = "pin-rejected"
	// maxRejected bounds the file. A device has at most 15 tries, so more
	// rejections than that need unblocking in between, which empties it.
	maxRejected = 64
)

// pinKind tells a user PIN from a SO-PIN.
type pinKind string

const (
	userPINKind pinKind = "user"
	soPINKind   pinKind = "so"
)

// rejectedPINs are the PINs that must not be sent again, as keyed hashes: whoever
// steals the disk without the seal secret cannot try PINs against them. The key
// is random, drawn with the file and sealed in it, so that the marks outlive a
// change of the seal secret.
type rejectedPINs struct {
	node   *Node
	mu     sync.Mutex
	read   bool
	key    *secret.Bytes // nil: none drawn yet
	sealed []byte        // key, as it lies in the file
	list   []pinMark
}

// rejectedRecord is the file "pin-rejected", JSON.
type rejectedRecord struct {
	Format int `json:"format"` // 1
	// SealedKey is the key (32 bytes) in a box of purpose "rejected PINs" with
	// the node ID as context.
	SealedKey []byte    `json:"sealed_key"`
	Marks     []pinMark `json:"marks"`
}

const rejectedPurpose = "rejected PINs"

// pinMark is one PIN. Left tells a rejection from a send of which the outcome is
// not known, because the process ended in between.
type pinMark struct {
	Kind   pinKind `json:"kind"`
	Serial string  `json:"serial"` // of the device
	// Hash is HMAC-SHA256 in hexadecimal digits, see mark.
	Hash     string `json:"hash"`
	Rejected bool   `json:"rejected"`
	Left     int    `json:"left"` // tries before it was sent; -1 where the device cannot tell
}

func newRejectedPINs(n *Node) *rejectedPINs { return &rejectedPINs{node: n} }

// mark hashes a PIN: HMAC-SHA256 over kind, 0, serial, 0, PIN, under the file's
// key.
func (r *rejectedPINs) mark(kind pinKind, serial string, pin *hsm.Secret) (pinMark, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return pinMark{}, err
	}
	if err := r.draw(); err != nil {
		return pinMark{}, err
	}
	var sum []byte
	r.key.With(func(key []byte) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(string(kind) + "\x00" + serial + "\x00"))
		pin.With(func(p []byte) { mac.Write(p) })
		sum = mac.Sum(nil)
	})
	return pinMark{Kind: kind, Serial: serial, Hash: hex.EncodeToString(sum)}, nil
}

// draw makes a key where there is none. It is stored with the first mark.
func (r *rejectedPINs) draw() error {
	if r.key != nil {
		return nil
	}
	box, err := r.node.box(rejectedPurpose)
	if err != nil {
		return err
	}
	key := secret.Random(secret.KeySize)
	key.With(func(p []byte) { r.sealed = box.Seal(p, r.node.id[:]) })
	r.key = key
	return nil
}

func (m pinMark) same(o pinMark) bool {
	return m.Kind == o.Kind && m.Serial == o.Serial && m.Hash == o.Hash
}

// refuses says why this PIN must not be sent, or nil. One that was sent with
// unknown outcome may be sent again only if the device shows that it cost no
// try.
func (r *rejectedPINs) refuses(m pinMark, left int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return err
	}
	at := slices.IndexFunc(r.list, m.same)
	if at < 0 {
		return nil
	}
	if old := r.list[at]; old.Rejected || old.Left < 0 || left < old.Left {
		return ErrPINRejected
	}
	return nil
}

// sending takes note of a PIN before it is sent. What was sent before with
// unknown outcome counts as rejected from now on: this one may reset the count of
// tries that could tell.
func (r *rejectedPINs) sending(m pinMark, left int) error {
	r.mu.Lock()
	for i := range r.list {
		if old := &r.list[i]; old.Kind == m.Kind && old.Serial == m.Serial && !old.same(m) {
			old.Rejected = true
		}
	}
	r.mu.Unlock()
	m.Left = left
	return r.change(m, false)
}

func (r *rejectedPINs) reject(m pinMark) error {
	m.Rejected = true
	return r.change(m, false)
}

func (r *rejectedPINs) clear(m pinMark) error { return r.change(m, true) }

// forget drops all marks of a kind: the device has another PIN now.
func (r *rejectedPINs) forget(kind pinKind) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil { // a file that does not read is replaced
		r.list, r.read = nil, true
	}
	r.list = slices.DeleteFunc(r.list, func(m pinMark) bool { return m.Kind == kind })
	return r.store()
}

func (r *rejectedPINs) change(m pinMark, drop bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return err
	}
	r.list = slices.DeleteFunc(r.list, m.same)
	if !drop {
		r.list = append(r.list, m)
		r.list = r.list[max(0, len(r.list)-maxRejected):]
	}
	return r.store()
}

func (r *rejectedPINs) store() error {
	if len(r.list) == 0 {
		return r.node.files.remove(rejectedFile)
	}
	content, err := json.MarshalIndent(rejectedRecord{Format: 1, SealedKey: r.sealed, Marks: r.list}, "", "  ")
	if err != nil {
		return err
	}
	return r.node.files.write(rejectedFile, append(content, '\n'))
}

// load reads the file once.
func (r *rejectedPINs) load() error {
	if r.read {
		return nil
	}
	content, err := r.node.files.read(rejectedFile)
	if errors.Is(err, fs.ErrNotExist) {
		r.read = true
		return nil
	}
	var record rejectedRecord
	if err == nil {
		record, err = parseRejected(content)
	}
	var box *secret.Box
	if err == nil {
		box, err = r.node.box(rejectedPurpose)
	}
	var key []byte
	if err == nil {
		key, err = box.Open(record.SealedKey, r.node.id[:])
	}
	if err != nil {
		return fmt.Errorf("node: the file %q does not read (%w): it says which PINs the device has rejected, so no PIN is sent; put a copy of the file back, or see that the PIN's source holds the right PIN and remove the file", rejectedFile, err)
	}
	r.read, r.key, r.sealed, r.list = true, secret.Take(key), record.SealedKey, record.Marks
	return nil
}

// reseal has the key sealed under the next secret. It is drawn here at the
// latest, so that none is sealed under the former one meanwhile.
func (r *rejectedPINs) reseal(with *resealing) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		r.node.logger.Error("device: the rejected PINs stay as they are", "reason", err)
		return nil
	}
	if err := r.draw(); err != nil {
		return err
	}
	if err := with.rejected(); err != nil {
		return err
	}
	box, err := secret.NewBox(with.next, rejectedPurpose)
	if err != nil {
		return err
	}
	r.key.With(func(p []byte) { r.sealed = box.Seal(p, r.node.id[:]) })
	return nil
}

// parseRejected refuses what this node has not written: with a mark that is lost, a
// PIN that was rejected would be sent again.
func parseRejected(content []byte) (rejectedRecord, error) {
	var record rejectedRecord
	if err := json.Unmarshal(content, &record); err != nil {
		return rejectedRecord{}, err
	}
	if record.Format != 1 {
		return rejectedRecord{}, fmt.Errorf("format %d, want 1", record.Format)
	}
	if len(record.Marks) == 0 {
		return rejectedRecord{}, errors.New("no mark in it")
	}
	for _, m := range record.Marks {
		if hash, err := hex.DecodeString(m.Hash); err != nil || len(hash) != sha256.Size || m.Kind != userPINKind && m.Kind != soPINKind {
			return rejectedRecord{}, errors.New("a mark in it is not whole")
		}
	}
	return record, nil
}
