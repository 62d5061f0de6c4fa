package fsm_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
)

// Another program, written from docs/format.md alone, reads what this one wrote.
func TestAnotherProgramReadsOurFormats(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is not installed: make deps")
	}
	l := story(t)
	run := func(what string, content []byte, into any) {
		t.Helper()
		file := filepath.Join(t.TempDir(), what)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(python, "testdata/decode.py", what, file).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
	}
	var got struct {
		Digest, Cluster string
		Index           uint64
		Counts          []int
		Members, Keys   []string
		Opens           []fsm.CeremonyKind
	}
	run("snapshot", written(t, l.machine), &got)
	v := l.machine.State()
	if got.Digest != v.Digest().String() || got.Cluster != "lab" || got.Index != v.Index() || !slices.Equal(got.Keys, []string{"app/one"}) {
		t.Errorf("snapshot: got %+v", got)
	}
	if len(got.Members) != 3 || len(got.Opens) != v.Count(fsm.TableCeremonies) || got.Counts[15] != v.Count(fsm.TableAudit) {
		t.Errorf("snapshot: got %+v", got)
	}
	kinds := []fsm.Kind{fsm.KindInit, fsm.KindCeremonyOpen, fsm.KindDealingRecord, fsm.KindKeyCreate, fsm.KindCover}
	for _, command := range l.log {
		at := slices.Index(kinds, fsm.Kind(command[1]))
		if at < 0 {
			continue
		}
		kinds = slices.Delete(kinds, at, at+1) // one of each: every one is a process
		var got struct {
			Kind    fsm.Kind
			Message map[string]any
		}
		run("command", command, &got)
		c, _ := fsm.Decode(command)
		if got.Kind != c.Body.Kind() || got.Message["1"] != c.Request.String() || got.Message["2"] != float64(c.Time) || got.Message["4"] != hex.EncodeToString(c.Actor.Node[:]) {
			t.Fatalf("command: got %+v, want %+v", got, c)
		}
	}
	if len(kinds) > 0 {
		t.Errorf("the story has no commands of kinds %v", kinds)
	}
}
