package fsm_test

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// Any sequence of commands, legal or not, repeated or not, with a clock that
// jumps: a machine restored in the middle ends where the others end, and every
// machine gives the same answers.
func TestReplayLawHoldsForAnyCommands(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		l := ready(t, 2)
		length := rapid.IntRange(1, 40).Draw(r, "length")
		cut := rapid.IntRange(0, length-1).Draw(r, "cut")
		var other *fsm.Machine
		for i := range length {
			if i == cut {
				other = fsm.New()
				if err := other.Restore(bytes.NewReader(written(t, l.machine))); err != nil {
					r.Fatal(err)
				}
			}
			var command []byte
			if i > 0 && rapid.IntRange(0, 4).Draw(r, "repeat") == 0 {
				command = l.log[len(l.log)-rapid.IntRange(1, i).Draw(r, "back")]
			} else {
				c := l.as(l.nodes[0], l.nodes[0], nil)
				actor := rapid.SampledFrom([]person{l.nodes[0], l.nodes[1], l.alice, newPerson("stranger")}).Draw(r, "actor")
				c.Actor.Who, c.Body = actor.fingerprint(), l.anyKeyCommand(r)
				c.Time += rapid.Int64Range(-1000, 1000).Draw(r, "clock")
				var err error
				if command, err = fsm.Encode(c); err != nil {
					r.Fatal(err)
				}
			}
			l.index++
			l.log = append(l.log, command)
			result := l.machine.Apply(l.index, command)
			if result.Fatal != nil {
				r.Fatal(result.Fatal)
			}
			if other == nil {
				continue
			}
			if again := other.Apply(l.index, command); fmt.Sprint(again) != fmt.Sprint(result) {
				r.Fatalf("answers differ: %+v, %+v", result, again)
			}
			if other.Digest() != l.machine.Digest() {
				r.Fatalf("states differ after %x", command)
			}
		}
		if restored := written(t, other); !bytes.Equal(restored, written(t, l.machine)) {
			r.Fatal("snapshots differ")
		}
	})
}

func (l *lab) anyKeyCommand(r *rapid.T) fsm.Body {
	name := rapid.SampledFrom([]string{"a", "b", "c/d"}).Draw(r, "name")
	version := rapid.Uint64Range(0, 3).Draw(r, "version")
	ref := fsm.VersionRef{N: max(version, 1)}
	if key, ok := l.machine.State().Key(name); ok {
		ref.Key = key.ID
	}
	a := l.nodes[0]
	switch rapid.IntRange(0, 10).Draw(r, "command") {
	case 0, 1:
		return l.keyCreate(name)
	case 2:
		return &fsm.KeyRotate{Name: name, Material: l.material(a)}
	case 3:
		return &fsm.KeyState{Name: name, Version: version, Disable: rapid.Bool().Draw(r, "disable")}
	case 4:
		return &fsm.KeyDelete{Name: name, Version: version, After: rapid.Int64Range(0, 3).Draw(r, "after")}
	case 5:
		return &fsm.KeyUndelete{Name: name, Version: version}
	case 6:
		return &fsm.Destroy{Items: []fsm.VersionRef{ref}}
	case 7:
		return &fsm.DestroyConfirm{Node: a.id, Serial: "node-a-device", Items: []fsm.VersionRef{ref}}
	case 8:
		return &fsm.Cover{Node: a.id, Serial: "node-a-device", Add: []fsm.VersionRef{ref}}
	case 9:
		return &fsm.DestroyExcept{Items: []fsm.VersionRef{ref}, Nodes: []dkek.NodeID{a.id, l.nodes[1].id}}
	}
	return &fsm.MemberReport{Node: a.id, ReadsTo: 1, Device: &fsm.Device{Kind: "soft", Serial: rapid.SampledFrom([]string{"node-a-device", "x"}).Draw(r, "serial")}}
}
