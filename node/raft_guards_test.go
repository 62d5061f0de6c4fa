package node

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The numbers are those of the known traps of hashicorp/raft, in DESIGN.md.

func TestGuard03AFutureThatNeverComesEndsWithItsContext(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		_, a, _, _ := threeNodes(t)
		hang := make(chan struct{}) // the state hangs in Apply, and with it every future
		defer close(hang)
		a.state.mu.Lock()
		a.state.hang = hang
		a.state.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		done := make(chan error)
		go func() { _, err := a.Propose(ctx, []byte("x")); done <- err }()
		if err := <-done; !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("not an unknown outcome at the deadline: %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestGuard04AReadIsNeverStale(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		_, err := a.propose("old")
		cluster.must(err)
		cluster.isolate(a)
		// While a still believes that it leads it must not answer.
		if index, err := a.ReadIndex(t.Context()); err == nil {
			t.Errorf("an isolated leader gave read index %d", index)
		}
		leader := cluster.leader(b, c)
		applied, err := leader.propose("new")
		cluster.must(err)
		if _, err := a.ReadBarrier(t.Context()); err == nil {
			t.Error("an isolated node promised a fresh read")
		}
		cluster.heal()
		for _, n := range []*testNode{a, b, c} {
			cluster.until(func() bool { _, ok := n.Leader(); return ok })
			index, err := n.ReadBarrier(t.Context())
			cluster.must(err)
			if index < applied.Index || !slices.Contains(n.state.values(), "new") {
				t.Errorf("%s read at %d without entry %d: %v", n.id, index, applied.Index, n.state.values())
			}
		}
	})
}

// A heartbeat sent long before the question may be answered after it, by a member
// that follows another leader by now. It must not count.
func TestGuard04AnAnswerToAnOldHeartbeatDoesNotConfirmALeader(t *testing.T) {
	acks := newAckedTransport(heartbeatDuring{}, nil)
	servers := []raft.Server{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	var round uint64
	send := func(during func()) {
		acks.raftTransport = heartbeatDuring{during: during}
		_ = acks.AppendEntries("b", "", &raft.AppendEntriesRequest{Term: 7}, &raft.AppendEntriesResponse{})
	}
	send(func() { round = acks.begin() }) // the question comes while a heartbeat is on its way
	if acks.confirmed("a", servers, 7, round) {
		t.Error("confirmed by an answer to an older heartbeat")
	}
	send(func() {})
	if !acks.confirmed("a", servers, 7, round) {
		t.Error("not confirmed by an answer to a newer heartbeat")
	}
	if acks.confirmed("a", servers, 8, round) {
		t.Error("confirmed in another term")
	}
}

type heartbeatDuring struct {
	raftTransport
	during func()
}

func (h heartbeatDuring) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	h.during()
	response.Success, response.Term = true, request.Term
	return nil
}

func TestGuard05ALeaderThatCannotTakeOverHandsOn(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		var broken, lost atomic.Value // IDs of the nodes that cannot take over, and that let go last
		cluster, a, b, c := threeNodes(t, func(config *raftConfig) {
			id := config.ID
			config.Gained = func(context.Context, uint64) error {
				if id == broken.Load() {
					return errors.New("no duties today")
				}
				return nil
			}
			config.Lost = func() { lost.Store(id) }
		})
		broken.Store("b")
		cluster.isolate(a)
		cluster.until(func() bool { return lost.Load() == "a" })
		cluster.leader(c) // whoever was elected, c ends up as the leader that works
		if b.IsLeader() {
			t.Error("half a leader says that it leads")
		}
	})
}

func TestGuard06OneTransferATermAndOnlyToAPeerThatCaughtUp(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		cluster.mu.Lock() // nobody can be asked, nobody is a candidate
		cluster.cut[[2]string{"a", "b"}], cluster.cut[[2]string{"a", "c"}] = true, true
		cluster.mu.Unlock()
		if err := a.TransferLeadership(t.Context()); err == nil {
			t.Error("leadership went to a peer of unknown state")
		}
		cluster.heal()
		leader := cluster.leader(a, b, c)
		if !leader.transfer.claim(leader.raft.CurrentTerm()) {
			t.Fatal("a transfer was counted that was not tried")
		}
		if err := leader.TransferLeadership(t.Context()); err == nil {
			t.Error("a second transfer in one term")
		}
	})
}

func TestGuard06ATransferThatNeverEndsIsNoticed(t *testing.T) {
	var guard transferGuard
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	for ms := 0; ms <= 1500; ms += 100 {
		if guard.stuck(at(ms), 500*time.Millisecond) {
			t.Fatalf("stuck after %d ms", ms)
		}
	}
	if !guard.stuck(at(1600), 500*time.Millisecond) {
		t.Error("not stuck after 1.6 s")
	}
	if guard.stuck(at(60_000), 500*time.Millisecond) {
		t.Error("two transfers a minute apart count as one")
	}
}

// failingStore fails at the given write, and keeps what came before.
type failingStore struct {
	*raft.InmemStore
	writes, failAt int
}

