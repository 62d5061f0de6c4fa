package fsm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

func TestTimeNeverRunsBackwards(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	l.createKey("k")
	before := l.machine.State().Time()
	early := l.as(a, a, &fsm.KeyDelete{Name: "k", After: 1000})
	early.Time = 1 // a leader whose clock is half a century behind
	if r := l.apply(early); r.Err != nil {
		t.Fatal(r.Err)
	}
	key, _ := l.machine.State().Key("k")
	v, _ := l.machine.State().Version(key.ID, 1)
	if now := l.machine.State().Time(); now != before || v.DeleteAfter != before+1000 {
		t.Errorf("time %d after %d, due at %d", now, before, v.DeleteAfter)
	}
	unstamped := l.as(a, a, &fsm.KeyUndelete{Name: "k"})
	unstamped.Time = 0
	if r := l.apply(unstamped); r.Err == nil || r.Err.Code != fsm.BadRequest {
		t.Errorf("without a stamp: %v", r.Err)
	}
	nameless := l.as(a, a, &fsm.KeyUndelete{Name: "k"})
	nameless.Request = fsm.RequestID{}
	if r := l.apply(nameless); r.Err == nil || r.Err.Code != fsm.BadRequest {
		t.Errorf("without a request ID: %v", r.Err)
	}
}

func TestRefusalsAreRememberedToo(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	undelete := l.as(a, a, &fsm.KeyUndelete{Name: "k"})
	first := l.apply(undelete)
	l.createKey("k")
	l.self(a, &fsm.KeyDelete{Name: "k"})
	again := l.apply(undelete)
	if first.Err == nil || !again.Repeated || again.Err == nil || *again.Err != *first.Err {
		t.Errorf("first %v, again %+v", first.Err, again)
	}
	other := undelete
	other.Body = &fsm.KeyDelete{Name: "k"}
	if r := l.apply(other); r.Err == nil || r.Err.Code != fsm.Conflict || len(r.Changes) > 0 {
		t.Errorf("another command under the same request: %+v", r)
	}
}

// Two builds that word a refusal differently are not different states.
func TestRefusalsWordsAreNoState(t *testing.T) {
	row := fsm.RequestRow{ID: fsm.RequestID{1}, Index: 7, Code: fsm.Conflict, Message: "one way"}
	one, err := fsm.HashRow(&row)
	if err != nil {
		t.Fatal(err)
	}
	row.Message = "another way to say so"
	if other, _ := fsm.HashRow(&row); other != one {
		t.Error("the words of a refusal are part of the state's digest")
	}
	row.Code = fsm.NotFound
	if other, _ := fsm.HashRow(&row); other == one {
		t.Error("the code of a refusal is not part of the state's digest")
	}
}

// The newest requests are remembered by their place in the log. A key's row
// remembers its own for life.
func TestOldRequestsAreForgotten(t *testing.T) {
	if testing.Short() {
		t.Skip("applies 100,000 commands")
	}
	l := ready(t, 1)
	a := l.nodes[0]
	create := l.as(a, a, l.keyCreate("k"))
	l.apply(create)
	token := l.as(l.alice, a, &fsm.TokenRemove{}) // refused
	l.apply(token)
	for range fsm.MaxRequests {
		c := l.as(a, a, &fsm.MemberPromote{Node: a.id})
		encoded, err := fsm.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		l.index++
		if r := l.machine.Apply(l.index, encoded); r.Err != nil || r.Fatal != nil {
			t.Fatalf("%+v", r)
		}
	}
	if n := l.machine.State().Count(fsm.TableRequests); n != fsm.MaxRequests {
		t.Errorf("%d requests are remembered", n)
	}
	if r := l.apply(token); r.Repeated {
		t.Error("the oldest request is still remembered")
	}
	if r := l.apply(create); r.Err != nil || r.Value.Number != 1 {
		t.Errorf("a create, again after all that: %+v", r)
	}
	if n := l.machine.State().Count(fsm.TableKeys); n != 1 {
		t.Errorf("%d keys", n)
	}
}

