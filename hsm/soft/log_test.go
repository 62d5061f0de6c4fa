package soft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
)

// A tail that was never synced may be torn anywhere, and any of its pages may
// be missing. Whatever is left opens, with everything synced in it.
func TestTornTail(t *testing.T) {
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1, 2)
	ok(t, d.Sync(t.Context()))
	synced := len(disk.image())
	generate256(t, d, 3, 4)
	ok(t, d.Delete(t.Context(), 3))
	whole := disk.image()

	check := func(content []byte, what string, at int) {
		t.Helper()
		back, err := load(content)
		if err != nil {
			t.Fatalf("%s at byte %d of %d: %v", what, at, len(whole), err)
		}
		defer back.Close()
		slots := slotsOf(t, back)
		if !slots[1] || !slots[2] {
			t.Fatalf("%s at byte %d of %d: synced keys are missing, there are %v", what, at, len(whole), slots)
		}
		// It goes on from there, and what it adds is read again.
		generate256(t, back, 9)
		ok(t, back.Sync(t.Context()))
		again, err := load(back.log.media.(*testDisk).image())
		if err != nil {
			t.Fatalf("%s at byte %d, then a key: %v", what, at, err)
		}
		// Exactly: what was cut off must not come back behind the new record.
		slots[9] = true
		if now := slotsOf(t, again); !maps.Equal(now, slots) {
			t.Fatalf("%s at byte %d, then a key: slots %v, want %v", what, at, now, slots)
		}
	}
	for at := synced; at <= len(whole); at++ {
		check(whole[:at], "cut", at)
		if at < len(whole) {
			flipped := bytes.Clone(whole)
			flipped[at] ^= 0x40
			check(flipped, "flip", at)
		}
	}
	for _, hole := range []int{64, 256, len(whole) - synced} {
		for at := synced; at+hole <= len(whole); at += 61 {
			zeros := bytes.Clone(whole)
			clear(zeros[at : at+hole])
			check(zeros, "a page missing", at)
		}
	}
	check(append(bytes.Clone(whole), make([]byte, 5000)...), "zeros", len(whole))
}

// After a clean close every byte is vouched for: any change is an error that
// names the place and the way out. Only the mark of the close itself may be
// taken for a torn tail.
func TestDamageIsNotTakenForATornTail(t *testing.T) {
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1, 2, 3)
	ok(t, d.Delete(t.Context(), 2))
	last := int(d.log.size())
	ok(t, d.Close())
	whole := disk.image()
	for at := range whole {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		back, err := load(flipped)
		switch {
		case at >= last:
			if err != nil {
				t.Fatalf("flip in the last mark: %v", err)
			}
			if slots := slotsOf(t, back); len(slots) != 2 {
				t.Fatalf("flip in the last mark: keys %v", slots)
			}
		case err == nil:
			t.Fatalf("flip at byte %d of %d went unnoticed", at, len(whole))
		case !strings.Contains(err.Error(), "keys come back from the cluster"):
			t.Fatalf("flip at byte %d: the error names no way out: %v", at, err)
		}
	}
	var found *damage
	flipped := bytes.Clone(whole)
	flipped[last-1] ^= 1
	if _, err := load(flipped); !errors.As(err, &found) || found.offset >= int64(last) || found.offset < int64(headerSize) {
		t.Errorf("damage in the last record: %v", err)
	}
}

// frames splits a file into its header and records.
func frames(content []byte) (header []byte, records [][]byte) {
	header, rest := content[:headerSize], content[headerSize:]
	for len(rest) > 0 {
		n := frameSize + int(binary.BigEndian.Uint32(rest[8:]))
		records, rest = append(records, rest[:n]), rest[n:]
	}
	return header, records
}

func join(header []byte, records ...[]byte) []byte {
	return append(bytes.Clone(header), bytes.Join(records, nil)...)
}

func TestRecordsStayInTheirFileAndOrder(t *testing.T) {
	disk := &testDisk{}
	d := onDisk(t, disk)
	generate256(t, d, 1, 2, 3)
	ok(t, d.Close())
	header, records := frames(disk.image())
	n := len(records)

	other := &testDisk{}
	generate256(t, onDisk(t, other), 1, 2, 3)
	foreignHeader, foreign := frames(other.image())

	without := func(i int) [][]byte { return append(append([][]byte{}, records[:i]...), records[i+1:]...) }
	swapped := append([][]byte{}, records...)
	swapped[n-3], swapped[n-2] = swapped[n-2], swapped[n-3]
	mixed := append([][]byte{}, records...)
	mixed[n-2] = foreign[n-2]
	for what, content := range map[string][]byte{
		"a record dropped in the middle": join(header, without(n-3)...),
		"the first record dropped":       join(header, without(0)...),
		"records swapped":                join(header, swapped...),
		"a record of another file":       join(header, mixed...),
		"a record repeated":              join(header, append(append([][]byte{}, records[:n-2]...), records[n-3:]...)...),
		"another file's header":          join(foreignHeader, records...),
		"no record at all":               header,
		"half a header":                  header[:10],
		"nothing":                        {},
		"something else":                 []byte(strings.Repeat("not a device ", 100)),
	} {
		if back, err := load(content); err == nil {
			t.Errorf("%s: opens with slots %v", what, slotsOf(t, back))
		}
	}
}

func TestReplayRefusesWhatNoDeviceWrites(t *testing.T) {
	key := keyRecord{slot: 1, keyType: hsm.AES128, private: make([]byte, 16)}.encode()
	unknownType := bytes.Clone(key)
	unknownType[5] = 99
	state := newState("KCS1").encode()
	for what, records := range map[string][][]byte{
		"no state first":       {key},
		"a slot made twice":    {state, key, key},
		"an empty slot erased": {state, encodeDelete(1)},
		"an unknown kind":      {state, {77}},
		"an unknown key type":  {state, unknownType},
		"an empty record":      {state, {}},
		"a short state":        {state[:20]},
		"a slot beyond all":    {state, keyRecord{slot: MaxSlots + 1, keyType: hsm.AES128, private: make([]byte, 16)}.encode()},
	} {
		l := &log{box: testBox, media: &memory{}}
		if _, err := l.rewrite(l.box, len(records), func(i int) ([]byte, error) { return bytes.Clone(records[i]), nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := load(l.media.(*memory).data); err == nil {
			t.Errorf("%s: opens", what)
		}
	}
}

// What was cut off stays off, also where a new record ends exactly where an old
// one begins, which would open there.
func TestCutRecordsDoNotComeBack(t *testing.T) {
	disk := &testDisk{}
	l := &log{box: testBox, media: disk}
	_, err := l.rewrite(l.box, 1, func(int) ([]byte, error) { return []byte("first"), nil })
	ok(t, err)
	ok(t, l.sync(t.Context()))
	at, err := l.append([]byte("torn "))
	ok(t, err)
	_, err = l.append([]byte("lost "))
	ok(t, err)
	disk.data[at.end()-1] ^= 1

	for _, want := range [][]string{{"first", "\x04"}, {"first", "\x04", "later"}} {
		l = &log{box: testBox, media: disk}
		var got []string
		ok(t, l.open(func(_ place, record []byte) error {
			got = append(got, string(record))
			return nil
		}))
		if !slices.Equal(got, want) {
			t.Fatalf("records %q, want %q", got, want)
		}
		_, err = l.append([]byte("later"))
		ok(t, err)
		ok(t, l.sync(t.Context()))
	}
}
