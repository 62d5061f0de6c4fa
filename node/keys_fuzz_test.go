package node

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// FuzzParseTag: whatever lies in a device, a tag that is read is written the same.
func FuzzParseTag(f *testing.F) {
	f.Add(objectTag{fsm.RequestID{1}, 2, 3}.bytes())
	f.Add(make([]byte, tagSize))
	f.Fuzz(func(t *testing.T, in []byte) {
		tag, ok := parseTag(in)
		if ok && !bytes.Equal(tag.bytes(), in) {
			t.Fatalf("%x became %x", in, tag.bytes())
		}
	})
}

// FuzzParseRuns: no file makes the runs overlap or run backwards.
func FuzzParseRuns(f *testing.F) {
	f.Add([]byte(`{"format":1,"serial":"A","runs":[[1,64],[70,80]]}`))
	f.Add([]byte(`{"format":1,"runs":[[5,1]]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		runs, err := parseRuns(in)
		if err != nil {
			return
		}
		last := hsm.Slot(0)
		for _, run := range runs.Runs {
			if run[0] <= last || run[1] < run[0] {
				t.Fatalf("runs out of order: %v", runs.Runs)
			}
			last = run[1]
		}
	})
}

// FuzzSplitVersion: a name is never mistaken for a version or the other way round.
func FuzzSplitVersion(f *testing.F) {
	for _, seed := range []string{"k", "k@1", "k@", "@1", "k@0001", "k@1@2", "k@18446744073709551617"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		name, version, err := splitVersion(ref)
		if err != nil {
			return
		}
		if strings.Contains(name, "@") || (version == 0) != !strings.Contains(ref, "@") || version > 999_999 {
			t.Fatalf("%q is %q version %d", ref, name, version)
		}
	})
}