func TestAuditKeepsTheNewestAndTheChain(t *testing.T) {
	if testing.Short() {
		t.Skip("applies 10,000 commands")
	}
	l := ready(t, 1)
	a := l.nodes[0]
	l.createKey("k")
	for range fsm.MaxAudit {
		encoded, err := fsm.Encode(l.as(a, a, &fsm.KeyState{Name: "k"}))
		if err != nil {
			t.Fatal(err)
		}
		l.index++
		l.machine.Apply(l.index, encoded)
	}
	v := l.machine.State()
	seq, head := v.AuditHead()
	if n := v.Count(fsm.TableAudit); n != fsm.MaxAudit || seq <= fsm.MaxAudit {
		t.Fatalf("%d records, the newest is %d", n, seq)
	}
	var before dkek.Hash
	for r := range v.Audit(0) {
		before = r.Previous
		break
	}
	if got, err := fsm.VerifyAudit(before, v.Audit(0)); err != nil || got != head {
		t.Errorf("chain: %v", err)
	}
}

func TestTablesHaveAMaximum(t *testing.T) {
	l := ready(t, 2)
	a := l.nodes[0]
	for i := range fsm.MaxClients {
		l.must(l.alice, a, &fsm.ClientAdd{Name: fmt.Sprint("c", i), Fingerprint: newPerson(fmt.Sprint(i)).fingerprint(), Role: fsm.RoleAuditor})
	}
	l.refused(fsm.TooMany, l.alice, a, &fsm.ClientAdd{Name: "one-more", Fingerprint: newPerson("one more").fingerprint(), Role: fsm.RoleAuditor})

	for range fsm.MaxOpenCeremonies - 2 {
		o := l.open(fsm.CeremonyDrill, a)
		l.addRecipients(o, a)
		l.self(a, l.openCommand(o, a))
		l.refused(fsm.WrongState, a, a, l.openCommand(l.drillFor(a), a))
		l.self(a, l.close(o, a, fsm.OutcomeFailed))
	}
	many := &fsm.Cover{Node: a.id, Serial: "node-a-device", Add: make([]fsm.VersionRef, fsm.MaxItems+1)}
	for i := range many.Add {
		many.Add[i].N = uint64(i)
	}
	l.refused(fsm.BadRequest, a, a, many)
	l.refused(fsm.BadRequest, a, a, &fsm.Cover{Node: a.id, Serial: "node-a-device"})
	l.refused(fsm.BadRequest, l.alice, a, &fsm.MemberRemove{Node: l.nodes[1].id, Reason: strings.Repeat("r", fsm.MaxReason+1)})
	l.refused(fsm.BadRequest, l.alice, a, &fsm.ClientAdd{Name: strings.Repeat("n", fsm.MaxMemberName+1), Fingerprint: dkek.Fingerprint{1}, Role: fsm.RoleAuditor})
	l.refused(fsm.TooMany, l.alice, a, &fsm.ClientAdd{Name: "many", Fingerprint: dkek.Fingerprint{1}, Role: fsm.RoleUser, Verbs: 1, Prefixes: make([]string, fsm.MaxPrefixes+1)})
	l.refused(fsm.BadRequest, a, a, &fsm.MemberAddress{Node: a.id, Addr: strings.Repeat("h", fsm.MaxAddress) + ":1"})
}

func (l *lab) drillFor(p person) *fsm.Open {
	o := l.open(fsm.CeremonyDrill, l.nodes[0])
	l.addRecipients(o, p)
	return o
}

