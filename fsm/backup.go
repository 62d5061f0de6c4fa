package fsm

import (
	"bufio"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keycustodian/keycustodian/dkek"
)

const (
	backupMagic  = "KCBACKUP"
	backupFormat = 1
)

// BackupStatement is what the node that made a backup file signs, domain
// [DomainBackup]: what the file is, and the hash of the snapshot that follows.
type BackupStatement struct {
	Format      int            `cbor:"1,keyasint"`
	Cluster     dkek.ClusterID `cbor:"2,keyasint"`
	Incarnation uint64         `cbor:"3,keyasint"`
	Index       uint64         `cbor:"4,keyasint"` // of the state in the log
	Time        int64          `cbor:"5,keyasint"` // by that node's clock, Unix milliseconds
	Node        dkek.NodeID    `cbor:"6,keyasint"` // that made it, and signs
	Size        uint64         `cbor:"7,keyasint"` // bytes of the snapshot
	Hash        dkek.Hash      `cbor:"8,keyasint"` // SHA-256 of the snapshot
}

// ErrBackup means that a file is no backup, or is damaged.
var ErrBackup = errors.New("not a backup that is whole")

// WriteBackup writes a backup file of a state: magic, statement, signature, and
// the state's snapshot. It holds no secret: keys are wrapped in it. The node is
// one that the state names as a member, with signer its present key. The snapshot
// is encoded twice, since the signature comes before it.
func (v *View) WriteBackup(w io.Writer, node dkek.NodeID, signer crypto.Signer, now int64) error {
	cluster, ok := v.Cluster()
	if !ok {
		return errors.New("fsm: backup: there is no cluster yet")
	}
	hash := sha256.New()
	size, err := v.Snapshot().WriteTo(hash)
	if err != nil {
		return fmt.Errorf("fsm: backup: %w", err)
	}
	signed, err := SignStatement(signer, DomainBackup, &BackupStatement{
		Format: backupFormat, Cluster: cluster.ID, Incarnation: cluster.Incarnation, Index: v.Index(), Time: now,
		Node: node, Size: uint64(size), Hash: dkek.Hash(hash.Sum(nil)),
	})
	if err != nil {
		return err
	}
	encoded, err := marshal(&signed)
	if err != nil {
		return fmt.Errorf("fsm: backup: %w", err)
	}
	head := binary.BigEndian.AppendUint32([]byte(backupMagic), uint32(len(encoded)))
	if _, err := w.Write(append(head, encoded...)); err != nil {
		return fmt.Errorf("fsm: backup: %w", err)
	}
	if _, err := v.Snapshot().WriteTo(w); err != nil {
		return fmt.Errorf("fsm: backup: %w", err)
	}
	return nil
}

// Backup is a backup file that was read whole and verified.
type Backup struct {
	BackupStatement
	// Sets is the chain of operator sets, every link signed by the set before;
	// the last one is in force in the state.
	Sets []OperatorSet
	// Machine holds the state.
	Machine *Machine
}

// ReadBackup reads a backup file to its end and verifies it: every byte is what
// was signed, by a member that its state names, and the operator sets in it follow
// from the first one by signatures. Whoever makes up a whole file can also make up
// its member and its first operators: compare the set with a pinned one
// ([Backup.HasSet]). Errors wrap [ErrBackup] or [ErrUnknownKind].
func ReadBackup(r io.Reader) (*Backup, error) {
	b, err := readBackup(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("fsm: read backup: %w", err)
	}
	return b, nil
}

func readBackup(r *bufio.Reader) (*Backup, error) {
	signed, err := readBackupHead(r)
	if err != nil {
		return nil, err
	}
	b := &Backup{Machine: New()}
	if err := signed.Peek(&b.BackupStatement); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if b.Format != backupFormat {
		return nil, fmt.Errorf("%w (backup format %d)", ErrUnknownKind, b.Format)
	}
	hash, body := sha256.New(), &io.LimitedReader{R: r, N: int64(min(b.Size, 1<<62))}
	err = b.Machine.Restore(io.TeeReader(body, hash))
	switch {
	case errors.Is(err, ErrUnknownKind):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	case body.N != 0 || dkek.Hash(hash.Sum(nil)) != b.Hash:
		return nil, fmt.Errorf("%w: its snapshot is not the one that was signed", ErrBackup)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes behind its end", ErrBackup)
	}
	return b, b.verify(signed)
}

func readBackupHead(r io.Reader) (*Signed, error) {
	head := make([]byte, len(backupMagic)+4)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:len(backupMagic)]) != backupMagic {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	size := binary.BigEndian.Uint32(head[len(backupMagic):])
	if size > maxHeader {
		return nil, fmt.Errorf("%w: a statement of %d bytes", ErrBackup, size)
	}
	encoded := make([]byte, size)
	if _, err := io.ReadFull(r, encoded); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBackup, err)
	}
	var signed Signed
	if err := unmarshal(encoded, &signed); err != nil {
		return nil, fmt.Errorf("%w: statement: %v", ErrBackup, err)
	}
	return &signed, nil
}

// verify compares the statement with the state, and checks who signed what.
func (b *Backup) verify(signed *Signed) error {
	view := b.Machine.State()
	cluster, ok := view.Cluster()
	if !ok || cluster.ID != b.Cluster || cluster.Incarnation != b.Incarnation || view.Index() != b.Index {
		return fmt.Errorf("%w: statement and state differ", ErrBackup)
	}
	member, ok := view.Member(b.Node)
	if !ok {
		return fmt.Errorf("%w: node %v, which signed it, is no member in it", ErrBackup, b.Node)
	}
	if err := verify(member.Public, DomainBackup, signed.Statement, signed.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	for record := range view.Governs(0) {
		set := record.Set
		if len(b.Sets) > 0 {
			next, err := VerifyGovern(b.Sets[len(b.Sets)-1], record)
			if err != nil {
				return fmt.Errorf("%w: operator set %d: %w", ErrBackup, record.Number, err)
			}
			set = next
		}
		b.Sets = append(b.Sets, set)
	}
	if len(b.Sets) == 0 || b.Sets[0].Number != 1 || b.Sets[0].Cluster != b.Cluster || b.Sets[len(b.Sets)-1].Digest() != cluster.Operators.Digest() {
		return fmt.Errorf("%w: the chain of operator sets does not lead to the one in force", ErrBackup)
	}
	return nil
}

// HasSet tells whether an operator set that is known otherwise is one of the
// chain: then this is that cluster's backup, unless those operators lied.
func (b *Backup) HasSet(known OperatorSet) bool {
	for _, set := range b.Sets {
		if set.Number == known.Number {
			return set.Digest() == known.Digest()
		}
	}
	return false
}
