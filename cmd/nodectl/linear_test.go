package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keycustodian/keycustodian/node/api"
)

// What is promised of one key name, as a model: create, rotate, disable, enable,
// delete, undelete and a list from the newest state take effect at one instant
// between question and answer. All changes are of all versions.

// An act is what somebody asked of one key, a fate what became of it.
type (
	act  string
	fate string
)

const (
	actCreate   act = "create"
	actRotate   act = "rotate"
	actDisable  act = "disable"
	actEnable   act = "enable"
	actDelete   act = "delete"  // in a month
	actDestroy  act = "destroy" // delete at once
	actUndelete act = "undelete"
	actList     act = "list"

	done        fate = "done"
	perhaps     fate = "perhaps" // nobody knows
	nothing     fate = "nothing" // certainly not done, for a reason that is not the key's state
	wasThere    fate = "exists"
	wasNotThere fate = "not found"
	wrongState  fate = "wrong state"
)

// outcome is what became of an act; versions is what a list showed.
type outcome struct {
	fate     fate
	versions []seen
}

// seen is a version as an answer shows it.
type seen struct{ state, public string }

// modelVersion is a version in the model. Its public half is "" until somebody
// has seen it: then it never changes.
type modelVersion struct {
	state  string // of the API's
	before string // of a pending version: the state that it goes back to
	due    bool   // a pending version may be destroyed at any instant
	public string
}

// keyModel is porcupine's model of one name. Its state is a []modelVersion; an
// empty one is no key. Where several states may follow, all do.
func keyModel() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{[]modelVersion(nil)} },
		Step: func(state, input, output any) []any {
			var next []any
			for _, versions := range stepKey(state.([]modelVersion), input.(act), output.(outcome)) {
				next = append(next, versions)
			}
			return next
		},
		Equal:             func(a, b any) bool { return slices.Equal(a.([]modelVersion), b.([]modelVersion)) },
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input, output) },
		DescribeState:     func(state any) string { return fmt.Sprint(state) },
	}
	return nondeterministic.ToModel()
}

// stepKey returns the states in which a key may be after an act that came out so;
// none: it cannot have.
func stepKey(versions []modelVersion, what act, out outcome) [][]modelVersion {
	if what == actList {
		return afterList(versions, out.versions)
	}
	switch out.fate {
	case nothing:
		return [][]modelVersion{versions}
	case perhaps:
		return append(afterChange(versions, what), versions)
	case done:
		return afterChange(versions, what)
	case wasThere:
		if what == actCreate && len(versions) > 0 {
			return [][]modelVersion{versions}
		}
	case wasNotThere:
		if what != actCreate && len(versions) == 0 {
			return [][]modelVersion{versions}
		}
	case wrongState:
		return afterRefusal(versions, what)
	}
	return nil
}

// afterChange does the change, if it can be done.
func afterChange(versions []modelVersion, what act) [][]modelVersion {
	next := slices.Clone(versions)
	fresh := modelVersion{state: api.VersionEnabled}
	switch what {
	case actCreate:
		if len(versions) > 0 {
			return nil
		}
		return [][]modelVersion{{fresh}}
	case actRotate:
		if len(versions) == 0 || !usable(versions[len(versions)-1]) {
			return nil
		}
		return [][]modelVersion{append(next, fresh)}
	case actUndelete:
		return afterUndelete(next)
	}
	changed := false
	for i, v := range next {
		if !usable(v) {
			continue
		}
		changed = true
		switch what {
		case actDisable:
			next[i].state = api.VersionDisabled
		case actEnable:
			next[i].state = api.VersionEnabled
		case actDelete, actDestroy:
			next[i].state, next[i].before, next[i].due = api.VersionPending, v.state, what == actDestroy
		}
	}
	if !changed {
		return nil
	}
	return [][]modelVersion{next}
}

func usable(v modelVersion) bool {
	return v.state == api.VersionEnabled || v.state == api.VersionDisabled
}

