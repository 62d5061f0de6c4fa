package soft

import (
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// load reads the file into memory; private keys stay sealed in it.
func (d *Device) load() error {
	first := true
	err := d.log.open(func(at place, record []byte) error {
		if len(record) == 0 || first != (record[0] == kindState && d.serial == "") {
			return errRecord
		}
		first = false
		switch record[0] {
		case kindState:
			s, err := decodeState(record[1:])
			if err != nil {
				return err
			}
			d.state.dkek.Wipe()
			d.state, d.serial = s, s.serial
		case kindKey:
			return d.loadKey(at, record[1:])
		case kindDelete:
			slot, err := decodeDelete(record[1:])
			if err != nil || d.entries[slot] == nil {
				return errRecord
			}
			d.forget(slot)
		case kindMark:
		default:
			return fmt.Errorf("record kind %d is unknown: written by a newer version", record[0])
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.takeState(d.state)
}

// takeState makes s the device's state. Callers hold mu.
func (d *Device) takeState(s state) error {
	if s.dkek == d.state.dkek && d.keys != nil {
		d.state = s // calls under way may be wrapping with keys
		return nil
	}
	var keys *keyblob.Keys
	if s.status() == hsm.Ready {
		var err error
		if keys, err = keyblob.NewKeys(s.dkek); err != nil {
			return err
		}
	}
	if d.keys != nil {
		d.keys.Wipe()
	}
	if d.state.dkek != s.dkek {
		d.state.dkek.Wipe()
	}
	d.state, d.keys = s, keys
	return nil
}

func (d *Device) loadKey(at place, record []byte) error {
	k, err := decodeKey(record)
	if err != nil {
		return err
	}
	if d.entries[k.slot] != nil {
		return errRecord
	}
	e := &entry{keyType: k.keyType, label: string(k.label), at: at}
	e.tag = append(e.tag, k.tag...)
	if e.public, err = decodePublic(k.keyType, k.public); err != nil {
		return err
	}
	d.entries[k.slot] = e
	d.used += int64(at.length)
	return nil
}

// forget takes a slot out of memory.
func (d *Device) forget(slot hsm.Slot) {
	e := d.entries[slot]
	d.used -= int64(e.at.length)
	e.key.Store(nil)
	delete(d.entries, slot)
}
