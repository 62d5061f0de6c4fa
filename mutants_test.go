package keycustodian_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var runMutants = flag.Bool("mutants", false, "break the product in every way of docs/mutants.md and see the named test go red")

// mutant is one section of docs/mutants.md: the product with one guard taken out.
type mutant struct {
	name     string // the section's title
	file     string
	pkg      string // a folder
	test     string // the function in pkg that goes red, a subtest after a slash
	old, new string // whole lines of file
}

const mutantsFile = "docs/mutants.md"

// sectionOf reads "### name", "Seen by `pkg` `Test`." and a diff whose first line
// is "--- file".
var sectionOf = regexp.MustCompile("(?s)^(.+?)\n\n.*Seen by `([^`\n]+)` `([^`\n]+)`\\.\n\n```diff\n--- ([^\n]+)\n(.+)```\n")

func readMutants(t *testing.T) []mutant {
	t.Helper()
	text, err := os.ReadFile(mutantsFile)
	if err != nil {
		t.Fatal(err)
	}
	var list []mutant
	for i, section := range strings.Split(string(text), "\n### ")[1:] {
		parts := sectionOf.FindStringSubmatch(section)
		if parts == nil {
			title, _, _ := strings.Cut(section, "\n")
			t.Fatalf("%s: section %d, %q, does not read as a mutant", mutantsFile, i+1, title)
		}
		m := mutant{name: parts[1], pkg: parts[2], test: parts[3], file: parts[4]}
		for line := range strings.Lines(parts[5]) {
			text := line[1:]
			switch line[0] {
			case ' ':
				m.old, m.new = m.old+text, m.new+text
			case '-':
				m.old += text
			case '+':
				m.new += text
			default:
				t.Fatalf("%s: %s: the line %q of its diff begins with none of space, - and +", mutantsFile, m.name, line)
			}
		}
		list = append(list, m)
	}
	return list
}

// mutate returns the file with the guard taken out. The lines must be in it
// exactly once.
func (m *mutant) mutate() (string, error) {
	content, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	text := "\n" + string(content)
	if n := strings.Count(text, "\n"+m.old); n != 1 {
		return "", fmt.Errorf("the lines to change are %d times in %s: want once", n, m.file)
	}
	return strings.Replace(text, "\n"+m.old, "\n"+m.new, 1)[1:], nil
}

// function is the test without its subtest.
func (m *mutant) function() string {
	name, _, _ := strings.Cut(m.test, "/")
	return name
}

// The list of mutants is true of the code as it is: what each changes is there
// once, and the test that must see it exists.
func TestMutantsFit(t *testing.T) {
	names := make(map[string]bool)
	for _, m := range readMutants(t) {
		if names[m.name] {
			t.Errorf("two mutants are called %q", m.name)
		}
		names[m.name] = true
		if _, err := m.mutate(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if m.old == m.new {
			t.Errorf("%s: it changes nothing", m.name)
		}
		if !testsHave(t, m.pkg, "\nfunc "+m.function()+"(t *testing.T) {") {
			t.Errorf("%s: package %s has no test %s", m.name, m.pkg, m.function())
		}
	}
}

func testsHave(t *testing.T, pkg, text string) bool {
	t.Helper()
	files, err := filepath.Glob(pkg + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		content, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(content), text)
	})
}

// With each guard taken out, its test goes red; with none, all are green. Nothing
// on disk is changed: the compiler is told to read one file from elsewhere.
func TestMutantsAreSeen(t *testing.T) {
	if !*runMutants {
		t.Skip("takes long: make mutants")
	}
	mutants := readMutants(t)
	tests := make(map[string]map[string]bool) // by package
	for _, m := range mutants {
		if tests[m.pkg] == nil {
			tests[m.pkg] = make(map[string]bool)
		}
		tests[m.pkg][m.function()] = true
	}
	t.Run("none", func(t *testing.T) {
		for pkg, names := range tests {
			pattern := "^(" + strings.Join(slices.Sorted(maps.Keys(names)), "|") + ")$"
			if out, err := runTests(t, compile(t, pkg, ""), pkg, pattern); err != nil {
				t.Fatalf("%s: red with nothing taken out: %v\n%s", pkg, err, out)
			}
		}
	})
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.see(t)
		})
	}
}

func (m *mutant) see(t *testing.T) {
	text, err := m.mutate()
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), filepath.Base(m.file))
	original, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "overlay.json")
	if err := errors.Join(os.WriteFile(changed, []byte(text), 0o600), os.WriteFile(list, overlay, 0o600)); err != nil {
		t.Fatal(err)
	}
	pattern := "^" + strings.ReplaceAll(m.test, "/", "$/^") + "$"
	out, err := runTests(t, compile(t, m.pkg, list), m.pkg, pattern)
	if why := notSeen(m.test, out, err); why != "" {
		t.Errorf("%s: %s: %v\n%s", m.test, why, err, out)
		return
	}
	t.Logf("%s is red: %s", m.test, firstComplaint(out))
}

