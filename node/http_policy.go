package node

import (
	"slices"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// policy is what the state says, with its defaults in place.
func (a *asked) policy() (api.Policy, error) {
	cluster, ok := a.view.Cluster()
	if !ok {
		return api.Policy{}, errNothingYet
	}
	p := cluster.Policy
	wire := api.Policy{
		Copies: p.CopiesOrDefault(), StaleForSeconds: int64(p.StaleTime() / time.Second),
		DeleteAfterSeconds: int64(p.DeleteTime() / time.Second), Threshold: p.Threshold, Legacy: []string{},
	}
	for _, keyType := range p.Legacy {
		wire.Legacy = append(wire.Legacy, string(keyType))
	}
	return wire, nil
}

// policyFromWire says everything outright, also what is the default, so that a
// later default changes nothing that operators signed. Maxima are the state's.
func policyFromWire(q api.Policy) (fsm.Policy, error) {
	stalest, longest := int64(fsm.MaxStaleFor/time.Second), int64(fsm.MaxDeleteWait/time.Second)
	switch {
	case q.Copies < 1:
		return fsm.Policy{}, malformed("policy: copies: want at least 1")
	case q.StaleForSeconds < 0 || q.StaleForSeconds > stalest:
		return fsm.Policy{}, malformed("policy: stale_for_seconds: want 0 (not at all) to %d", stalest)
	case q.DeleteAfterSeconds < 1 || q.DeleteAfterSeconds > longest:
		return fsm.Policy{}, malformed("policy: delete_after_seconds: want 1 to %d", longest)
	}
	p := fsm.Policy{
		Copies: q.Copies, StaleFor: q.StaleForSeconds * 1000, DeleteWait: q.DeleteAfterSeconds * 1000, Threshold: q.Threshold,
	}
	if p.StaleFor == 0 {
		p.StaleFor = -1
	}
	for _, name := range q.Legacy {
		keyType, err := hsm.ParseKeyType(name)
		if err != nil || !keyType.Legacy() {
			return p, malformed("policy: %.40q is no legacy key type", name)
		}
		p.Legacy = append(p.Legacy, keyType)
	}
	slices.Sort(p.Legacy)
	p.Legacy = slices.Compact(p.Legacy)
	return p, nil
}
