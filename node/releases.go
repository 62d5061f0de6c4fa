package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// The file "releases": records, each a length (4, big endian) and as many bytes
// sealed in a box of purpose "releases". The context is "KCRELEASE1\n", the node
// ID and the record's number from 0 (8, big endian), so that none can be taken
// out, moved or changed unseen.
const (
	releaseFile    = "releases"
	releaseAside   = "releases-damaged"
	releaseMagic   = "KCRELEASE1\n"
	releasePurpose = "releases"
	maxRelease     = 4 << 10 // bytes of one sealed record
)

// ReleaseNote is one share that left this node: written and synced before the
// share is sealed.
type ReleaseNote struct {
	Ceremony  fsm.CeremonyID     `cbor:"1,keyasint"`
	Open      dkek.Hash          `cbor:"2,keyasint"` // fsm.OpenHash of what was approved
	Recipient dkek.Holder        `cbor:"3,keyasint"`
	Purpose   fsm.ReleasePurpose `cbor:"4,keyasint"`
	Key       dkek.Hash          `cbor:"5,keyasint"` // of the HPKE key it was sealed to
	Epoch     uint64             `cbor:"6,keyasint"`
	Attempt   uint64             `cbor:"7,keyasint"`
	Index     uint64             `cbor:"8,keyasint"` // of the Release, in the log
	Time      int64              `cbor:"9,keyasint"` // by this node's clock, Unix milliseconds
	// Cites, where not zero, is the provision on whose approvals it went.
	Cites fsm.CeremonyID `cbor:"10,keyasint"`
}

// releaseRoom keeps this node's own record of what it gave away.
type releaseRoom struct {
	node *Node
	box  *secret.Box

	mu      sync.Mutex
	notes   []ReleaseNote
	torn    bool  // the end of the file may hold a part of a record
	trouble error // what was found damaged at the start
}

func newReleaseRoom(n *Node) (*releaseRoom, error) {
	box, err := n.box(releasePurpose)
	if err != nil {
		return nil, err
	}
	r := &releaseRoom{node: n, box: box}
	return r, r.load()
}

// load reads the file. A record that is not whole at its end is a crash before
// anything was released, and is cut off; damage before the end is kept aside and
// reported, and a new file begun.
func (r *releaseRoom) load() error {
	if _, err := r.node.files.read(releaseAside); err == nil && r.trouble == nil {
		r.trouble = fmt.Errorf("node: releases: an earlier record was damaged, changed or missing and what there was is kept as %q: look into it, then move it away", releaseAside)
	}
	content, err := r.node.files.read(releaseFile)
	if errors.Is(err, fs.ErrNotExist) {
		return r.beginAnew()
	}
	if err != nil {
		return fmt.Errorf("node: releases: %w", err)
	}
	notes, whole, last := parseReleases(r.box, r.node.id, content)
	switch {
	case whole == len(content):
	case last:
		if err := r.node.files.write(releaseFile, content[:whole]); err != nil {
			return fmt.Errorf("node: releases: %w", err)
		}
	default:
		r.trouble = fmt.Errorf("node: releases: record %d and what follows cannot be read: the file was damaged or changed; it is kept as %q", len(notes), releaseAside)
		r.node.logger.Error("releases: the record of what this node released is damaged", "reason", r.trouble)
		if err := errors.Join(r.node.files.write(releaseAside, content), r.node.files.write(releaseFile, content[:whole])); err != nil {
			return fmt.Errorf("node: releases: %w", err)
		}
	}
	r.notes, r.torn = notes, false
	return nil
}

