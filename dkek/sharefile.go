package dkek

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// SealPurpose is the purpose of the [secret.Box] that seals shares at rest.
const SealPurpose = "share"

// A share file: magic (8) || version (2) || length of the whole file (4) ||
// holder (16) || length of the sharing (4) || sharing || sealed || SHA-256 (32)
// of all before it. sealed is the box's, with all before it as context. The
// checksum, which says nothing about the share, tells a damaged file from a
// wrong seal secret.
const (
	fileMagic    = "KCSHARE\n"
	fileVersion  = 1
	fileHeader   = len(fileMagic) + 2 + 4 + 16 + 4
	checksumSize = sha256.Size
)

// ShareFile is a share at rest: what it is of can be read without the seal
// secret. Nothing but an undamaged file becomes one.
type ShareFile struct {
	Holder  NodeID
	Sharing *Sharing

	context []byte // everything before sealed
	sealed  []byte
}

// SealAtRest returns the content of a share file. box is the node's, for
// [SealPurpose].
func (b *Bundle) SealAtRest(box *secret.Box, sharing *Sharing) ([]byte, error) {
	if err := b.Check(sharing); err != nil {
		return nil, err
	}
	public, err := sharing.Encode()
	if err != nil {
		return nil, err
	}
	sealedSize := len(sharing.Dealings)*subShareSize + secret.BoxOverhead
	total := fileHeader + len(public) + sealedSize + checksumSize
	out := make([]byte, 0, total)
	out = append(out, fileMagic...)
	out = binary.BigEndian.AppendUint16(out, fileVersion)
	out = binary.BigEndian.AppendUint32(out, uint32(total))
	out = append(out, b.holder[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(public)))
	out = append(out, public...)
	b.data.With(func(p []byte) { out = append(out, box.Seal(p, out)...) })
	sum := sha256.Sum256(out)
	if out = append(out, sum[:]...); len(out) != total {
		return nil, &ShareError{Op: "seal share", Holder: b.holder, Reason: Wiped}
	}
	return out, nil
}

// ParseShareFile reads the public half of a share file and checks that nothing
// in it was damaged.
func ParseShareFile(content []byte) (*ShareFile, error) {
	fail := func(reason Reason, detail string) (*ShareFile, error) {
		return nil, &ShareError{Op: "read share file", Reason: reason, Detail: detail}
	}
	if len(content) > maxShareFile {
		return fail(BadLength, fmt.Sprintf("longer than %d bytes", maxShareFile))
	}
	if len(content) < fileHeader+checksumSize {
		return fail(Truncated, fmt.Sprintf("%d bytes", len(content)))
	}
	body, sum := content[:len(content)-checksumSize], content[len(content)-checksumSize:]
	total := binary.BigEndian.Uint32(content[10:])
	if actual := sha256.Sum256(body); !bytes.Equal(actual[:], sum) {
		switch {
		case !bytes.HasPrefix(content, []byte(fileMagic)):
			return fail(BadFormat, "not a share file")
		case total > uint32(len(content)) && total <= maxShareFile:
			return fail(Truncated, fmt.Sprintf("%d of %d bytes", len(content), total))
		}
		return fail(Damaged, "")
	}
	switch version := binary.BigEndian.Uint16(content[8:]); {
	case !bytes.HasPrefix(content, []byte(fileMagic)):
		return fail(BadFormat, "not a share file")
	case version != fileVersion:
		return fail(BadFormat, fmt.Sprintf("version %d, this program reads %d", version, fileVersion))
	case total != uint32(len(content)):
		return fail(BadFormat, "its length is not what it says")
	}
	size := binary.BigEndian.Uint32(body[30:])
	if uint64(size) > uint64(len(body)-fileHeader) {
		return fail(BadFormat, "its sharing is longer than the file")
	}
	body = bytes.Clone(body)
	file := &ShareFile{context: body[:fileHeader+int(size)], sealed: body[fileHeader+int(size):]}
	copy(file.Holder[:], body[14:])
	sharing, err := ParseSharing(body[fileHeader : fileHeader+int(size)])
	if err != nil {
		return nil, err
	}
	if len(file.sealed) != len(sharing.Dealings)*subShareSize+secret.BoxOverhead {
		return fail(BadLength, "")
	}
	file.Sharing = sharing
	return file, nil
}

// Is compares what the file is of with what is wanted: cluster, epoch, attempt,
// holder, then the sharing itself.
func (f *ShareFile) Is(sharing *Sharing, holder NodeID) error {
	reason := Reason("")
	have, want := &f.Sharing.Plan, &sharing.Plan
	switch {
	case have.Cluster != want.Cluster:
		reason = WrongCluster
	case have.Epoch != want.Epoch:
		reason = WrongEpoch
	case have.Attempt != want.Attempt:
		reason = WrongAttempt
	case f.Holder != holder:
		reason = WrongHolder
	case f.Sharing.Hash() != sharing.Hash():
		reason = WrongSharing
	default:
		return nil
	}
	return &ShareError{Op: "open share file", Holder: holder, Reason: reason,
		Detail: fmt.Sprintf("the file is of cluster %v, epoch %d, attempt %d, holder %v", have.Cluster, have.Epoch, have.Attempt, f.Holder)}
}

// Open unseals the share and checks every commitment.
func (f *ShareFile) Open(box *secret.Box) (*Bundle, error) {
	const op = "open share file"
	var data *Secret
	secret.Do(func() {
		if opened, err := box.Open(f.sealed, f.context); err == nil {
			data = secret.Take(opened)
		}
	})
	if data == nil {
		return nil, &ShareError{Op: op, Holder: f.Holder, Reason: WrongSeal}
	}
	return newBundle(op, f.Sharing, f.Holder, data)
}

// OpenAtRest reads a share file that must be this holder's share of this
// sharing.
func OpenAtRest(box *secret.Box, content []byte, sharing *Sharing, holder NodeID) (*Bundle, error) {
	file, err := ParseShareFile(content)
	if err != nil {
		var refused *ShareError
		if errors.As(err, &refused) {
			refused.Holder = holder // the file cannot tell, the caller can
		}
		return nil, err
	}
	if err := file.Is(sharing, holder); err != nil {
		return nil, err
	}
	return file.Open(box)
}
