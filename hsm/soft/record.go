package soft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
)

// Record kinds. Numbers are frozen: they lie on disk.
const (
	kindState  = 1 // the device itself: PINs, tries, DKEK
	kindKey    = 2 // a key in an empty slot
	kindDelete = 3 // a slot is empty again
	kindMark   = 4 // nothing but the mark that every record has
)

// typeNumbers is how key types are written. Frozen.
var typeNumbers = map[hsm.KeyType]byte{
	hsm.RSA1024: 1, hsm.RSA2048: 2, hsm.RSA3072: 3, hsm.RSA4096: 4,
	hsm.ECDSAP224: 6, hsm.ECDSAP256: 7, hsm.ECDSAP384: 8, hsm.ECDSAP521: 9,
	hsm.Ed25519: 10, hsm.AES128: 11, hsm.AES192: 12, hsm.AES256: 13,
}

var errRecord = errors.New("record is malformed")

// keyRecord is a kindKey record taken apart; its slices lie in the record.
type keyRecord struct {
	slot    hsm.Slot
	keyType hsm.KeyType
	label   []byte
	tag     []byte
	public  []byte
	private []byte
}

func (k keyRecord) encode() []byte {
	b := make([]byte, 0, 1+4+1+1+len(k.label)+1+len(k.tag)+2+len(k.public)+len(k.private))
	b = append(b, kindKey)
	b = binary.BigEndian.AppendUint32(b, uint32(k.slot))
	b = append(b, typeNumbers[k.keyType])
	b = append(append(b, byte(len(k.label))), k.label...)
	b = append(append(b, byte(len(k.tag))), k.tag...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(k.public)))
	b = append(b, k.public...)
	return append(b, k.private...)
}

func encodeDelete(slot hsm.Slot) []byte {
	return binary.BigEndian.AppendUint32([]byte{kindDelete}, uint32(slot))
}

// reader takes a record apart; after a short one failed is set and everything
// reads as zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n > len(r.b) {
		r.failed = true
		return nil
	}
	head := r.b[:n:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// decodeKey reads the record after its kind.
func decodeKey(b []byte) (keyRecord, error) {
	r := &reader{b: b}
	k := keyRecord{slot: hsm.Slot(r.uint32())}
	number := r.byte()
	for t, n := range typeNumbers {
		if n == number {
			k.keyType = t
		}
	}
	k.label = r.take(int(r.byte()))
	k.tag = r.take(int(r.byte()))
	k.public = r.take(r.uint16())
	k.private = r.b
	switch {
	case r.failed || len(k.private) == 0:
		return keyRecord{}, errRecord
	case k.keyType == "":
		return keyRecord{}, fmt.Errorf("key type %d is unknown: written by a newer version", number)
	case k.slot < 1 || k.slot > MaxSlots || len(k.label) > hsm.MaxLabel || len(k.tag) > hsm.MaxTag:
		return keyRecord{}, errRecord
	}
	return k, nil
}

func decodeDelete(b []byte) (hsm.Slot, error) {
	r := &reader{b: b}
	slot := hsm.Slot(r.uint32())
	if r.failed || len(r.b) != 0 {
		return 0, errRecord
	}
	return slot, nil
}