// afterUndelete brings pending versions back, one of them at least; each that is
// due may have been destroyed before.
func afterUndelete(versions []modelVersion) (all [][]modelVersion) {
	var pending []int
	for i, v := range versions {
		if v.state == api.VersionPending {
			pending = append(pending, i)
		}
	}
	for gone := range 1 << len(pending) {
		if gone == 1<<len(pending)-1 {
			break // all of them
		}
		next, possible := slices.Clone(versions), true
		for bit, i := range pending {
			v := versions[i]
			if gone>>bit&1 == 1 {
				possible = possible && v.due
				next[i] = modelVersion{state: api.VersionDestroyed, public: v.public}
			} else {
				next[i] = modelVersion{state: v.before, public: v.public}
			}
		}
		if possible {
			all = append(all, next)
		}
	}
	return all
}

// afterRefusal is for an act that no version was in the state for.
func afterRefusal(versions []modelVersion, what act) [][]modelVersion {
	if len(versions) == 0 {
		return nil
	}
	switch what {
	case actRotate:
		if !usable(versions[len(versions)-1]) {
			return [][]modelVersion{versions}
		}
	case actUndelete:
		next := slices.Clone(versions)
		for i, v := range next {
			if v.state == api.VersionPending && !v.due {
				return nil
			}
			if v.state == api.VersionPending {
				next[i] = modelVersion{state: api.VersionDestroyed, public: v.public}
			}
		}
		return [][]modelVersion{next}
	case actDisable, actEnable, actDelete, actDestroy:
		if !slices.ContainsFunc(versions, usable) {
			return [][]modelVersion{versions}
		}
	}
	return nil
}

// afterList holds a list against the state, which it may show more of.
func afterList(versions []modelVersion, list []seen) [][]modelVersion {
	if len(list) != len(versions) {
		return nil
	}
	next := slices.Clone(versions)
	for i, v := range versions {
		if v.state == api.VersionPending && v.due && list[i].state == api.VersionDestroyed {
			next[i] = modelVersion{state: api.VersionDestroyed, public: v.public}
		}
		if next[i].state != list[i].state || v.public != "" && v.public != list[i].public {
			return nil
		}
		next[i].public = list[i].public
	}
	return [][]modelVersion{next}
}

// history is what several clients did with one name.
type history struct {
	name  string
	acts  []porcupine.Operation
	signs []signing
}

// forever is when an act ends that nobody knows the outcome of.
const forever = math.MaxInt64

// signing is a use of a key, with times as those of acts. Signing is not
// linearizable: a node goes by what it knows, which may be stale for so long.
type signing struct {
	call, ret int64
	stale     time.Duration
	version   int  // that signed; 0: none did
	fate      fate // done, wrongState or wasNotThere
	signature []byte
}

func (h *history) linearizable(patience time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(keyModel(), h.acts, patience)
}

