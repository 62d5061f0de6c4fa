//go:build faults

package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

func (l *liar) unknownCeremony() {
	if given, _ := l.shares(fsm.CeremonyID{1, 2, 3}); given > 0 {
		l.t.Errorf("%d shares left for a ceremony that there is not", given)
	}
}

func (l *liar) otherName() {
	id, key := l.honest[0].nodeKey()
	victim := dkek.Fingerprint(fingerprintOf(l.t, key))
	// The node that is named as proposing is the victim too: it vouches for nothing.
	honest := *l.impostor
	honest.id = id
	for what, body := range map[string]fsm.Body{
		"an address": &fsm.MemberAddress{Node: id, Addr: "elsewhere.example:1"}, "a departure": &fsm.MemberRemove{Node: id},
	} {
		if err := honest.propose(l.honest, victim, body); !errors.Is(err, fsm.NotAllowed) {
			l.t.Errorf("%s of another member: %v", what, err)
		}
		if err := l.propose(l.honest, victim, body); !errors.Is(err, fsm.NotAllowed) {
			l.t.Errorf("%s of another member, passed on: %v", what, err)
		}
	}
}

// word is an operator's about a node's device, as node.act carries it.
type word struct {
	Statement []byte       `cbor:"1,keyasint"`
	By        fsm.Approval `cbor:"2,keyasint"`
}

func (l *liar) word(n *process, by ed25519.PrivateKey, domain fsm.Domain, change func(*fsm.DeviceStatement)) word {
	l.t.Helper()
	cluster, _ := l.genuine.Cluster()
	id, _ := n.nodeKey()
	s := &fsm.DeviceStatement{
		Cluster: cluster.ID, Incarnation: cluster.Incarnation, Expires: time.Now().Add(15 * time.Minute).UnixMilli(),
		Node: id, DeviceKind: l.devices[n].Kind, DeviceSerial: l.devices[n].Serial, Act: fsm.ActWipe,
	}
	rand.Read(s.Request[:])
	change(s)
	signed, err := fsm.SignStatement(by, domain, s)
	if err != nil {
		l.t.Fatal(err)
	}
	return word{signed.Statement, fsm.Approval{Operator: dkek.Fingerprint(fingerprintOf(l.t, by)), Signature: signed.Signature}}
}

// deviceActs are all that a word can have done to a device.
var deviceActs = map[string]func(*fsm.DeviceStatement){
	"wipe":   func(*fsm.DeviceStatement) {},
	"delete": func(s *fsm.DeviceStatement) { s.Act, s.Slot = fsm.ActDelete, 1 },
	"adopt":  func(s *fsm.DeviceStatement) { s.Act, s.Slot, s.Name = fsm.ActAdopt, 1, "mine" },
}

// forgedWord is one that is refused, and why.
type forgedWord struct {
	what string
	word word
	code api.Code
	says string
}

func (l *liar) forgedWords() {
	victim, other := l.honest[0], l.honest[1]
	as := func(by ed25519.PrivateKey, domain fsm.Domain, change func(*fsm.DeviceStatement)) word {
		return l.word(victim, by, domain, change)
	}
	operators := func(change func(*fsm.DeviceStatement)) word { return as(l.alice, fsm.DomainDevice, change) }
	plain := func(*fsm.DeviceStatement) {}
	words := []forgedWord{
		{"by nobody", word{operators(plain).Statement, fsm.Approval{}}, api.CodeNotAllowed, "is none"},
		{"by the liar", as(l.key, fsm.DomainDevice, plain), api.CodeNotAllowed, "is none"},
		{"in alice's name", l.borrowed(as(l.stranger, fsm.DomainDevice, plain)), api.CodeNotAllowed, "signature"},
		{"an approval", as(l.alice, fsm.DomainApproval, plain), api.CodeNotAllowed, "signature"},
		{"for another cluster", operators(func(s *fsm.DeviceStatement) { s.Cluster[0] ^= 1 }), api.CodeConflict, "for another cluster"},
		{"of a former time", operators(func(s *fsm.DeviceStatement) { s.Incarnation-- }), api.CodeConflict, "for incarnation 0, and this is 1"},
		{"that has expired", operators(func(s *fsm.DeviceStatement) { s.Expires = time.Now().Add(-time.Second).UnixMilli() }), api.CodeExpired, "expired"},
		{"that lasts too long", operators(func(s *fsm.DeviceStatement) { s.Expires += 2 * time.Hour.Milliseconds() }), api.CodeBadRequest, "lasts longer than"},
	}
	for what, act := range deviceActs {
		words = append(words,
			forgedWord{what + " by a stranger", as(l.stranger, fsm.DomainDevice, act), api.CodeNotAllowed, "is none"},
			forgedWord{what + " for another node", operators(func(s *fsm.DeviceStatement) { act(s); s.Node = l.id }), api.CodeConflict, "for node " + l.id.String()},
			forgedWord{what + " for another device", operators(func(s *fsm.DeviceStatement) { act(s); s.DeviceSerial = l.devices[other].Serial }), api.CodeConflict, "for device soft " + l.devices[other].Serial},
			// In order, and brought to a node that it is not for.
			forgedWord{what + " for whom it is not brought to", l.word(other, l.alice, fsm.DomainDevice, act), api.CodeConflict, "for node "},
		)
	}
	l.refused(victim, words)
}

