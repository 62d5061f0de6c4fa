package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestProposeIsAppliedOnEveryMember(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		for i, n := range []*testNode{a, b, c} { // at the leader, and forwarded
			applied, err := n.propose(fmt.Sprint("value ", i))
			cluster.must(err)
			if applied.Result != i+1 {
				t.Errorf("from %s: result %v, not %d", n.id, applied.Result, i+1)
			}
			// The caller sees its own write.
			if got := n.state.values(); !slices.Contains(got, fmt.Sprint("value ", i)) {
				t.Errorf("%s does not have its own write: %v", n.id, got)
			}
		}
		cluster.until(func() bool { return len(b.state.values()) == 3 && len(c.state.values()) == 3 })
	})
}

func TestManyProposersShareBatches(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, _ := threeNodes(t)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				_, err := []*testNode{a, b}[i%2].propose(fmt.Sprint(i))
				cluster.must(err)
			})
		}
		wg.Wait()
		if got := len(a.state.values()); got != 200 {
			t.Errorf("%d of 200 commands applied", got)
		}
	})
}

func TestGuard02ALostLeaderLeavesTheOutcomeUnknownAndARepeatIsHarmless(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		// Followers take the entry, and their answers are lost: the leader cannot
		// know whether it was committed.
		cluster.mu.Lock()
		cluster.mute[[2]string{"a", "b"}], cluster.mute[[2]string{"a", "c"}] = true, true
		cluster.mu.Unlock()
		_, err := a.ProposeHere(t.Context(), []byte("once"))
		if !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotAppended) {
			t.Fatalf("not an unknown outcome: %v", err)
		}
		cluster.heal()
		first, err := cluster.leader(a, b, c).propose("once")
		cluster.must(err)
		again, err := b.propose("once")
		cluster.must(err)
		if first.Result != 1 || again.Result != 1 {
			t.Errorf("results %v and %v, both should be 1", first.Result, again.Result)
		}
		cluster.until(func() bool { return c.AppliedIndex() >= again.Index })
		for _, n := range []*testNode{a, b, c} {
			if got := n.state.values(); !slices.Equal(got, []string{"once"}) {
				t.Errorf("%s has %v", n.id, got)
			}
		}
	})
}

// A follower that lags does not say that something is done before it is in the
// state that its caller looks at next.
func TestWhatIsDoneIsInTheStateOfWhoAsked(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, _ := threeNodes(t)
		hang := make(chan struct{})
		b.state.mu.Lock()
		b.state.hang = hang
		b.state.mu.Unlock()
		if _, err := b.propose("too late"); !errors.Is(err, ErrOutcomeUnknown) || !slices.Contains(a.state.values(), "too late") {
			t.Errorf("it never catches up: %v", err)
		}
		time.AfterFunc(5*time.Second, func() { close(hang) })
		applied, err := b.propose("in time")
		cluster.must(err)
		if got := b.state.values(); applied.Result != 2 || !slices.Contains(got, "in time") {
			t.Errorf("answered with %v, and its state is %v", applied.Result, got)
		}
	})
}

func TestAFollowersLostAnswerIsAnUnknownOutcome(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, _, b, _ := threeNodes(t)
		cluster.mu.Lock()
		cluster.mute[[2]string{"b", "a"}] = true
		cluster.mu.Unlock()
		if _, err := b.propose("x"); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("not an unknown outcome: %v", err)
		}
	})
}

func TestAMinorityRefusesQuicklyAndSaysWhy(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		cluster.isolate(a)
		leader := cluster.leader(b, c)
		time.Sleep(5 * time.Second)
		start := time.Now()
		_, err := a.propose("x")
		if !errors.Is(err, ErrNotAppended) || !errors.Is(err, ErrNoLeader) {
			t.Errorf("propose in a minority: %v", err)
		}
		if _, err := a.ReadBarrier(t.Context()); !errors.Is(err, ErrNoLeader) {
			t.Errorf("read in a minority: %v", err)
		}
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("refused after %v", took)
		}
		_, err = leader.propose("y")
		cluster.must(err)
		cluster.heal()
		cluster.until(func() bool { return slices.Contains(a.state.values(), "y") })
		if slices.Contains(a.state.values(), "x") {
			t.Error("a refused command was applied")
		}
	})
}