func TestVotersAndNonvotersHaveAMaximum(t *testing.T) {
	l := ready(t, 1)
	for i := range fsm.MaxVoters - 1 {
		l.join(fmt.Sprint("voter-", i))
	}
	a := l.nodes[0]
	var waiting person
	for i := range fsm.MaxNonvoters {
		waiting = newPerson(fmt.Sprint("waiting-", i))
		l.self(a, l.joinCommand(waiting))
	}
	l.refused(fsm.TooMany, a, a, &fsm.MemberPromote{Node: waiting.id})
	l.refused(fsm.TooMany, a, a, l.joinCommand(newPerson("one-more")))
}

func TestOpenCeremoniesHaveAMaximum(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	var people []person
	for i := range fsm.MaxOpenCeremonies + 1 {
		p := newPerson(fmt.Sprint("n-", i))
		l.self(a, l.joinCommand(p))
		if i < fsm.MaxVoters-1 {
			l.self(a, &fsm.MemberPromote{Node: p.id})
		}
		people = append(people, p)
	}
	for _, p := range people[:fsm.MaxOpenCeremonies] {
		l.self(a, l.openCommand(l.drillFor(p), a))
	}
	l.refused(fsm.TooMany, a, a, l.openCommand(l.drillFor(people[fsm.MaxOpenCeremonies]), a))
}

func TestClosedCeremoniesAreForgottenOnceExpired(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 1,000 ceremonies")
	}
	l := ready(t, 1)
	a := l.nodes[0]
	for range fsm.MaxCeremonies + 5 {
		o := l.drillFor(a)
		l.openApproved(o)
		l.self(a, l.close(o, a, fsm.OutcomeFailed))
	}
	if n := l.machine.State().Count(fsm.TableCeremonies); n <= fsm.MaxCeremonies {
		t.Fatalf("%d ceremonies: one was forgotten before its expiry", n)
	}
	l.now += time.Hour.Milliseconds()
	o := l.drillFor(a)
	l.self(a, l.openCommand(o, a))
	if n := l.machine.State().Count(fsm.TableCeremonies); n != fsm.MaxCeremonies {
		t.Errorf("%d ceremonies are remembered", n)
	}
}

// Any member can open ceremonies and give them up. Without an operator's word
// they must not fill the state.
func TestCeremoniesThatNobodyApprovedAreForgotten(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 1,000 ceremonies")
	}
	l := ready(t, 1)
	a := l.nodes[0]
	denied := l.drillFor(a)
	l.self(a, l.openCommand(denied, a))
	l.must(l.alice, a, &fsm.CeremonyDeny{Ceremony: denied.Ceremony, Denial: l.approval(denied, l.alice, fsm.DomainDeny)})
	for range fsm.MaxCeremonies + 5 {
		o := l.drillFor(a)
		l.self(a, l.openCommand(o, a))
		l.self(a, l.close(o, a, fsm.OutcomeFailed))
	}
	if n := l.machine.State().Count(fsm.TableCeremonies); n != fsm.MaxCeremonies {
		t.Errorf("%d ceremonies are remembered", n)
	}
	l.refused(fsm.Exists, a, a, l.openCommand(denied, a))
}

func TestVersionsHaveAMaximum(t *testing.T) {
	l := ready(t, 1)
	a := l.nodes[0]
	l.createKey("k")
	for range fsm.MaxVersions - 1 {
		l.self(a, &fsm.KeyRotate{Name: "k", Material: l.material(a)})
	}
	l.refused(fsm.TooMany, a, a, &fsm.KeyRotate{Name: "k", Material: l.material(a)})
}

func BenchmarkKeyCreate(b *testing.B) {
	l := ready(b, 1)
	a := l.nodes[0]
	var log [][]byte
	for i := range b.N {
		encoded, err := fsm.Encode(l.as(a, a, l.keyCreate(fmt.Sprint("key-", i))))
		if err != nil {
			b.Fatal(err)
		}
		log = append(log, encoded)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, command := range log {
		l.index++
		if r := l.machine.Apply(l.index, command); r.Err != nil || r.Fatal != nil {
			b.Fatalf("%+v", r)
		}
	}
}
