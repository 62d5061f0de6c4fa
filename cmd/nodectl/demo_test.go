package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// The demo proves every step of the story or fails; it leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"demo"}, streams{strings.NewReader(""), &out, &errs}, os.Getenv, nil)
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out.String(), errs.String())
	}
	if n := strings.Count(out.String(), "\n  ok  "); n != 29 {
		t.Errorf("%d things, want 29, were proven:\n%s", n, out.String())
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