// describe is the history for people, in the order of calls.
func (h *history) describe() string {
	acts := slices.Clone(h.acts)
	slices.SortFunc(acts, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	fmt.Fprintf(&b, "%s:\n", h.name)
	for _, a := range acts {
		ret := "never"
		if a.Return != forever {
			ret = time.Duration(a.Return).Round(time.Microsecond).String()
		}
		fmt.Fprintf(&b, "  client %d, %v to %s: %v -> %v\n", a.ClientId, time.Duration(a.Call).Round(time.Microsecond), ret, a.Input, a.Output)
	}
	return b.String()
}

// badSigns are the uses that no state of a key explains that was in force at some
// instant from stale before the question until the answer.
func (h *history) badSigns() (bad []string) {
	for _, s := range h.signs {
		from := s.call - int64(s.stale)
		why := ""
		switch s.fate {
		case done:
			why = h.whyNotEnabled(s, from)
		case wrongState:
			why = h.whyEnabled(s, from)
		case wasNotThere:
			// Before a node says so it asks for the newest state.
			for _, a := range h.acts {
				if a.Input == actCreate && a.Output.(outcome).fate == done && a.Return < s.call {
					why = "it was created before"
				}
			}
		}
		if why != "" {
			bad = append(bad, fmt.Sprintf("%s: sign by version %d from %v to %v -> %s: %s", h.name, s.version, time.Duration(s.call), time.Duration(s.ret), s.fate, why))
		}
	}
	return bad
}

// whyNotEnabled says why version s.version, as the newest, cannot have been
// enabled at any instant from from to s.ret.
func (h *history) whyNotEnabled(s signing, from int64) string {
	made, newer := 0, 0 // versions that may have been made by then, and those that had been before
	for _, a := range h.acts {
		fate := a.Output.(outcome).fate
		if a.Input != actCreate && a.Input != actRotate || fate != done && fate != perhaps {
			continue
		}
		if a.Call < s.ret {
			made++
		}
		if fate == done && a.Return < from {
			newer++
		}
	}
	switch {
	case made < s.version:
		return "there was no such version yet"
	case newer > s.version:
		return fmt.Sprintf("version %d was the newest long before", newer)
	}
	for _, off := range h.acts {
		if !disables(off) || off.Output.(outcome).fate != done || off.Return >= from {
			continue
		}
		again := slices.ContainsFunc(h.acts, func(on porcupine.Operation) bool {
			fate := on.Output.(outcome).fate
			brings := enables(on) || on.Input == actRotate || on.Input == actCreate
			return brings && (fate == done || fate == perhaps) && on.Return > off.Call && on.Call < s.ret
		})
		if !again {
			return fmt.Sprintf("%v was done long before, and not taken back", off.Input)
		}
	}
	return ""
}

// whyEnabled says why the key cannot have been anything but enabled from from to
// s.ret.
func (h *history) whyEnabled(s signing, from int64) string {
	for _, off := range h.acts {
		fate := off.Output.(outcome).fate
		if !disables(off) || fate != done && fate != perhaps || off.Call > s.ret {
			continue
		}
		over := slices.ContainsFunc(h.acts, func(on porcupine.Operation) bool {
			return enables(on) && on.Output.(outcome).fate == done && on.Call > off.Return && on.Return < from
		})
		if !over {
			return ""
		}
	}
	return "it was enabled all the time"
}

func disables(a porcupine.Operation) bool {
	return a.Input == actDisable || a.Input == actDelete || a.Input == actDestroy
}

func enables(a porcupine.Operation) bool { return a.Input == actEnable || a.Input == actUndelete }

// The checker can say no: each of these histories breaks the promise in one place
// that is named, and holds without it.
func TestHistoriesThatAreNotLinearizable(t *testing.T) {
	enabled := func(public string) seen { return seen{api.VersionEnabled, public} }
	list := func(versions ...seen) outcome { return outcome{done, versions} }
	at := func(call, ret int64, what act, out outcome) porcupine.Operation {
		return porcupine.Operation{Call: call, Return: ret, Input: what, Output: out}
	}
	ok := outcome{fate: done}
	for _, test := range []struct {
		name     string
		good     []porcupine.Operation
		bad      porcupine.Operation
		bystands bool
	}{
		{"a list that lacks an acknowledged key", []porcupine.Operation{at(1, 2, actCreate, ok)}, at(3, 4, actList, list()), false},
		{"a list that lacks an acknowledged version", []porcupine.Operation{at(1, 2, actCreate, ok), at(3, 4, actRotate, ok)}, at(5, 6, actList, list(enabled("a"))), false},
		{"a list from before a disable", []porcupine.Operation{at(1, 2, actCreate, ok), at(3, 4, actDisable, ok)}, at(5, 6, actList, list(enabled("a"))), false},
		{"a list that goes back", []porcupine.Operation{at(1, 2, actCreate, ok), at(3, forever, actRotate, outcome{fate: perhaps}), at(4, 5, actList, list(enabled("a"), enabled("b")))},
			at(6, 7, actList, list(enabled("a"))), false},
		{"a key of two minds", []porcupine.Operation{at(1, 2, actCreate, ok), at(3, 4, actList, list(enabled("a")))}, at(5, 6, actList, list(enabled("b"))), false},
		{"two keys of one name", []porcupine.Operation{at(1, 2, actCreate, ok)}, at(1, 3, actCreate, ok), false},
		{"a key that nobody asked for", nil, at(1, 2, actList, list(enabled("a"))), false},
		{"a key that comes back", []porcupine.Operation{at(1, 2, actCreate, ok), at(3, 4, actDestroy, ok), at(5, 6, actList, list(seen{api.VersionDestroyed, "a"}))}, at(7, 8, actUndelete, ok), false},
		{"a key destroyed before its time", []porcupine.Operation{at(1, 2, actCreate, ok), at(3, 4, actDelete, ok)}, at(5, 6, actList, list(seen{api.VersionDestroyed, "a"})), false},
		{"a refusal that was none", []porcupine.Operation{at(1, 2, actCreate, ok), at(5, 6, actList, list(enabled("a"), enabled("b")))}, at(3, 4, actRotate, outcome{fate: wrongState}), true},
	} {
		if !test.bystands && (&history{acts: test.good}).linearizable(0) != porcupine.Ok {
			t.Errorf("%s: refused without it", test.name)
		}
		if h := (&history{acts: append(test.good, test.bad)}); h.linearizable(0) != porcupine.Illegal {
			t.Errorf("%s: goes unnoticed", test.name)
		}
	}
	// What nobody knows may have been done, at any time, or not.
	unknown := []porcupine.Operation{
		at(1, forever, actCreate, outcome{fate: perhaps}), at(2, 3, actList, list()), at(4, 5, actList, list(enabled("a"))),
		at(6, forever, actDisable, outcome{fate: perhaps}), at(7, 8, actRotate, ok), at(9, 10, actList, list(enabled("a"), enabled("b"))),
	}
	if (&history{acts: unknown}).linearizable(0) != porcupine.Ok {
		t.Error("an unknown outcome is held against the cluster")
	}
}

// A signature by a state that is too old is found, and one by a state that is old
// enough is not.
func TestSignaturesThatAreTooLate(t *testing.T) {
	at := func(call, ret int64, what act) porcupine.Operation {
		return porcupine.Operation{Call: call, Return: ret, Input: what, Output: outcome{fate: done}}
	}
	acts := []porcupine.Operation{at(10, 11, actCreate), at(20, 21, actDisable), at(40, 41, actEnable), at(50, 51, actRotate)}
	for _, test := range []struct {
		sign signing
		bad  bool
	}{
		{signing{call: 5, ret: 8, stale: 100, version: 1, fate: done}, true},
		{signing{call: 5, ret: 12, stale: 100, version: 1, fate: done}, false},
		{signing{call: 30, ret: 31, stale: 9, version: 1, fate: done}, false},
		{signing{call: 30, ret: 31, stale: 5, version: 1, fate: done}, true},
		{signing{call: 45, ret: 46, stale: 5, version: 1, fate: done}, false},
		{signing{call: 45, ret: 46, stale: 5, version: 2, fate: done}, true},
		{signing{call: 60, ret: 61, stale: 5, version: 1, fate: done}, true},
		{signing{call: 60, ret: 61, stale: 10, version: 1, fate: done}, false},
		{signing{call: 15, ret: 16, stale: 5, fate: wrongState}, true},
		{signing{call: 30, ret: 31, stale: 5, fate: wrongState}, false},
		{signing{call: 46, ret: 47, stale: 10, fate: wrongState}, false},
		{signing{call: 49, ret: 50, stale: 5, fate: wrongState}, true},
		{signing{call: 5, ret: 8, fate: wasNotThere}, false},
		{signing{call: 12, ret: 13, stale: 100, fate: wasNotThere}, true},
	} {
		h := &history{name: "k", acts: acts, signs: []signing{test.sign}}
		if bad := h.badSigns(); len(bad) > 0 != test.bad {
			t.Errorf("%+v: %v", test.sign, bad)
		}
	}
}
