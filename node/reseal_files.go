package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// resealing seals a node's files anew. Every step is safe to do twice, and at
// every instant each file opens under one of the two secrets. What opens under
// neither was damaged before: it stays as it is, for its reader to report.
type resealing struct {
	files        files
	logger       *slog.Logger
	id           dkek.NodeID
	former, next *secret.Bytes
}

func (r *resealing) boxes(purpose string) (former, next *secret.Box, err error) {
	if former, err = secret.NewBox(r.former, purpose); err != nil {
		return nil, nil, err
	}
	next, err = secret.NewBox(r.next, purpose)
	return former, next, err
}

// change seals a room's one file anew and gives the room the box for it. The
// caller holds the room's lock.
func (r *resealing) change(purpose string, box **secret.Box, file func() error) error {
	_, next, err := r.boxes(purpose)
	if err != nil {
		return err
	}
	if err := file(); err != nil {
		return err
	}
	*box = next
	return nil
}

// errNeither: it opens under none of the two secrets.
var errNeither = errors.New("it opens under neither seal secret: it was damaged before")

// file seals one file anew. seal returns its new content, or nil where it is
// sealed under the next secret already.
func (r *resealing) file(name, purpose string, seal func(content []byte, former, next *secret.Box) ([]byte, error)) error {
	content, err := r.files.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	former, next, err := r.boxes(purpose)
	if err != nil {
		return err
	}
	fresh, err := seal(content, former, next)
	if errors.Is(err, errNeither) {
		r.logger.Error("reseal: a file stays as it is", "file", name, "reason", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if fresh == nil {
		return nil
	}
	if err := r.files.write(name, fresh); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	back, err := r.files.read(name)
	if err == nil && !bytes.Equal(back, fresh) {
		err = errors.New("what was read back is not what was written: the disk is not to be trusted")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// sealAgain seals what one of the boxes opens in the next one; nil where that
// has been done.
func sealAgain(sealed, context []byte, former, next *secret.Box) ([]byte, error) {
	if plain, err := next.Open(sealed, context); err == nil {
		secret.Wipe(plain)
		return nil, nil
	}
	plain, err := former.Open(sealed, context)
	if err != nil {
		return nil, errNeither
	}
	defer secret.Wipe(plain)
	return next.Seal(plain, context), nil
}

func (r *resealing) pins() error {
	return r.file(pinFile, pinPurpose, func(content []byte, former, next *secret.Box) ([]byte, error) {
		if len(content) < len(pinMagic) {
			return nil, errNeither
		}
		magic := content[:len(pinMagic):len(pinMagic)]
		sealed, err := sealAgain(content[len(pinMagic):], append(magic, r.id[:]...), former, next)
		if sealed == nil {
			return nil, err
		}
		return append(magic, sealed...), nil
	})
}

// releases keeps what follows the last whole record: its reader cuts or reports
// it.
func (r *resealing) releases() error {
	return r.file(releaseFile, releasePurpose, func(content []byte, former, next *secret.Box) ([]byte, error) {
		notes, whole, _ := parseReleases(former, r.id, content)
		if len(notes) == 0 {
			return nil, nil
		}
		var fresh []byte
		for i, note := range notes {
			record, err := encodeRelease(next, r.id, i, note)
			if err != nil {
				return nil, err
			}
			fresh = append(fresh, record...)
		}
		return append(fresh, content[whole:]...), nil
	})
}

func (r *resealing) shares() error {
	names, err := r.files.list(shareFolder)
	if err != nil {
		return fmt.Errorf("%s: %w", shareFolder, err)
	}
	for _, name := range names {
		if err := r.file(name, dkek.SealPurpose, sealShareAgain); err != nil {
			return err
		}
	}
	return nil
}

func sealShareAgain(content []byte, former, next *secret.Box) ([]byte, error) {
	file, err := dkek.ParseShareFile(content)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNeither, err)
	}
	if bundle, err := file.Open(next); err == nil {
		bundle.Wipe()
		return nil, nil
	}
	bundle, err := file.Open(former)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNeither, err)
	}
	defer bundle.Wipe()
	return bundle.SealAtRest(next, file.Sharing)
}

func (r *resealing) rejected() error {
	return r.file(rejectedFile, rejectedPurpose, func(content []byte, former, next *secret.Box) ([]byte, error) {
		record, err := parseRejected(content)
		if err != nil {
			return nil, errNeither
		}
		sealed, err := sealAgain(record.SealedKey, r.id[:], former, next)
		if sealed == nil {
			return nil, err
		}
		record.SealedKey = sealed
		fresh, err := json.MarshalIndent(record, "", "  ")
		return append(fresh, '\n'), err
	})
}

// identity comes last: as long as it opens under the former secret, so may
// anything else.
func (r *resealing) identity() error {
	return r.file(identityFile, nodeKeyBox, func(content []byte, former, next *secret.Box) ([]byte, error) {
		var record identityRecord
		if err := json.Unmarshal(content, &record); err != nil {
			return nil, fmt.Errorf("damaged: %w", err)
		}
		changed := false
		for _, key := range record.sealed() {
			sealed, err := sealAgain(*key, r.id[:], former, next)
			if errors.Is(err, errNeither) {
				return nil, errors.New("the node key opens under neither seal secret")
			}
			if err != nil {
				return nil, err
			}
			if sealed != nil {
				*key, changed = sealed, true
			}
		}
		if !changed {
			return nil, nil
		}
		fresh, err := json.MarshalIndent(record, "", "  ")
		return append(fresh, '\n'), err
	})
}
