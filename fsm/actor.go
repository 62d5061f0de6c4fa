package fsm

import (
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
)

// May tells whether somebody may do something with keys: with the keys whose
// name is given, or with the one key where it exists. Members (the program that
// embeds one) and operators may do all that a key's own policy allows.
func (v *View) May(who dkek.Fingerprint, verb Verbs, name string) error {
	if err := v.may(who, verb, name); err != nil {
		return err
	}
	return nil
}

// MayUse is May for a key that was looked up already.
func (v *View) MayUse(who dkek.Fingerprint, verb Verbs, key *Key) error {
	err := v.mayByTable(who, verb, key.Name)
	if err == nil {
		err = v.mayWith(who, verb, key)
	}
	if err != nil {
		return err
	}
	return nil
}

func (v *View) may(who dkek.Fingerprint, verb Verbs, name string) *Error {
	if err := v.mayByTable(who, verb, name); err != nil {
		return err
	}
	key, ok := v.Key(name)
	if !ok {
		return nil
	}
	return v.mayWith(who, verb, key)
}

// mayWith is what the key's own policy says.
func (v *View) mayWith(who dkek.Fingerprint, verb Verbs, key *Key) *Error {
	if use := verb & KeyVerbs; use&^key.Usage != 0 {
		return refuse(NotAllowed, "key %s is for %s, not for %s", key.Name, key.Usage, use)
	}
	if verb&KeyVerbs != 0 && len(key.Policy.Clients) > 0 && !v.named(key.Policy.Clients, who) {
		return refuse(NotAllowed, "key %s names its clients, and this is none of them", key.Name)
	}
	return nil
}

// named tells whether a key's clients name somebody: a member also by a key that
// it has had before, or its rotation would cost it what it alone may use.
func (v *View) named(clients []dkek.Fingerprint, who dkek.Fingerprint) bool {
	if slices.Contains(clients, who) {
		return true
	}
	m, ok := v.MemberByFingerprint(who)
	if !ok || m.Former == (dkek.Fingerprint{}) {
		return false
	}
	for c := range v.MemberChanges(0) {
		if c.Node == m.ID && slices.Contains(clients, c.Fingerprint) {
			return true
		}
	}
	return false
}

func (v *View) mayByTable(who dkek.Fingerprint, verb Verbs, name string) *Error {
	if _, ok := v.Operator(who); ok {
		return nil
	}
	err := v.clientMay(who, verb, name)
	if err == nil {
		return nil
	}
	if _, ok := v.MemberByFingerprint(who); ok { // last: it looks at all members
		return nil
	}
	return err
}

func (v *View) clientMay(who dkek.Fingerprint, verb Verbs, name string) *Error {
	client, ok := v.Client(who)
	switch {
	case !ok:
		return refuse(NotAllowed, "fingerprint %v is nobody's here", who)
	case client.Role == RoleAuditor && verb == List:
		return nil
	case client.Verbs&verb != verb || verb == 0:
		return refuse(NotAllowed, "client %s may not %s", client.Name, verb)
	case verb == Random || slices.ContainsFunc(client.Prefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
		return nil
	}
	return refuse(NotAllowed, "client %s may not act on key %.128s", client.Name, name)
}

// self is the proposing node's row, after byMember.
func (t *txn) self() *Member {
	m, _ := t.Member(t.command.Actor.Node)
	return m
}

// proposed wants the proposing node to be a member: it vouches for who asked.
func (t *txn) proposed() (*Member, *Error) {
	if m, ok := t.Member(t.command.Actor.Node); ok {
		return m, nil
	}
	return nil, refuse(NotAllowed, "node %v is not a member", t.command.Actor.Node)
}

// who is who asked. The proposing node vouches for that, so what it asked for
// itself under the key that it had until just now was asked by itself all the same.
func (t *txn) who() dkek.Fingerprint {
	actor := t.command.Actor
	if m, ok := t.Member(actor.Node); ok && actor.Who == m.Former && m.Former != (dkek.Fingerprint{}) {
		return m.Fingerprint
	}
	return actor.Who
}

// byMember wants a member that acts for itself.
func (t *txn) byMember() *Error {
	m, err := t.proposed()
	if err != nil {
		return err
	}
	if m.Fingerprint != t.who() {
		return refuse(NotAllowed, "only a node itself may do this")
	}
	return nil
}

// bySelf wants this very member.
func (t *txn) bySelf(id dkek.NodeID) *Error {
	if err := t.byMember(); err != nil {
		return err
	}
	if t.command.Actor.Node != id {
		return refuse(NotAllowed, "only node %v itself may do this", id)
	}
	return nil
}

func (t *txn) byOperator() *Error {
	if _, err := t.proposed(); err != nil {
		return err
	}
	if _, ok := t.Operator(t.command.Actor.Who); !ok {
		return refuse(NotAllowed, "only an operator may do this")
	}
	return nil
}

func (t *txn) byMemberOrOperator() *Error {
	if t.byMember() == nil {
		return nil
	}
	return t.byOperator()
}

// byUser wants somebody who may act on keys so.
func (t *txn) byUser(verb Verbs, name string) *Error {
	if _, err := t.proposed(); err != nil {
		return err
	}
	return t.may(t.who(), verb, name)
}