// borrowed is a word under which stands that alice signed it.
func (l *liar) borrowed(w word) word {
	w.By.Operator = dkek.Fingerprint(fingerprintOf(l.t, l.alice))
	return w
}

// refused brings words to a node, which refuses each for its own reason.
func (l *liar) refused(n *process, words []forgedWord) {
	l.t.Helper()
	for _, w := range words {
		err := l.call(l.t.Context(), n, "node.act", w.word, &struct{}{})
		var said *transport.RemoteError
		if !errors.As(err, &said) || said.Code != string(w.code) || !strings.Contains(said.Message, w.says) {
			l.t.Errorf("a word %s: %v, want %s and %q", w.what, err, w.code, w.says)
		}
	}
}

// control shows that what was refused is what an operator's own word gets: it wipes
// a device, once.
func (l *liar) control() {
	l.t.Helper()
	victim := l.honest[0]
	w := l.word(victim, l.alice, fsm.DomainDevice, func(*fsm.DeviceStatement) {})
	if err := l.call(l.t.Context(), victim, "node.act", w, &struct{}{}); err != nil {
		l.t.Fatalf("an operator's word, passed on by a member that lies otherwise: %v", err)
	}
	if d := l.device(victim); d.State == l.devices[victim].State {
		l.t.Errorf("the device is %s", d.State)
	}
	if err := l.call(l.t.Context(), victim, "node.act", w, &struct{}{}); err == nil || !strings.Contains(err.Error(), "was used before") {
		l.t.Errorf("the same word again: %v", err)
	}
}

func (l *liar) clientsName() {
	use := func(name string, who ed25519.PrivateKey) error {
		digest := make([]byte, 32)
		return l.call(l.t.Context(), l.honest[0], "key.use", struct {
			Who     transport.Fingerprint `cbor:"1,keyasint"`
			Key     string                `cbor:"2,keyasint"`
			Version uint64                `cbor:"3,keyasint"`
			Verb    uint32                `cbor:"4,keyasint"`
			Input   []byte                `cbor:"5,keyasint"`
			Hash    uint64                `cbor:"7,keyasint"`
		}{fingerprintOf(l.t, who), name, 1, uint32(fsm.Sign), digest, uint64(crypto.SHA256)}, &struct {
			Output []byte `cbor:"1,keyasint,omitempty"`
			Age    int64  `cbor:"2,keyasint,omitempty"`
		}{})
	}
	// The page says that it may do this.
	if err := use("open", l.alice); err != nil {
		l.t.Fatalf("a key that names nobody: %v", err)
	}
	for _, who := range []ed25519.PrivateKey{l.alice, l.key, l.stranger} {
		if err := use("named", who); err == nil {
			l.t.Error("a key that names its clients was used by a member")
		}
	}
}

func (l *liar) sybil() {
	sybil := fingerprintOf(l.t, l.stranger)
	var asked atomic.Int64
	list := memberList{Index: 1 << 62, Members: []memberIdentity{{dkek.NodeID{0xff}, sybil, "sybil.example:1"}}}
	for m := range l.genuine.Members() {
		list.Members = append(list.Members, memberIdentity{m.ID, transport.Fingerprint(m.Fingerprint), m.Addr})
	}
	l.answer("member.list", list, &asked)
	// Nobody but the liar answers the one that asks.
	n, other := l.honest[0], l.honest[1]
	other.pause()
	defer other.resume()
	l.p.eventually(n.name+" has asked who the stranger is", func(ctx context.Context) error {
		before := asked.Load()
		turnedAway(l.t, n, "kc-peer/1", "a stranger", l.stranger)
		if before < 2 { // the first answer has been acted on
			return errors.New("not yet")
		}
		return nil
	})
}

// memberList is the answer of member.list.
type memberList struct {
	Index   uint64           `cbor:"1,keyasint"`
	Members []memberIdentity `cbor:"2,keyasint"`
}

type memberIdentity struct {
	Node        dkek.NodeID           `cbor:"1,keyasint"`
	Fingerprint transport.Fingerprint `cbor:"2,keyasint"`
	Addr        string                `cbor:"3,keyasint"`
}

// mark has a node that starts told that it once had more: it does not start, which
// the page says.
func (l *liar) mark() {
	type markAnswer struct {
		Index uint64 `cbor:"1,keyasint"`
	}
	n, asked := l.honest[1], new(atomic.Int64)
	n.stop()
	l.answer("member.mark", markAnswer{1 << 62}, asked)
	n.start()
	if said := n.ends(l.p.t.(*testing.T)); !strings.Contains(said, "data folder was rolled back") || !strings.Contains(said, l.addr) {
		l.t.Errorf("%s says: %s", n.name, said)
	}
	l.answer("member.mark", markAnswer{}, asked)
	n.start()
}
