package node

import (
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// CallerKind says how a caller showed who it is.
type CallerKind uint8

const (
	CallerSelf     CallerKind = iota + 1 // the program that this node runs in
	CallerSocket                         // the administrator of this machine, over the unix socket
	CallerMember                         // another node, for itself
	CallerOperator                       // an operator's key
	CallerClient                         // a client's key
)

func (k CallerKind) String() string {
	names := [...]string{"nobody", "this program", "local administrator", "member", "operator", "client"}
	if int(k) >= len(names) {
		return names[0]
	}
	return names[k]
}

// Caller is who asks for something, as far as the connection proved it. What it
// may do is looked up in the state at every request, so that removing somebody
// holds from the next one on.
type Caller struct {
	Kind        CallerKind
	Fingerprint dkek.Fingerprint // zero for the socket
	Name        string           // for people
}

// Self is the program that this node runs in. It may do what a member may.
func (n *Node) Self() Caller {
	return Caller{Kind: CallerSelf, Fingerprint: n.Fingerprint(), Name: n.config.Name}
}

// CallerOf finds out whose fingerprint this is, in the state as it is now.
func (n *Node) CallerOf(f dkek.Fingerprint) (Caller, error) { return callerIn(n.view(), f) }

func callerIn(view *fsm.View, f dkek.Fingerprint) (Caller, error) {
	if o, ok := view.Operator(f); ok {
		return Caller{CallerOperator, f, o.Name}, nil
	}
	if c, ok := view.Client(f); ok {
		return Caller{CallerClient, f, c.Name}, nil
	}
	if m, ok := view.MemberByFingerprint(f); ok {
		return Caller{CallerMember, f, m.Name}, nil
	}
	return Caller{}, fmt.Errorf("%w: the fingerprint %s is nobody's here", ErrForbidden, f)
}

// as is the caller with the fingerprint that the state gives it: this program has
// that of its node, whose key may have been rotated since the caller was made.
func (n *Node) as(caller Caller, view *fsm.View) Caller {
	if caller.Kind == CallerSelf && n.hadKey(caller.Fingerprint) {
		if m, ok := view.Member(n.id); ok {
			caller.Fingerprint = m.Fingerprint
		}
	}
	return caller
}

// authorise says why the caller may not do this with a key, or nil. The answer
// is a *fsm.Error with code NotAllowed, or ErrForbidden for the socket, which
// never acts on keys.
func (n *Node) authorise(view *fsm.View, caller Caller, verb fsm.Verbs, name string) error {
	if err := caller.actsOnKeys(); err != nil {
		return err
	}
	return view.May(n.as(caller, view).Fingerprint, verb, name)
}

func (c Caller) actsOnKeys() error {
	switch c.Kind {
	case CallerSelf, CallerMember, CallerOperator, CallerClient:
		return nil
	}
	return fmt.Errorf("%w: the %s does not act on keys: use a client's or operator's identity", ErrForbidden, c.Kind)
}

// authoriseUse is authorise for one use of a key that was looked up already. It
// goes the short way for the program that the node runs in.
func (n *Node) authoriseUse(view *fsm.View, caller Caller, verb fsm.Verbs, key *fsm.Key) error {
	if err := caller.actsOnKeys(); err != nil {
		return err
	}
	if caller.Kind == CallerSelf && key.Usage&verb == verb && (len(key.Policy.Clients) == 0 || slices.Contains(key.Policy.Clients, caller.Fingerprint)) {
		if m, ok := view.Member(n.id); ok && m.Fingerprint == caller.Fingerprint {
			return nil
		}
	}
	return view.MayUse(n.as(caller, view).Fingerprint, verb, key)
}

// actor is the caller as commands name it: this node vouches for it.
func (n *Node) actor(caller Caller) fsm.Actor {
	if caller.Kind == CallerSelf {
		return n.self()
	}
	return fsm.Actor{Who: caller.Fingerprint, Node: n.id}
}

// propose for a caller, under a request ID of its own or a new one.
func (n *Node) command(caller Caller, request fsm.RequestID, body fsm.Body) fsm.Command {
	if request == (fsm.RequestID{}) {
		request = newRequest()
	}
	return fsm.Command{Header: fsm.Header{Request: request, Actor: n.actor(caller)}, Body: body}
}
