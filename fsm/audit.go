package fsm

import (
	"crypto/sha256"
	"fmt"
	"iter"

	"github.com/keycustodian/keycustodian/dkek"
)

// AuditRecord is one accepted change. Records are chained by hash; the newest
// [MaxAudit] are in the state, older ones are with each node.
// Its change key is Seq, 8 bytes big endian.
type AuditRecord struct {
	Seq    uint64 `cbor:"1,keyasint"` // from 1, without gaps
	Index  uint64 `cbor:"2,keyasint"` // in the log
	Time   int64  `cbor:"3,keyasint"` // the log's, Unix milliseconds
	Actor  Actor  `cbor:"4,keyasint"`
	Action string `cbor:"5,keyasint"` // "key create"
	Target string `cbor:"6,keyasint"` // what it was done to
	Detail string `cbor:"7,keyasint,omitempty"`
	// Previous is the Hash of the record before; zero in the first.
	Previous dkek.Hash `cbor:"8,keyasint"`
	// Hash is SHA-256 over "keycustodian v1 audit", 0 and the CBOR of this
	// record with a zero Hash.
	Hash dkek.Hash `cbor:"9,keyasint"`
}

func (*AuditRecord) table() Table  { return TableAudit }
func (r *AuditRecord) key() []byte { return number(r.Seq) }

// Digest computes what Hash must be.
func (r AuditRecord) Digest() dkek.Hash {
	r.Hash = dkek.Hash{}
	encoded, err := marshal(&r)
	if err != nil {
		return dkek.Hash{} // no field of it can fail
	}
	return sha256.Sum256(append([]byte("keycustodian v1 audit\x00"), encoded...))
}

// audit appends a record of what is being done.
func (t *txn) audit(action, target, detail string) {
	r := &AuditRecord{
		Seq: t.state.AuditSeq + 1, Index: t.index, Time: t.now, Actor: t.command.Actor,
		Action: action, Target: target, Detail: cleanText(detail), Previous: t.state.AuditHead,
	}
	r.Hash = r.Digest()
	t.state.AuditSeq, t.state.AuditHead = r.Seq, r.Hash
	t.put(r)
	if t.count(TableAudit) > MaxAudit {
		t.trim(TableAudit, byKey, MaxAudit, nil)
	}
}

// VerifyAudit checks records that follow one another, the first of them after
// the record with hash previous, and returns the hash of the last one. Where
// the chain is broken it names the record.
func VerifyAudit(previous dkek.Hash, records iter.Seq[*AuditRecord]) (dkek.Hash, error) {
	var seq uint64
	for r := range records {
		switch {
		case seq != 0 && r.Seq != seq+1:
			return previous, fmt.Errorf("fsm: audit: record %d follows record %d", r.Seq, seq)
		case r.Previous != previous:
			return previous, fmt.Errorf("fsm: audit: record %d does not continue the chain", r.Seq)
		case r.Digest() != r.Hash:
			return previous, fmt.Errorf("fsm: audit: record %d was changed", r.Seq)
		}
		seq, previous = r.Seq, r.Hash
	}
	return previous, nil
}
