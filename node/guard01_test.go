package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Raft's error and the state's are two: a command that Raft committed and the
// state refused is a refusal to whoever proposed it, at the leader and at the
// others.
func TestGuard01ARefusalOfTheStateReachesTheCaller(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 2, nodetest.Options{Blank: true})
		for what, m := range map[string]*nodetest.Member{"leader": c.Leader(), "follower": c.Follower()} {
			// The leader refuses what its state refuses now. Of many at the same time
			// some are refused only where they are applied.
			for round := 0; ; round++ {
				if round == 100 {
					t.Fatalf("%s: nothing was committed and then refused", what)
				}
				if refusedByApply(t, c, m, fmt.Sprintf("%s-%d", what, round)) > 0 {
					break
				}
			}
		}
	})
}

// refusedByApply has many tokens of one fingerprint proposed at the same time, of
// which one is made. It returns how many of the others were committed.
func refusedByApply(t *testing.T, c *nodetest.Cluster, m *nodetest.Member, name string) int {
	t.Helper()
	const many = 20
	before := m.View().Index()
	body := &fsm.TokenCreate{Name: name, Expires: m.Now().UnixMilli() + 3_600_000}
	copy(body.Fingerprint[:], fmt.Sprintf("%32s", name))
	outcomes := make([]error, many)
	var proposers sync.WaitGroup
	for i := range many {
		proposers.Go(func() { outcomes[i] = m.ProposeAs(context.Background(), c.Operators[0].Public().Fingerprint(), body) })
	}
	proposers.Wait()
	made := 0
	for _, err := range outcomes {
		var refused *fsm.Error
		switch {
		case err == nil:
			made++
		case !errors.As(err, &refused) || refused.Code != fsm.Exists:
			t.Errorf("refused with %v, want %v", err, fsm.Exists)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d were told that they made the token", made, many)
	}
	return int(m.View().Index()-before) - 1
}

// And nothing else gives Raft a command, or reads what became of one.
func TestGuard01NobodyButProposeCallsApply(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string][]string{}
	for what, pattern := range map[string]string{
		"a Raft":           `\*raft\.Raft\b`,
		"Apply":            `\braft\.Apply(Log)?\(`,
		"an ApplyFuture":   `\braft\.ApplyFuture\b`,
		"propose to a log": `\blog\.Propose\(`,
	} {
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for range regexp.MustCompile(pattern).FindAll(content, -1) {
				calls[what] = append(calls[what], file)
			}
		}
	}
	for what, want := range map[string][]string{
		"a Raft":           {"raft.go"},
		"Apply":            {"raftpropose.go"},
		"an ApplyFuture":   {"raftpropose.go", "raftpropose.go"},
		"propose to a log": {"propose.go"},
	} {
		if !slices.Equal(calls[what], want) {
			t.Errorf("%s is in %v, want %v: only propose knows both errors", what, calls[what], want)
		}
	}
}
