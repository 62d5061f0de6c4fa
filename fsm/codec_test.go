package fsm_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

func isUnknown(err error) bool { return errors.Is(err, fsm.ErrUnknownKind) }

func labelsCommand(t testing.TB) []byte {
	t.Helper()
	encoded, err := fsm.Encode(fsm.Command{
		Header: fsm.Header{Request: fsm.RequestID{1}, Time: 7},
		Body:   &fsm.KeyLabels{Name: "k", Labels: []fsm.Label{{Key: "a", Value: "b"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// A command has one encoding; every other that means the same is refused.
func TestDecodeIsStrict(t *testing.T) {
	good := labelsCommand(t)
	if _, err := fsm.Decode(good); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("%x is not in %x", old, good)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for name, bad := range map[string][]byte{
		"empty":             {},
		"no kind":           {1},
		"truncated":         good[:len(good)-1],
		"trailing byte":     append(slices.Clone(good), 0),
		"another format":    append([]byte{2}, good[1:]...),
		"unknown kind":      append([]byte{1, 200}, good[2:]...),
		"kind zero":         append([]byte{1, 0}, good[2:]...),
		"another kind":      append([]byte{1, byte(fsm.KindKeyDelete)}, good[2:]...),
		"too large":         append(slices.Clone(good), make([]byte, fsm.MaxCommand)...),
		"time as a float":   replace("\x02\x07", "\x02\xf9\x47\x00"),
		"long integer":      replace("\x02\x07", "\x02\x18\x07"),
		"tagged time":       replace("\x02\x07", "\x02\xc1\x07"),
		"null request":      replace("\x02\x07", "\x02\xf6"),
		"keys out of order": replace("\xa5\x01\x50\x01"+strings.Repeat("\x00", 15)+"\x02\x07", "\xa5\x02\x07\x01\x50\x01"+strings.Repeat("\x00", 15)),
		"duplicate key":     replace("\x02\x07", "\x01\x07"),
		"unknown field":     replace("\xa5", "\xa6"),
	} {
		if c, err := fsm.Decode(bad); err == nil {
			t.Errorf("%s: decoded to %+v", name, c)
		}
	}
	for name, change := range map[string][2]string{
		"indefinite array":    {"\x02\x81\xa2\x01\x61a\x02\x61b", "\x02\x9f\xa2\x01\x61a\x02\x61b\xff"},
		"indefinite map":      {"\xa2\x01\x61k", "\xbf\x01\x61k"},
		"unknown body field":  {"\x01\x61k", "\x09\x61k"},
		"bytes for text":      {"\x01\x61k", "\x01\x41k"},
		"not UTF-8":           {"\x01\x61k", "\x01\x61\xff"},
		"empty list, written": {"\x02\x81\xa2\x01\x61a\x02\x61b", "\x02\x80"},
	} {
		if c, err := fsm.Decode(replace(change[0], change[1])); err == nil {
			t.Errorf("%s: decoded to %+v", name, c)
		}
	}
}

func TestStampReplacesOnlyTheTime(t *testing.T) {
	good := labelsCommand(t)
	stamped, err := fsm.Stamp(good, time.UnixMilli(start))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := fsm.Decode(good)
	want.Time = start
	got, err := fsm.Decode(stamped)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestEncodeRefusesOversize(t *testing.T) {
	body := &fsm.KeyLabels{Name: strings.Repeat("k", fsm.MaxCommand)}
	if _, err := fsm.Encode(fsm.Command{Body: body}); !errors.Is(err, fsm.BadRequest) {
		t.Fatalf("got %v", err)
	}
}

// What cannot be read at the cluster's command version is no command in any
// build: it is passed over, and a later command is applied.
func TestUnreadableEntryIsPassedOver(t *testing.T) {
	for name, bad := range map[string][]byte{
		"unknown kind": {1, 99, 0xa0}, "unknown format": {9, 9}, "damaged": {1, byte(fsm.KindCover), 0xff}, "empty": {}, "too large": make([]byte, fsm.MaxCommand+1),
	} {
		l := ready(t, 1)
		before := l.machine.Digest()
		l.index++
		result := l.machine.Apply(l.index, bad)
		if result.Fatal != nil || result.Err == nil || len(result.Changes) > 0 {
			t.Fatalf("%s: %+v", name, result)
		}
		if l.machine.Digest() != before || l.machine.AppliedIndex() != l.index {
			t.Errorf("%s: the state changed, or index %d is not %d", name, l.machine.AppliedIndex(), l.index)
		}
		l.createKey("k")
	}
}

// At a command version that this build does not read, nothing is skipped.
func TestLaterCommandVersionIsFatal(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	l.self(a, &fsm.MemberReport{Node: a.id, ReadsTo: fsm.CommandVersion + 1})
	l.self(a, &fsm.VersionRaise{Version: fsm.CommandVersion + 1})
	before := l.machine.Digest()
	good, err := fsm.Encode(l.as(a, a, l.keyCreate("k")))
	if err != nil {
		t.Fatal(err)
	}
	for i, command := range [][]byte{{1, 99, 0xa0}, good} {
		result := l.machine.Apply(l.index+1+uint64(i), command)
		if !isUnknown(result.Fatal) || l.machine.Digest() != before || l.machine.AppliedIndex() != l.index {
			t.Fatalf("%+v", result)
		}
	}
}

// FuzzApply feeds any bytes to two machines with the same state: no panic, and
// they agree.
func FuzzApply(f *testing.F) {
	seeds := map[byte]bool{}
	for _, command := range story(f).log {
		if !seeds[command[1]] { // one of each kind
			seeds[command[1]] = true
			f.Add(command, uint16(0))
		}
	}
	l := ready(f, 1) // small: it is restored for every input
	var snapshot bytes.Buffer
	if _, err := l.machine.Snapshot().WriteTo(&snapshot); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, command []byte, flip uint16) {
		if int(flip) < len(command) {
			command = slices.Clone(command)
			command[flip] ^= 1 << (flip % 8)
		}
		if c, err := fsm.Decode(command); err == nil {
			again, err := fsm.Encode(c)
			if err != nil || !bytes.Equal(again, command) {
				t.Fatalf("decodes but encodes to %x, %v", again, err)
			}
			c.Request = fsm.RequestID{0xff, 1} // so that it is not a repetition
			if command, err = fsm.Encode(c); err != nil {
				return
			}
		}
		var results [2]fsm.Result
		var after [2]*fsm.Machine
		for i := range after {
			after[i] = fsm.New()
			if err := after[i].Restore(bytes.NewReader(snapshot.Bytes())); err != nil {
				t.Fatal(err)
			}
			results[i] = after[i].Apply(l.index+1, command)
		}
		if !reflect.DeepEqual(results[0], results[1]) && results[0].Fatal == nil || after[0].Digest() != after[1].Digest() {
			t.Fatalf("two machines differ: %+v, %+v", results[0], results[1])
		}
	})
}

// Bytes of real commands, changed at random: decoding and applying them never
// panics. The fuzz target above searches further.
func TestChangedCommandsDoNotPanic(t *testing.T) {
	l := story(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		command := slices.Clone(l.log[random.IntN(len(l.log))])
		command[random.IntN(len(command))] ^= byte(1 << random.IntN(8))
		c, err := fsm.Decode(command)
		if err != nil {
			continue
		}
		c.Request = l.requestID()
		if command, err = fsm.Encode(c); err != nil {
			continue
		}
		l.index++
		if result := l.machine.Apply(l.index, command); result.Fatal != nil {
			t.Fatalf("kind %d: %v", c.Body.Kind(), result.Fatal)
		}
	}
}
