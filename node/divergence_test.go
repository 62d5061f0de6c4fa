package node_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A node whose state is not what the others have agreed on stops by itself, and
// those go on.
func TestANodeThatDiffersStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		m := l.Follower()
		l.create(l.Leader(), "k", hsm.Ed25519)
		if err := l.Leader().LabelKey(t.Context(), "k", map[string]string{"colour": "green"}); err != nil {
			t.Fatal(err)
		}
		l.Eventually("it has that", func() bool { return m.View().Index() >= l.Leader().View().Index() })
		m.Crash()
		node.AlterLog(t, m.Config.Memory, "green", "brown")
		m.Start()
		time.Sleep(2 * time.Minute)
		if err := m.Err(); err == nil || !strings.Contains(err.Error(), "differs") {
			t.Errorf("it goes on: %v", err)
		}
		for _, other := range others(l.Cluster, m) {
			if err := other.Err(); err != nil {
				t.Errorf("%s stopped: %v", other.Name, err)
			}
		}
		if err := l.Leader().LabelKey(t.Context(), "k", nil); err != nil && !errors.Is(err, node.ErrOutcomeUnknown) {
			t.Errorf("the others: %v", err)
		}
	})
}
