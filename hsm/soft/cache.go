package soft

import (
	"sync"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// cache keeps the parsed keys of entries used lately, with a clock hand for
// what to let go. Go's parsed keys cannot be wiped while another call may hold
// them; letting go leaves them to the collector.
type cache struct {
	mu   sync.Mutex
	ring [cachedKeys]*entry
	hand int
}

func (c *cache) add(e *entry, k *key) {
	if !e.key.CompareAndSwap(nil, k) {
		return // somebody else was faster
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for range len(c.ring) {
		if victim := c.ring[c.hand]; victim == nil || !victim.seen.Swap(false) {
			break
		}
		c.hand = (c.hand + 1) % len(c.ring)
	}
	if victim := c.ring[c.hand]; victim != nil && victim != e {
		victim.key.Store(nil)
	}
	c.ring[c.hand] = e
	c.hand = (c.hand + 1) % len(c.ring)
}

// key returns the private key in a slot, ready for use.
func (d *Device) key(op string, slot hsm.Slot) (*key, error) {
	d.mu.RLock()
	if err := d.ready(op); err != nil {
		d.mu.RUnlock()
		return nil, err
	}
	e := d.entries[slot]
	if e == nil {
		d.mu.RUnlock()
		return nil, d.fail(op, hsm.ErrNoKey, "")
	}
	if k := e.key.Load(); k != nil {
		d.mu.RUnlock()
		if !e.seen.Load() { // a plain store would bounce the line between cores
			e.seen.Store(true)
		}
		return k, nil
	}
	record, err := d.log.read(e.at)
	cache := d.cache
	d.mu.RUnlock()
	if err != nil {
		return nil, d.fail(op, hsm.ErrStorage, "the key's record does not read: "+err.Error())
	}
	k, err := parse(e.keyType, record)
	if err != nil {
		return nil, d.fail(op, hsm.ErrStorage, "the key's record does not parse")
	}
	cache.add(e, k)
	return k, nil
}

// parse reads the private key out of a record and wipes that.
func parse(keyType hsm.KeyType, record []byte) (*key, error) {
	defer secret.Wipe(record)
	r, err := decodeKey(record[1:])
	if err != nil {
		return nil, err
	}
	return decodePrivate(keyType, r.private)
}
