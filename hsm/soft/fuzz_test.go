package soft

import (
	"bytes"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
)

// FuzzFile opens whatever bytes as a device file: an error or a device, and
// what opens opens again.
func FuzzFile(f *testing.F) {
	disk := &testDisk{}
	d := onDisk(f, disk)
	generate256(f, d, 1, 2)
	ok(f, d.Delete(f.Context(), 1))
	f.Add(disk.image())
	ok(f, d.Close())
	f.Add(disk.image())
	f.Add(disk.image()[:headerSize])
	f.Fuzz(func(t *testing.T, content []byte) {
		device, err := load(content)
		if err != nil {
			return
		}
		left := device.log.media.(*testDisk).image()
		ok(t, device.Close())
		again, err := load(left)
		if err != nil {
			t.Fatalf("opened once, then: %v", err)
		}
		ok(t, again.Close())
	})
}

// FuzzRecord decodes records that are sealed properly, which only whoever has
// the seal secret can write: still no panic, and what is accepted is written
// back the same.
func FuzzRecord(f *testing.F) {
	f.Add(newState("KCS0123456789").encode())
	f.Add(keyRecord{slot: 1, keyType: hsm.AES128, label: []byte("a"), tag: []byte("b"), private: make([]byte, 16)}.encode())
	f.Add(encodeDelete(5))
	f.Add([]byte{kindMark})
	f.Fuzz(func(t *testing.T, record []byte) {
		if len(record) == 0 {
			return
		}
		switch record[0] {
		case kindState:
			if s, err := decodeState(record[1:]); err == nil && !bytes.Equal(s.encode(), record) {
				t.Error("a state is written back otherwise")
			}
		case kindKey:
			k, err := decodeKey(record[1:])
			if err != nil {
				return
			}
			if !bytes.Equal(k.encode(), record) {
				t.Error("a key is written back otherwise")
			}
			decodePublic(k.keyType, k.public)
			decodePrivate(k.keyType, k.private)
		case kindDelete:
			if slot, err := decodeDelete(record[1:]); err == nil && !bytes.Equal(encodeDelete(slot), record) {
				t.Error("a deletion is written back otherwise")
			}
		}
	})
}
