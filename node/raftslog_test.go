package node_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A member that is away is complained about, and does not fill the disk.
func TestADeadMemberFillsNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lockedBuffer{}
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
		c.Follower().Crash()
		before := strings.Count(string(log.Bytes()), "\n")
		time.Sleep(10 * time.Minute)
		text := string(log.Bytes())
		if lines := strings.Count(text, "\n") - before; lines > 100 {
			t.Errorf("%d lines in ten minutes", lines)
		}
		if !strings.Contains(text, "failed to heartbeat") || !strings.Contains(text, "omitted=") {
			t.Error("nothing says that a member is away")
		}
	})
}
