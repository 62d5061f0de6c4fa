package node

import (
	"context"
	"fmt"
	"net/http"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// visitor is who asks over HTTP, as this state knows it. It is looked up for
// every request, so that a removal holds from the next one on.
type visitor struct {
	role        api.Who          // Operator, User, Auditor, Socket; Anyone for all others
	fingerprint dkek.Fingerprint // zero on the socket and for callers without a key
	name        string
	client      *fsm.Client // of a user or auditor
}

// whoOnPort goes by the key that the caller proved in the TLS handshake. Another
// member's key is nobody's here: members have their own protocol.
func (f *face) whoOnPort(r *http.Request, view *fsm.View) visitor {
	if r.TLS == nil {
		return visitor{role: api.Anyone}
	}
	peer, ok := transport.PeerFingerprint(*r.TLS)
	if !ok {
		return visitor{role: api.Anyone}
	}
	v := visitor{role: api.Anyone, fingerprint: dkek.Fingerprint(peer)}
	if operator, ok := view.Operator(v.fingerprint); ok {
		v.role, v.name = api.Operator, operator.Name
	} else if client, ok := view.Client(v.fingerprint); ok {
		v.role, v.name, v.client = api.Who(client.Role), client.Name, client
	}
	return v
}

// whoOnSocket: the socket lets in nobody but this process's own user and root,
// and is never an operator.
func whoOnSocket(*http.Request, *fsm.View) visitor {
	return visitor{role: api.Socket, name: "local administrator"}
}

// admit refuses callers whose kind may not ask for this route at all, and
// everything but health, status and secrets while the node is sealed.
func (a *asked) admit(ctx context.Context, who func(*http.Request, *fsm.View) visitor) error {
	if a.node.Sealed() != nil {
		switch a.route.Name {
		case api.HealthAlive, api.HealthReady, api.HealthState, api.OpenAPI, api.ClusterStatus, api.SecretSeal:
		default:
			return a.node.Sealed()
		}
	}
	if a.visitor.role == api.Anyone && !a.route.May(api.Anyone) && a.visitor.fingerprint != (dkek.Fingerprint{}) {
		if err := a.lookAgain(ctx, who); err != nil {
			return err
		}
	}
	switch {
	case a.route.May(a.visitor.role):
		return nil
	case a.visitor.role != api.Anyone:
		return &api.Error{Code: api.CodeForbidden, Message: string(a.visitor.role) + " " + a.visitor.name + " may not ask for " + a.route.Name,
			Hint: mayHint(a.route)}
	case a.visitor.fingerprint == dkek.Fingerprint{}:
		return &api.Error{Code: api.CodeUnauthenticated, Message: "this wants a client key", Hint: "show the key of an operator or client in the TLS handshake"}
	}
	return &api.Error{Code: api.CodeForbidden, Message: "the key " + a.visitor.fingerprint.String() + " is nobody's here",
		Hint: "an operator lets it in: nodectl client add, also again after client remove"}
}

// lookAgain asks the newest state for a caller whom this node does not know: it
// may have been started a moment ago and have yet to catch up. One caller at a time,
// so that strangers cannot have a node ask its leader more than once at a time; the
// others wait for their turn, and whom an answer has made known goes on at once.
func (a *asked) lookAgain(ctx context.Context, who func(*http.Request, *fsm.View) visitor) error {
	if a.node.cluster.Load() == nil {
		return a.node.outside()
	}
	unknown := fmt.Errorf("%w: this node has yet to catch up, and does not know the key %s", ErrNoLeader, a.visitor.fingerprint)
	waiting, cancel := context.WithTimeout(ctx, 2*readPatience)
	defer cancel()
	if take(waiting, a.face.stranger) != nil {
		return unknown
	}
	defer give(a.face.stranger)
	if known := who(a.http, a.node.view()); known.role != api.Anyone {
		a.view, a.visitor = a.node.view(), known
		return nil
	}
	if err := a.look(ctx); err != nil {
		return err
	}
	if a.visitor = who(a.http, a.view); a.visitor.role == api.Anyone && !a.fresh {
		return unknown
	}
	return nil
}

func mayHint(route api.Route) string {
	if route.May(api.Socket) && !route.May(api.Operator) {
		return "ask on the node itself, over its unix socket: --addr unix:/path"
	}
	return "ask an operator for the right, or use an operator's key"
}

// whoAmI says what the cluster knows about the caller.
func whoAmI(a *asked) api.Identity {
	id := api.Identity{Role: a.visitor.role, Name: a.visitor.name}
	if a.visitor.role != api.Socket {
		id.Fingerprint = a.visitor.fingerprint.String()
	}
	if a.visitor.client != nil {
		id.Prefixes, id.Verbs = a.visitor.client.Prefixes, verbsToWire(a.visitor.client.Verbs)
	}
	return id
}

// mayUse asks whether the visitor may do this with a key of this name. A route's
// verb is an fsm verb of the same name.
func (a *asked) mayUse(verb fsm.Verbs, name string) error {
	return a.view.May(a.visitor.fingerprint, verb, name)
}

func verbsToWire(verbs fsm.Verbs) []api.Verb {
	wire := []api.Verb{}
	for _, name := range verbs.Names() {
		wire = append(wire, api.Verb(name))
	}
	return wire
}

func verbsFromWire(verbs []api.Verb) (fsm.Verbs, error) {
	names := make([]string, len(verbs))
	for i, v := range verbs {
		names[i] = string(v)
	}
	return fsm.ParseVerbs(names)
}