func TestADeadLeaderCostsLessThanTwoSeconds(t *testing.T) {
	var all []time.Duration
	for i := range 40 {
		onVirtualTime(t, func(t *testing.T) {
			cluster, a, b, c := threeNodes(t)
			time.Sleep(time.Duration(i) * 7 * time.Millisecond)
			start := time.Now()
			cluster.isolate(a)
			for {
				if _, err := []*testNode{b, c}[i%2].propose("x"); err == nil {
					break
				} else if time.Since(start) > 10*time.Second {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			all = append(all, time.Since(start))
		})
	}
	slices.Sort(all)
	t.Logf("median %v, worst %v", all[len(all)/2], all[len(all)-1])
	if median := all[len(all)/2]; median > 1500*time.Millisecond {
		t.Errorf("median failover %v", median)
	}
	if p90 := all[len(all)*9/10]; p90 > 2*time.Second {
		t.Errorf("nine tenths of failovers within %v, not 2 s", p90)
	}
}

func TestACommandIsStampedAndRefusedByTheLeaderOnly(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		var mu sync.Mutex
		stamps := map[string]int{}
		stampAt := func(config *raftConfig) {
			id := config.ID
			config.Stamp = func(command []byte, now time.Time) ([]byte, error) {
				if string(command) == "bad" {
					return nil, errUnknownKind
				}
				mu.Lock()
				defer mu.Unlock()
				stamps[id]++
				return fmt.Appendf(nil, "%s@%d", command, now.Unix()), nil
			}
		}
		cluster, _, b, _ := threeNodes(t, stampAt)
		before := time.Now().Unix()
		_, err := b.propose("good")
		cluster.must(err)
		if stamps["a"] != 1 || stamps["b"] != 0 {
			t.Errorf("stamped %v times", stamps)
		}
		var at int64
		got := b.state.values()
		if _, err := fmt.Sscanf(strings.Join(got, " "), "good@%d", &at); err != nil || len(got) != 1 || at < before || at > time.Now().Unix() {
			t.Errorf("applied %q between %d and %d", got, before, time.Now().Unix())
		}
		refused := (*RefusedError)(nil)
		if _, err := b.propose("bad"); !errors.As(err, &refused) || !errors.Is(err, errUnknownKind) {
			t.Errorf("not refused with the reason: %v", err)
		}
		if _, err := b.propose(string(make([]byte, maxCommand+1))); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a command over maxCommand: %v", err)
		}
	})
}

func TestALeaderThatClosesHandsOverAndLosesNothing(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster, a, b, c := threeNodes(t)
		_, err := a.propose("before")
		cluster.must(err)
		start := time.Now()
		a.close()
		leader := cluster.leader(b, c)
		if took := time.Since(start); took > 400*time.Millisecond {
			t.Errorf("the next leader led after %v: an election, not a transfer", took)
		}
		if _, err := a.propose("x"); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed log says %v", err)
		}
		_, err = leader.propose("after")
		cluster.must(err)
		if got := leader.state.values(); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("the next leader has %v", got)
		}
	})
}

func TestANewMemberIsSentASnapshotAndKnowsItsIndex(t *testing.T) {
	onVirtualTime(t, func(t *testing.T) {
		cluster := newTestCluster(t)
		a := cluster.start("a")
		cluster.bootstrap(a)
		applied, err := a.propose("kept")
		cluster.must(err)
		cluster.must(a.raft.Snapshot().Error())
		// As if the entries behind the snapshot had been compacted away.
		cluster.must(a.stores.log.DeleteRange(1, applied.Index))
		b := cluster.start("b")
		cluster.must(a.AddMember(t.Context(), b.peer()))
		cluster.must(a.Promote(t.Context(), "b"))
		if got := b.state.values(); !slices.Equal(got, []string{"kept"}) || b.Stats().Restores != 1 {
			t.Errorf("b has %v after %d restores", got, b.Stats().Restores)
		}
	})
}
