package node

import (
	"crypto/hkdf"
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
// steals the disk without the seal secret cannot try PINs against them.
type rejectedPINs struct {
	node *Node
	mu   sync.Mutex
	read bool
	list []pinMark
}

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

// mark hashes a PIN: HMAC-SHA256 over kind, 0, serial, 0, PIN, under
// HKDF-SHA256(seal secret, no salt, "keycustodian v1 rejected PIN").
func (r *rejectedPINs) mark(kind pinKind, serial string, pin *hsm.Secret) pinMark {
	var sum []byte
	r.node.seal.With(func(seal []byte) {
		key, err := hkdf.Key(sha256.New, seal, nil, "keycustodian v1 rejected PIN", sha256.Size)
		if err != nil {
			return // not for this size
		}
		defer secret.Wipe(key)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(string(kind) + "\x00" + serial + "\x00"))
		pin.With(func(p []byte) { mac.Write(p) })
		sum = mac.Sum(nil)
	})
	return pinMark{Kind: kind, Serial: serial, Hash: hex.EncodeToString(sum)}
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
	r.list = slices.DeleteFunc(r.list, func(m pinMark) bool { return m.Kind == kind })
	r.read = true
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
	content, err := json.MarshalIndent(r.list, "", "  ")
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
	if err == nil {
		err = json.Unmarshal(content, &r.list)
	}
	if err != nil {
		return fmt.Errorf("node: the file %q does not read (%w): no PIN is sent until it is unblocked or the file removed", rejectedFile, err)
	}
	r.read = true
	return nil
}