func (s *failingStore) write(do func() error) error {
	if s.writes++; s.writes == s.failAt {
		return errors.New("crash")
	}
	return do()
}
func (s *failingStore) Set(k, v []byte) error {
	return s.write(func() error { return s.InmemStore.Set(k, v) })
}
func (s *failingStore) SetUint64(k []byte, v uint64) error {
	return s.write(func() error { return s.InmemStore.SetUint64(k, v) })
}

func TestGuard07AVoteIsOneWrite(t *testing.T) {
	for failAt := 2; failAt <= 4; failAt++ {
		store := &failingStore{InmemStore: raft.NewInmemStore(), failAt: failAt}
		vote := func(v *voteStore, term uint64, candidate string) error { // as Raft does it
			if err := v.SetUint64([]byte(keyVoteTerm), term); err != nil {
				return err
			}
			return v.Set([]byte(keyVoteCandidate), []byte(candidate))
		}
		if err := vote(&voteStore{StableStore: store}, 5, "x"); err != nil {
			t.Fatal(err)
		}
		wantTerm, want := uint64(6), "y"
		if vote(&voteStore{StableStore: store}, 6, "y") != nil {
			wantTerm, want = 5, "x"
		}
		again := &voteStore{StableStore: store} // after the crash
		term, err := again.GetUint64([]byte(keyVoteTerm))
		candidate, err2 := again.Get([]byte(keyVoteCandidate))
		if err != nil || err2 != nil || term != wantTerm || string(candidate) != want {
			t.Errorf("crash at write %d: vote of term %d for %q (%v, %v), not term %d for %q", failAt, term, candidate, err, err2, wantTerm, want)
		}
	}
}

func TestGuard08ALogThatDiffersFromItsSnapshotIsDropped(t *testing.T) {
	for name, test := range map[string]struct {
		entries map[uint64]uint64 // index to term; the snapshot is at 5, term 2
		want    []uint64          // indexes that stay
		last    uint64
		damaged bool
	}{
		"agrees":                   {map[uint64]uint64{4: 1, 5: 2, 6: 2}, []uint64{4, 5, 6}, 6, false},
		"other term":               {map[uint64]uint64{4: 1, 5: 1, 6: 1}, nil, 5, false},
		"ends before":              {map[uint64]uint64{1: 1, 2: 1}, nil, 5, false},
		"leftovers, then the tail": {map[uint64]uint64{1: 1, 2: 1, 6: 2, 7: 2}, []uint64{6, 7}, 7, false},
		"tail only":                {map[uint64]uint64{6: 2, 7: 2}, []uint64{6, 7}, 7, false},
		"gap after the snapshot":   {map[uint64]uint64{8: 2, 9: 2}, nil, 0, true},
		"gap in the tail":          {map[uint64]uint64{5: 2, 6: 2, 8: 2}, nil, 0, true},
		"empty":                    {nil, nil, 5, false},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := openBolt(t.TempDir()+"/log.db", false)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			for index, term := range test.entries {
				if err := store.StoreLog(&raft.Log{Index: index, Term: term}); err != nil {
					t.Fatal(err)
				}
			}
			snapshots := &snapshotStore{raft.NewInmemSnapshotStore()}
			_, transport := raft.NewInmemTransport("a")
			sink, _ := snapshots.Create(1, 5, 2, raft.Configuration{}, 1, transport)
			sink.Close()
			last, _, err := settleLog("log.db", store, snapshots)
			damaged := (*DamagedLogError)(nil)
			if errors.As(err, &damaged) != test.damaged || err != nil && !test.damaged {
				t.Fatalf("error %v", err)
			}
			if test.damaged {
				return
			}
			var got []uint64
			for index := uint64(1); index < 10; index++ {
				if store.GetLog(index, &raft.Log{}) == nil {
					got = append(got, index)
				}
			}
			if !slices.Equal(got, test.want) || last != test.last {
				t.Errorf("kept %v, last %d; want %v, last %d", got, last, test.want, test.last)
			}
		})
	}
}

func TestGuard08RepeatedRestoresStopTheNode(t *testing.T) {
	var failed error
	m := &raftMachine{id: "a", machine: &register{}, mark: &mark{}, joins: (&seamLog{LogStore: raft.NewInmemStore()}).join, inARow: -1, fail: func(err error) { failed = err }}
	restore := func() {
		t.Helper()
		content := &openSnapshot{io.NopCloser(jsonReader("[]")), raft.SnapshotMeta{Index: 9}}
		if err := m.Restore(content); err != nil {
			t.Fatal(err)
		}
		if m.applied.Load() != 9 {
			t.Fatalf("a state restored at entry 9 says %d", m.applied.Load())
		}
	}
	for range maxRestores {
		restore()
	}
	m.ApplyBatch([]*raft.Log{{Index: 10, Data: []byte("x")}})
	restore()
	restore()
	if failed != nil {
		t.Errorf("stopped though entries were applied in between: %v", failed)
	}
	restore()
	if failed == nil {
		t.Error("restores for ever")
	}
}