// beginAnew makes the file that a node has from the moment it has an identity. An
// empty releaseAside keeps in mind that the former one is gone.
func (r *releaseRoom) beginAnew() error {
	r.trouble = fmt.Errorf("node: releases: the file %q is missing, and what this node released is known from the log alone: put the file back if you have it, then move %q away", releaseFile, releaseAside)
	r.node.logger.Error("releases: the record of what this node released is missing", "reason", r.trouble)
	var err error
	if _, missing := r.node.files.read(releaseAside); missing != nil {
		err = r.node.files.write(releaseAside, nil)
	}
	if err = errors.Join(err, r.node.files.write(releaseFile, nil)); err != nil {
		return fmt.Errorf("node: releases: %w", err)
	}
	r.notes, r.torn = nil, false
	return nil
}

// parseReleases reads whole records, and says how many bytes they are and
// whether nothing but the torn end of one follows.
func parseReleases(box *secret.Box, id dkek.NodeID, content []byte) (notes []ReleaseNote, whole int, last bool) {
	for rest := content; len(rest) > 0; rest = content[whole:] {
		if len(rest) < 4 {
			return notes, whole, true
		}
		size := binary.BigEndian.Uint32(rest)
		if size > maxRelease {
			return notes, whole, false
		}
		end := 4 + int(size)
		if len(rest) < end {
			return notes, whole, true
		}
		plain, err := box.Open(rest[4:end], releaseContext(id, len(notes)))
		var note ReleaseNote
		if err != nil || wireDecoder.Unmarshal(plain, &note) != nil {
			return notes, whole, len(rest) == end
		}
		notes, whole = append(notes, note), whole+end
	}
	return notes, whole, true
}

func releaseContext(id dkek.NodeID, number int) []byte {
	c := append([]byte(releaseMagic), id[:]...)
	return binary.BigEndian.AppendUint64(c, uint64(number))
}

// encodeRelease seals a record as it lies in the file.
func encodeRelease(box *secret.Box, id dkek.NodeID, number int, note ReleaseNote) ([]byte, error) {
	plain, err := wireEncoder.Marshal(note)
	if err != nil {
		return nil, err
	}
	sealed := box.Seal(plain, releaseContext(id, number))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...), nil
}

// record writes a release down; it is on disk when this returns nil. One that is
// there already is not written again.
func (r *releaseRoom) record(note ReleaseNote) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := func(n ReleaseNote) bool {
		n.Time = note.Time
		return n == note
	}
	if slices.ContainsFunc(r.notes, same) {
		return nil
	}
	if r.torn {
		if err := r.load(); err != nil {
			return err
		}
	}
	content, err := encodeRelease(r.box, r.node.id, len(r.notes), note)
	if err != nil {
		return err
	}
	r.torn = true
	if err := r.node.files.append(releaseFile, content); err != nil {
		return fmt.Errorf("node: releases: %w", err)
	}
	r.torn = false
	r.notes = append(r.notes, note)
	return nil
}

// cited tells whether a share went to another ceremony on the approvals of the
// same provision.
func (r *releaseRoom) cited(provision, by fsm.CeremonyID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.notes, func(n ReleaseNote) bool { return n.Cites == provision && n.Ceremony != by })
}

// unrecorded are this node's releases up to a log index that the state shows and
// this node's own record lacks.
func (r *releaseRoom) unrecorded(view *fsm.View, upTo uint64) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	recorded := make(map[uint64]bool, len(r.notes))
	for _, note := range r.notes {
		recorded[note.Index] = true
	}
	var missing []error
	for c := range view.Ceremonies() {
		for _, release := range c.Releases {
			if release.Holder == r.node.id && release.Index <= upTo && !recorded[release.Index] {
				missing = append(missing, fmt.Errorf("node: releases: the log has a release of this node to %v (ceremony %v, log index %d) that its own record lacks: it was interrupted before the share left, or the record was lost or put back", release.Recipient, c.ID, release.Index))
			}
		}
	}
	return missing
}

// Releases are the shares that this node has given away, by its own record, the
// oldest first, and what is wrong with that record.
func (n *Node) Releases() ([]ReleaseNote, error) {
	if n.shares == nil {
		return nil, n.Sealed()
	}
	r := n.shares.releases
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.notes), r.trouble
}
