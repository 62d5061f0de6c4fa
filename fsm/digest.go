package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/keycustodian/keycustodian/dkek"
)

// sum adds up the hashes of a table's rows modulo 2^256, so that it follows
// every change in constant time and does not depend on the order of changes. It
// finds nodes that differ; it is no defence against one that wants to collide.
type sum [4]uint64 // least significant first

func (s *sum) add(h dkek.Hash) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

func (s *sum) sub(h dkek.Hash) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], binary.LittleEndian.Uint64(h[8*i:]), borrow)
	}
}

const rowDomain = "keycustodian v1 row\x00"

// hashRow is SHA-256(rowDomain, table, CBOR of the row), of a request without its
// Message: builds that word a refusal differently have the same state.
func hashRow(r row) (dkek.Hash, error) {
	if q, ok := r.(*request); ok && q.Message != "" {
		wordless := *q
		wordless.Message = ""
		r = &wordless
	}
	enc, _ := modes()
	buffer := bytes.NewBuffer(make([]byte, 0, 512))
	buffer.WriteString(rowDomain)
	buffer.WriteByte(byte(r.table()))
	if err := enc.MarshalToBuffer(r, buffer); err != nil {
		return dkek.Hash{}, err
	}
	return sha256.Sum256(buffer.Bytes()), nil
}

// digest is SHA-256 over "keycustodian v1 state", 0, the log's time, the audit
// chain's head and, for each table, its count and sum (integers of 8 bytes, big
// endian; sums of 32, little endian). The applied index is not in it.
func (r *root) digest() dkek.Hash {
	out := make([]byte, 0, 1024)
	out = append(out, "keycustodian v1 state\x00"...)
	out = binary.BigEndian.AppendUint64(out, uint64(r.Time))
	out = binary.BigEndian.AppendUint64(out, r.AuditSeq)
	out = append(out, r.AuditHead[:]...)
	for table := 1; table <= int(lastTable); table++ {
		out = binary.BigEndian.AppendUint64(out, r.Counts[table])
		for _, word := range r.Sums[table] {
			out = binary.LittleEndian.AppendUint64(out, word)
		}
	}
	return sha256.Sum256(out)
}

// digestsKept is how many applied indexes back digests can still be compared.
const digestsKept = 4096

// history remembers the digests of the newest applied indexes. It is a node's
// own memory, not state: after a restore it is empty and nothing is compared
// until it has grown again.
type history struct {
	entries [digestsKept]struct {
		index  uint64
		digest dkek.Hash
	}
	next int
}

func (h *history) add(index uint64, digest dkek.Hash) {
	h.entries[h.next].index, h.entries[h.next].digest = index, digest
	h.next = (h.next + 1) % digestsKept
}

func (h *history) find(index uint64) (dkek.Hash, bool) {
	for back := 1; back <= digestsKept; back++ {
		entry := &h.entries[(h.next-back+digestsKept)%digestsKept]
		if entry.index == index && index != 0 {
			return entry.digest, true
		}
	}
	return dkek.Hash{}, false
}

// DigestAt returns the digest right after an index was applied, where it is one
// of the newest that this machine has applied since it was made or restored.
func (m *Machine) DigestAt(index uint64) (dkek.Hash, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.history.find(index)
}
