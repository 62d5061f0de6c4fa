package node

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// warnings are what an operator should know, the most urgent first.
func (f *face) warnings(view *fsm.View, s api.Status) []string {
	var w []string
	add := func(when bool, format string, args ...any) {
		if when {
			w = append(w, fmt.Sprintf(format, args...))
		}
	}
	if err := f.node.Err(); err != nil {
		add(true, "this node has stopped: %s", api.Plain(err.Error()))
	}
	for _, err := range f.node.Distrust() {
		add(true, "on this node: %s", strings.TrimPrefix(err.Error(), "node: "))
	}
	cluster, ok := view.Cluster()
	if !ok {
		return w
	}
	add(!s.Quorum, "no quorum: changes are refused, keys are used under the policy last seen for %v at most", cluster.Policy.StaleTime())
	proven, hasDKEK := view.Proven()
	beyond := ""
	if hasDKEK {
		beyond = beyondReach(view, proven)
	}
	add(beyond != "", "%s", beyond)
	add(hasDKEK && beyond == "" && !s.Restore.Possible, "a lost device could not be replaced now: %s", s.Restore.Why)
	voters := view.Count(fsm.TableMembers)
	add(voters >= 3 && hasDKEK && s.Restore.Possible && s.CanLose.Nodes == 0, "no further node may be lost: bring back or replace those that are missing")
	w = append(w, f.membersWarnings(view, s)...)
	clocks := f.clocks(view)
	w = append(w, clocks.wrong()...)
	add(s.DKEK.Unproven != 0, "unproven: run a drill (nodectl dkek drill): no device has proven epoch %d yet", s.DKEK.Unproven)
	add(s.DKEK.ReshareDue != "" && beyond == "", "a reshare is due (nodectl dkek reshare): %s", s.DKEK.ReshareDue)
	add(s.Keys.Short > 0, "%d key versions are on fewer devices than their policy wants", s.Keys.Short)
	for _, m := range byName(view) {
		if m.Device != nil && m.Device.Weakness != "" {
			add(true, "%s: %s", m.Name, m.Device.Weakness)
		}
		add(m.SealKept != "", "%s: the seal secret: %s", m.Name, m.SealKept)
	}
	add(voters < 3, "%d of at least 3 nodes: fewer are for development, since one loss ends them", voters)
	add(hasDKEK && proven.Plan.Origin == dkek.Single, "one host has known the DKEK: only a new DKEK with new keys heals that")
	operators, approvals := len(cluster.Operators.Operators), cluster.Operators.Approvals
	add(approvals == 1, "one operator can take every key: one approval is enough for a ceremony")
	add(approvals == operators, "one lost operator key ends all ceremonies: all %d must approve", operators)
	return w
}

// beyondReach says that fewer holders are members than it takes, for good: after a
// recovery. Nothing puts the DKEK together any more.
func beyondReach(view *fsm.View, proven *fsm.SharingRow) string {
	var left []string
	for _, h := range proven.Plan.Holders {
		if _, ok := view.Member(h.Node); ok {
			left = append(left, memberName(view, h.Node))
		}
	}
	if len(left) >= proven.Plan.Threshold {
		return ""
	}
	return fmt.Sprintf("the DKEK cannot be put together any more: %d holders of epoch %d are members (%s), and %d are needed. The keys live as long as a device that has them does, and no device can be filled again: "+
		"make a new cluster with new keys now, and move to it what these keys protect", len(left), proven.Plan.Epoch, strings.Join(left, ", "), proven.Plan.Threshold)
}

func (f *face) membersWarnings(view *fsm.View, s api.Status) []string {
	var w, silent, sealed []string
	for _, m := range s.Members {
		switch {
		case !m.Reachable:
			silent = append(silent, m.Name)
		case m.State == api.StateSealed:
			sealed = append(sealed, m.Name)
		}
	}
	if len(silent) > 0 {
		w = append(w, "not reached: "+strings.Join(silent, ", "))
	}
	if len(sealed) > 0 {
		w = append(w, "sealed: "+strings.Join(sealed, ", ")+": nodectl device enter seal (or pin) there")
	}
	proven, ok := view.Proven()
	for _, m := range byName(view) {
		if ok && m.Device != nil && m.Device.KCV != proven.KCV {
			w = append(w, deviceWarning(m.Name, m.Device.State))
		} else if said := f.said(m.ID); ok && said.State == api.StateUnready && f.reachable(m.ID) {
			w = append(w, fmt.Sprintf("%s is unready: %.300s", m.Name, said.Missing))
		}
	}
	return w
}

// deviceWarning is what to do about a device that is not known to hold the DKEK.
// One that nobody could ask may hold it all the same: replacing it is no first aid.
func deviceWarning(name, state string) string {
	switch state {
	case deviceLocked:
		return fmt.Sprintf("%s: its device is locked: on that node, nodectl device enter pin", name)
	case deviceGone:
		return fmt.Sprintf("%s: its device does not answer: see nodectl device info --node %s", name, name)
	}
	return fmt.Sprintf("%s: its device (%s) does not hold the DKEK: nodectl device replace --node %s", name, state, name)
}

// countFor is how long a count of keys is good enough.
const countFor = 5 * time.Second

// keyCounter counts keys, and not at every request: there may be a million.
type keyCounter struct {
	mu     sync.Mutex
	at     time.Time
	index  uint64
	counts api.KeyCounts
}

func (k *keyCounter) count(view *fsm.View) api.KeyCounts {
	k.mu.Lock()
	defer k.mu.Unlock()
	few := view.Count(fsm.TableVersions) < 10_000
	if k.index == view.Index() || !few && time.Since(k.at) < countFor {
		return k.counts
	}
	k.at, k.index, k.counts = time.Now(), view.Index(), countKeys(view)
	return k.counts
}

func countKeys(view *fsm.View) api.KeyCounts {
	counts := api.KeyCounts{Keys: view.Count(fsm.TableKeys)}
	cluster, ok := view.Cluster()
	if !ok {
		return counts
	}
	for key := range view.Keys("", "") {
		want := key.Policy.Copies
		if want == 0 {
			want = cluster.Policy.CopiesOrDefault()
		}
		for v := range view.Versions(key.ID) {
			if v.State < fsm.Destroyed {
				counts.Versions++
			}
			if v.State == fsm.Pending {
				counts.Pending++
			}
			if v.State.Live() && len(view.Coverage(v.Key, v.N)) < want {
				counts.Short++
			}
		}
	}
	return counts
}
