package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

func peopleEndpoints() map[string]endpoint {
	return map[string]endpoint{
		api.OperatorList:  look(func(_ context.Context, a *asked) (api.OperatorSet, error) { return a.pinned(), nil }),
		api.OperatorChain: ask(governChain),
		api.PolicyShow:    look(func(_ context.Context, a *asked) (api.Policy, error) { return a.policy() }),
		api.ClientList:    look(listClients),
		api.ClientAdd:     ask(addClient),
		api.ClientRemove:  ask(removeClient),
		api.AuditList:     ask(listAudit),
	}
}

// pinned is the operator set that this node believes, whatever the log says.
func (a *asked) pinned() api.OperatorSet {
	wire := api.OperatorSet{Operators: []api.OperatorKey{}}
	if a.node.pins == nil {
		return wire
	}
	set := a.node.pins.set()
	wire.Number, wire.Digest, wire.Approvals = set.Number, set.Digest().String(), set.Approvals
	for _, o := range set.Operators {
		wire.Operators = append(wire.Operators, api.OperatorKey{Name: o.Name, Public: o.Public, Fingerprint: o.Fingerprint().String()})
	}
	return wire
}

// governChain gives the signed changes; the first set was signed by nobody and
// is pinned by hand.
func governChain(ctx context.Context, a *asked, q *api.ChainQuery) (api.GovernChain, error) {
	if err := a.look(ctx); err != nil {
		return api.GovernChain{}, err
	}
	chain := api.GovernChain{Records: []api.GovernRecord{}}
	if q.After == ^uint64(0) {
		return chain, nil
	}
	for record := range a.view.Governs(max(q.After+1, 2)) {
		wire := api.GovernRecord{Number: record.Number, Open: record.Open}
		for _, approval := range record.Approvals {
			wire.Approvals = append(wire.Approvals, api.Approval{Operator: approval.Operator.String(), Signature: approval.Signature})
		}
		chain.Records = append(chain.Records, wire)
		if len(chain.Records) == api.MaxPage {
			break
		}
	}
	return chain, nil
}

func listClients(ctx context.Context, a *asked) (api.Clients, error) {
	if err := a.look(ctx); err != nil {
		return api.Clients{}, err
	}
	clients, at := []api.Client{}, newTimes(a.view)
	for c := range a.view.Clients() {
		clients = append(clients, clientToWire(c, at))
	}
	slices.SortFunc(clients, func(x, y api.Client) int { return strings.Compare(x.Name, y.Name) })
	return api.Clients{Clients: clients}, nil
}

func clientToWire(c *fsm.Client, at *times) api.Client {
	wire := api.Client{Name: c.Name, Fingerprint: c.Fingerprint.String(), Role: api.Who(c.Role), Prefixes: c.Prefixes, AddedAt: at.of(c.Index)}
	if c.Verbs != 0 {
		wire.Verbs = verbsToWire(c.Verbs)
	}
	return wire
}

func addClient(ctx context.Context, a *asked, q *api.ClientAddRequest) (api.Client, error) {
	verbs, err := verbsFromWire(q.Verbs)
	if err != nil {
		return api.Client{}, err
	}
	if len(q.Public) == 0 || len(q.Public) > fsm.MaxPublic {
		return api.Client{}, malformed("public: want a DER SubjectPublicKeyInfo of up to %d bytes", fsm.MaxPublic)
	}
	if _, err := parseClientKey(q.Public); err != nil {
		return api.Client{}, err
	}
	body := &fsm.ClientAdd{
		Name: q.Name, Fingerprint: fsm.FingerprintOf(q.Public), Role: fsm.Role(q.Role),
		Prefixes: slices.Compact(slices.Sorted(slices.Values(q.Prefixes))), Verbs: verbs,
	}
	if _, err := a.change(ctx, body); err != nil {
		return api.Client{}, err
	}
	client, ok := a.view.Client(body.Fingerprint)
	if !ok {
		return api.Client{}, &fsm.Error{Code: fsm.NotFound, Message: "the client was removed meanwhile"}
	}
	return clientToWire(client, newTimes(a.view)), nil
}

func removeClient(ctx context.Context, a *asked, q *api.ClientRemoveRequest) (api.Ack, error) {
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	for c := range a.view.Clients() {
		if c.Name == q.Client || c.Fingerprint.String() == q.Client {
			if _, err := a.change(ctx, &fsm.ClientRemove{Fingerprint: c.Fingerprint}); err != nil {
				return api.Ack{}, err
			}
			return api.Ack{Index: a.view.Index()}, nil
		}
	}
	return api.Ack{}, &api.Error{Code: api.CodeNotFound, Message: "no client is called " + quoted(q.Client), Hint: "see nodectl client list"}
}

// quoted is what somebody gave, short enough for a message.
func quoted(text string) string { return fmt.Sprintf("%.80q", text) }

// pageLimit is how long a page is.
func pageLimit(limit int) (int, error) {
	switch {
	case limit == 0:
		return api.DefaultPage, nil
	case limit < 0 || limit > api.MaxPage:
		return 0, malformed("limit %d: want 1 to %d", limit, api.MaxPage)
	}
	return limit, nil
}