func TestGuard09MissingIsSaidInRaftsWords(t *testing.T) {
	stores, err := openStores(t.TempDir(), nil, raftLogger(discard()))
	if err != nil {
		t.Fatal(err)
	}
	defer stores.close()
	for _, key := range []string{"CurrentTerm", keyVoteTerm} {
		if _, err := stores.stable.GetUint64([]byte(key)); err == nil || err.Error() != "not found" {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := stores.stable.Get([]byte(keyVoteCandidate)); err == nil || err.Error() != "not found" {
		t.Errorf("candidate: %v", err)
	}
	if err := stores.log.GetLog(1, &raft.Log{}); err != raft.ErrLogNotFound {
		t.Errorf("entry: %v", err)
	}
}

func TestGuard10AVoteIsGivenOnlyToAMemberThatCaughtUp(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster := newTestCluster(t)
		a := cluster.start("a")
		if err := a.AddMember(t.Context(), Peer{ID: "b"}); !errors.Is(err, ErrNotAppended) {
			t.Errorf("a node without a cluster added a member: %v", err)
		}
		cluster.bootstrap(a)
		if err := a.Bootstrap(t.Context()); !errors.Is(err, ErrInitialised) {
			t.Errorf("bootstrapped twice: %v", err)
		}
		b := cluster.start("b")
		cluster.isolate(b)
		cluster.must(a.AddMember(t.Context(), b.peer()))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := a.Promote(ctx, "b"); err == nil {
			t.Fatal("promoted a member that is not in reach")
		}
		if members := a.Stats().Members; members[1].Voter {
			t.Errorf("it has a vote: %+v", members)
		}
		if _, err := a.propose("x"); err != nil { // and does not count for a majority
			t.Errorf("a member without a vote holds up the log: %v", err)
		}
		cluster.heal()
		cluster.must(a.Promote(t.Context(), "b"))
		if !a.Stats().Members[1].Voter || !slices.Equal(b.state.values(), []string{"x"}) {
			t.Errorf("members %+v, state %v", a.Stats().Members, b.state.values())
		}
		cluster.must(a.Promote(t.Context(), "b")) // again: nothing to do
		if err := a.AddMember(t.Context(), Peer{ID: "c", Addr: "addr-b"}); err == nil {
			t.Error("another node got the address of a member")
		}
		if err := a.RemoveMember(t.Context(), "nobody"); err != nil {
			t.Errorf("removing nobody: %v", err)
		}
	})
}

func TestGuard11AnAddressThatNobodyCanReachIsRefused(t *testing.T) {
	for addr, good := range map[string]bool{
		"10.0.0.1:7400": true, "node-1:7400": true, "[2001:db8::1]:7400": true, "memory": true,
		"0.0.0.0:7400": false, "[::]:7400": false, ":7400": false, "10.0.0.1:0": false,
	} {
		if err := checkAdvertised(addr); (err == nil) != good {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestGuard12And08TheSettingsThatTheGuardsRestOn(t *testing.T) {
	config := raftConfig{ID: "a", Machine: &register{}}
	_, transport := raft.NewInmemTransport("a")
	config.Transport = &testTransport{InmemTransport: transport}
	if err := config.complete(); err != nil {
		t.Fatal(err)
	}
	got := config.raft(raftLogger(discard()), nil)
	if got.PreVoteDisabled || got.RestoreCommittedLogs || got.TrailingLogs < 10240 || !got.ShutdownOnRemove || got.ProtocolVersion != 3 {
		t.Errorf("%+v", got)
	}
	config.TrailingLogs = 100
	if config.complete() == nil {
		t.Error("TrailingLogs 100 was taken")
	}
}

func TestGuard15ARemovedNodeNotices(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		cluster.must(a.RemoveMember(t.Context(), "c"))
		if err := c.stopped(); !errors.Is(err, ErrRemoved) {
			t.Errorf("c: %v", err)
		}
		cluster.must(a.RemoveMember(t.Context(), "a")) // the leader itself
		if err := a.stopped(); !errors.Is(err, ErrRemoved) {
			t.Errorf("a: %v", err)
		}
		if _, err := a.propose("x"); err == nil {
			t.Error("a removed node proposes")
		}
		_, err := cluster.leader(b).propose("y")
		cluster.must(err)
	})
}

func TestGuard16AnUnknownKindStopsTheNodeAtThatEntry(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, _ := threeNodes(t)
		before, err := a.propose("before")
		cluster.must(err)
		if _, err := a.propose("boom"); !errors.Is(err, errUnknownKind) {
			t.Errorf("proposer was told %v", err)
		}
		if err := b.stopped(); !errors.Is(err, errUnknownKind) {
			t.Errorf("b stopped for %v", err)
		}
		if b.AppliedIndex() != before.Index {
			t.Errorf("applied %d, past the last known entry %d", b.AppliedIndex(), before.Index)
		}
		if _, err := b.machine.Snapshot(); err == nil {
			t.Error("a snapshot that claims the unknown entry")
		}
		if _, err := b.propose("after"); err == nil {
			t.Error("a stopped node proposes")
		}
	})
}
