package node

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// snapshotOnly are stores whose log begins with a snapshot at an entry: what a
// recovery lays, and what a follower has that was sent one.
func snapshotOnly(t *testing.T, index, term uint64, ids ...string) *memoryStores {
	t.Helper()
	stores := new(memoryStores).open()
	var members raft.Configuration
	for _, id := range ids {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress("addr-" + id)})
	}
	_, addresses := raft.NewInmemTransport("")
	sink, err := stores.snapshots.Create(raft.SnapshotVersionMax, index, term, members, index, addresses)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(sink, `["before"]`)
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stores.log.SetUint64([]byte(keyCurrentTerm), term); err != nil {
		t.Fatal(err)
	}
	return stores
}

// A follower has entries behind a snapshot that were never committed, and not the
// entry that the snapshot ends with: so has a leader that fell soon after a
// recovery. It takes the others' entries; Raft alone would send it the snapshot
// for ever.
func TestGuard08ATailBehindABareSnapshotGivesWay(t *testing.T) {
	for name, has := range map[string]struct {
		snapshot, term uint64
		entries        []uint64 // terms of those behind it
	}{
		"from its start":             {100, 5, []uint64{6, 6}},
		"sent while it runs":         {98, 4, []uint64{4, 4, 4, 4}},
		"sent, and its log is short": {98, 4, []uint64{4}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := newTestCluster(t)
				var nodes []*testNode
				for _, id := range []string{"a", "b", "c"} {
					stores := snapshotOnly(t, 100, 5, "a", "b", "c")
					if id == "c" {
						stores = snapshotOnly(t, has.snapshot, has.term, "a", "b", "c")
						for i, term := range has.entries {
							cluster.must(stores.log.StoreLog(&raft.Log{Index: has.snapshot + 1 + uint64(i), Term: term, Type: raft.LogCommand, Data: []byte("lost")}))
						}
					}
					cluster.must(stores.log.SetUint64([]byte(keyCurrentTerm), 6))
					cluster.must(stores.log.Set([]byte(keyOwner), []byte(id+" ")))
					nodes = append(nodes, cluster.start(id, func(config *raftConfig) {
						config.Memory = stores
						config.Fatal = func(err error) { // a loop that takes no time is broken by nothing else
							t.Error(err)
							cluster.isolate(&testNode{id: id})
						}
					}))
				}
				c := nodes[2]
				cluster.isolate(c)
				leader := cluster.leader(nodes[0], nodes[1])
				_, err := leader.propose("after")
				cluster.must(err)
				cluster.heal()
				cluster.until(func() bool { return slices.Equal(c.state.values(), []string{"before", "after"}) })
			})
		})
	}
}

type badMachine struct{ machine }

func (badMachine) Restore(io.Reader) error { return errors.New("a snapshot that does not verify") }

// A snapshot that cannot be restored must not have cost the log.
func TestASnapshotThatDoesNotVerifyCostsNoLog(t *testing.T) {
	log := raft.NewInmemStore()
	for i := uint64(1); i <= 50; i++ {
		log.StoreLog(&raft.Log{Index: i, Term: 1, Type: raft.LogCommand})
	}
	seam := &seamLog{LogStore: log}
	m := &raftMachine{id: "a", machine: badMachine{}, mark: &mark{}, joins: seam.join, inARow: -1, fail: func(error) {}}
	store := &snapshotStore{raft.NewInmemSnapshotStore()}
	_, addresses := raft.NewInmemTransport("")
	sink, err := store.Create(1, 100, 3, raft.Configuration{}, 1, addresses)
	if err != nil {
		t.Fatal(err)
	}
	sink.Write([]byte("garbage"))
	sink.Close()
	_, content, err := store.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if m.Restore(content) == nil {
		t.Fatal("restored")
	}
	last, _ := log.LastIndex()
	var e raft.Log
	err = seam.GetLog(100, &e)
	if last != 50 || err == nil {
		t.Error("the log was dropped, and the end of a snapshot that was not restored is answered for")
	}
}
