package node_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A backup has everything that was acknowledged before it was asked for, at any
// member; without a majority there is none.
func TestABackupIsOfTheNewestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		operator := browse(t, c, c.Operators[0].Key)
		makeKeys(t, c.Leader(), "k", 3)
		m := c.Follower()
		taken := operator.get(m, "/v1/cluster/backup")
		if taken.status != 200 || taken.header.Get("Content-Type") != api.TypeBackup || taken.header.Get(api.HeaderStateAge) != "0" {
			t.Fatalf("%d %v: %.200s", taken.status, taken.header, taken.body)
		}
		b, err := fsm.ReadBackup(bytes.NewReader(taken.body))
		if err != nil {
			t.Fatal(err)
		}
		view := b.Machine.State()
		if b.Node != m.ID() || b.Cluster != m.Cluster() || b.Time != time.Now().UnixMilli() || view.Count(fsm.TableKeys) != 3 {
			t.Errorf("%+v, %d keys", b.BackupStatement, view.Count(fsm.TableKeys))
		}
		set, _ := m.View().Cluster()
		if !b.HasSet(set.Operators) {
			t.Error("it lacks the operators")
		}
		wantCode(t, operator.get(m, "/v1/cluster/backup?x=1"), api.CodeBadRequest)
		for _, o := range c.Members {
			if o != m {
				o.Crash()
			}
		}
		time.Sleep(10 * time.Second)
		wantCode(t, operator.get(m, "/v1/cluster/backup"), api.CodeNoQuorum)
	})
}