// notSeen says why a run of one test's binary, with what it printed, is none in which
// that test went red; "" where it is. A test is red that says so, or that was under
// way when another goroutine ended the process by a panic.
func notSeen(test, out string, err error) string {
	verdict := regexp.MustCompile(`(?m)^ *--- (FAIL|PASS|SKIP): ` + regexp.QuoteMeta(test) + ` \(`).FindStringSubmatch(out)
	began := regexp.MustCompile(`(?m)^=== RUN +` + regexp.QuoteMeta(test) + `$`).MatchString(out)
	switch failed := new(exec.ExitError); {
	case err == nil:
		return "it survives"
	case !errors.As(err, &failed):
		return "the test did not run"
	case strings.Contains(out, "panic: test timed out"):
		return "it neither passes nor fails"
	case verdict != nil && verdict[1] == "FAIL", verdict == nil && began && crashed.MatchString(out):
		return ""
	case verdict != nil:
		return "something else failed, and the test did not"
	}
	return "the run ended before the test did"
}

var crashed = regexp.MustCompile(`(?m)^(panic|fatal error): `)

// What counts as seen is a failure of the very test that is named.
func TestMutantsAreSeenByTheirTests(t *testing.T) {
	exit := exec.Command("false").Run()
	const name = "TestGuard/of a door"
	for _, test := range []struct {
		name, out string
		err       error
		seen      bool
	}{
		{"red", "=== RUN   TestGuard/of a door\n    guard_test.go:1: open\n--- FAIL: TestGuard (0.00s)\n    --- FAIL: TestGuard/of a door (0.00s)\nFAIL\n", exit, true},
		{"a panic in the test", "=== RUN   TestGuard/of a door\n--- FAIL: TestGuard (0.00s)\n    --- FAIL: TestGuard/of a door (0.00s)\npanic: open [recovered]\n", exit, true},
		{"a panic beside the test", "=== RUN   TestGuard/of a door\npanic: open\n\ngoroutine 7 [running]:\n", exit, true},
		{"green", "=== RUN   TestGuard/of a door\n    --- PASS: TestGuard/of a door (0.00s)\nPASS\n", nil, false},
		{"skipped, and another is red", "=== RUN   TestGuard/of a door\n--- FAIL: TestGuard (0.00s)\n    --- SKIP: TestGuard/of a door (0.00s)\nFAIL\n", exit, false},
		{"green, and another is red", "=== RUN   TestGuard/of a door\n--- FAIL: TestGuard (0.00s)\n    --- PASS: TestGuard/of a door (0.00s)\n    --- FAIL: TestGuard/of a door, too (0.00s)\nFAIL\n", exit, false},
		{"green, and then a panic", "=== RUN   TestGuard/of a door\n    --- PASS: TestGuard/of a door (0.00s)\npanic: closed\n", exit, false},
		{"a panic before the test", "panic: open\n\ngoroutine 1 [running]:\n", exit, false},
		{"it ends before the test does", "=== RUN   TestGuard/of a door\n", exit, false},
		{"one that begins with its name", "=== RUN   TestGuard/of a door, too\n    --- FAIL: TestGuard/of a door, too (0.00s)\nFAIL\n", exit, false},
		{"in time out", "=== RUN   TestGuard/of a door\npanic: test timed out after 5m0s\n--- FAIL: TestGuard/of a door (300.00s)\n", exit, false},
		{"no test", "no such file", errors.New("no such file"), false},
	} {
		if why := notSeen(name, test.out, test.err); (why == "") != test.seen {
			t.Errorf("%s: %q", test.name, why)
		}
	}
}

// compile builds a package's tests, with an overlay where one is named.
func compile(t *testing.T, pkg, overlay string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(pkg)+".test")
	args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if out, err := exec.Command("go", append(args, "./"+pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("it does not compile: %v\n%s", err, out)
	}
	return binary
}

func runTests(t *testing.T, binary, pkg, pattern string) (string, error) {
	t.Helper()
	args := []string{"-test.run", pattern, "-test.timeout", "5m", "-test.v"}
	if testsHave(t, pkg, `"pgregory.net/rapid"`) {
		args = append(args, "-rapid.nofailfile")
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = pkg
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "no tests to run") {
		t.Fatalf("%s has no test %s", pkg, pattern)
	}
	return string(out), err
}

var complaint = regexp.MustCompile(`(?m)^ *\w+_test\.go:\d+: .*|^panic: .*|^fatal error: .*`)

func firstComplaint(out string) string {
	if line := strings.TrimSpace(complaint.FindString(out)); line != "" {
		return line
	}
	first, _, _ := strings.Cut(out, "\n")
	return first
}
