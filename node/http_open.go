package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// terms are the options of a ceremony that is opened for the caller. The request
// ID becomes the ceremony's, so that the same request opens no second one.
func (a *asked) terms(t api.CeremonyTerms) (CeremonyOptions, error) {
	if t.ExpiresSeconds != 0 && (t.ExpiresSeconds < 60 || t.ExpiresSeconds > int64(fsm.MaxCeremonyTime/time.Second)) {
		return CeremonyOptions{}, malformed("expires_seconds: want 60 to %d", int64(fsm.MaxCeremonyTime/time.Second))
	}
	if a.node.cluster.Load() == nil {
		return CeremonyOptions{}, ErrNoCluster
	}
	return CeremonyOptions{
		ID: fsm.CeremonyID(a.request), Reason: t.Reason, Purpose: "asked for by " + a.visitor.name,
		Expires: time.Duration(t.ExpiresSeconds) * time.Second,
	}, nil
}

// opened answers with the ceremony that was opened.
func (a *asked) opened(info *CeremonyInfo, err error) (api.Ceremony, error) {
	if err != nil {
		return api.Ceremony{}, err
	}
	return a.ceremonyNow(info.ID)
}

func (a *asked) ceremonyNow(id fsm.CeremonyID) (api.Ceremony, error) {
	a.view, a.fresh = a.node.view(), true
	row, ok := a.view.Ceremony(id)
	if !ok {
		return api.Ceremony{}, notFound("no ceremony %v", id)
	}
	return ceremonyToWire(a.view, row, newTimes(a.view)), nil
}

func openCreate(ctx context.Context, a *asked, q *api.CreateDKEKRequest) (api.Ceremony, error) {
	options, err := a.terms(q.CeremonyTerms)
	if err != nil {
		return api.Ceremony{}, err
	}
	options.Threshold = q.Threshold
	return a.opened(a.node.OpenCreate(ctx, options))
}

func openReshare(ctx context.Context, a *asked, q *api.ReshareRequest) (api.Ceremony, error) {
	options, err := a.terms(q.CeremonyTerms)
	if err != nil {
		return api.Ceremony{}, err
	}
	options.Threshold = q.Threshold
	if err := a.look(ctx); err != nil {
		return api.Ceremony{}, err
	}
	for _, text := range q.Holders {
		m, err := memberCalled(a.view, text)
		if err != nil {
			return api.Ceremony{}, err
		}
		options.Holders = append(options.Holders, m.ID)
	}
	return a.opened(a.node.OpenReshare(ctx, options))
}

// openDrill proves a sharing that waits for its proof, if there is one.
func openDrill(ctx context.Context, a *asked, q *api.DrillRequest) (api.Ceremony, error) {
	options, err := a.terms(q.CeremonyTerms)
	if err != nil {
		return api.Ceremony{}, err
	}
	if q.Sample < 0 || q.Sample > fsm.MaxSample {
		return api.Ceremony{}, malformed("sample: want 1 to %d, or 0 for 10", fsm.MaxSample)
	}
	options.Sample = q.Sample
	if err := a.look(ctx); err != nil {
		return api.Ceremony{}, err
	}
	if q.Node != "" {
		m, err := memberCalled(a.view, q.Node)
		if err != nil {
			return api.Ceremony{}, err
		}
		options.Node = m.ID
	}
	if proven, ok := a.view.Proven(); ok {
		if staged, ok := stagedAfter(a.view, proven); ok {
			options.Sharing = staged.Ref()
		}
	}
	return a.opened(a.node.OpenDrill(ctx, options))
}

func openReplace(ctx context.Context, a *asked, q *api.ReplaceRequest) (api.Ceremony, error) {
	options, err := a.terms(q.CeremonyTerms)
	if err != nil {
		return api.Ceremony{}, err
	}
	if err := a.look(ctx); err != nil {
		return api.Ceremony{}, err
	}
	m, err := memberCalled(a.view, q.Node)
	if err != nil {
		return api.Ceremony{}, err
	}
	options.Node = m.ID
	if q.Replaces != "" {
		if options.Replaces, err = holderCalled(a.view, q.Replaces); err != nil {
			return api.Ceremony{}, err
		}
	}
	return a.opened(a.node.OpenProvision(ctx, options))
}

// holderCalled finds a holder of the sharing in force, member or not any more,
// by name, ID or unique prefix of either.
func holderCalled(view *fsm.View, text string) (dkek.NodeID, error) {
	proven, ok := view.Proven()
	if !ok {
		return dkek.NodeID{}, ErrNoDKEK
	}
	var found []dkek.NodeID
	for _, h := range proven.Plan.Holders {
		name := strings.TrimSuffix(memberName(view, h.Node), " (removed)")
		if name == text || h.Node.String() == text {
			return h.Node, nil
		}
		if strings.HasPrefix(name, text) || strings.HasPrefix(h.Node.String(), text) {
			found = append(found, h.Node)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return dkek.NodeID{}, &api.Error{Code: api.CodeNotFound, Message: quoted(text) + " is not one holder", Hint: "see nodectl dkek status"}
}

// openGovern turns a change into the whole proposal that operators sign.
func openGovern(ctx context.Context, a *asked, q *api.GovernRequest) (api.Ceremony, error) {
	options, err := a.terms(q.CeremonyTerms)
	if err != nil {
		return api.Ceremony{}, err
	}
	if err := a.look(ctx); err != nil {
		return api.Ceremony{}, err
	}
	cluster, ok := a.view.Cluster()
	if !ok {
		return api.Ceremony{}, ErrNoCluster
	}
	if q.Number != cluster.Operators.Number {
		return api.Ceremony{}, &api.Error{Code: api.CodeConflict, Hint: "look again and repeat: nodectl operator list",
			Message: "the change was meant for another operator set than the one in force"}
	}
	proposal := fsm.Proposal{Approvals: cluster.Operators.Approvals, Policy: cluster.Policy}
	if q.Approvals != 0 {
		proposal.Approvals = q.Approvals
	}
	if q.Policy != nil {
		if proposal.Policy, err = policyFromWire(*q.Policy); err != nil {
			return api.Ceremony{}, err
		}
	}
	for _, text := range q.Remove {
		f, err := parseFingerprint(text)
		if err != nil {
			return api.Ceremony{}, err
		}
		if _, ok := cluster.Operators.Find(f); !ok {
			return api.Ceremony{}, notFound("%s is no operator", f)
		}
	}
	for _, o := range cluster.Operators.Operators {
		if !slices.Contains(q.Remove, o.Fingerprint().String()) {
			proposal.Operators = append(proposal.Operators, o)
		}
	}
	for _, o := range q.Add {
		proposal.Operators = append(proposal.Operators, fsm.Operator{Name: o.Name, Public: o.Public})
	}
	return a.opened(a.node.OpenGovern(ctx, proposal, options))
}

// signCeremony hands in an operator's signature. Who hands it in does not
// count: the state verifies it.
func signCeremony(ctx context.Context, a *asked, q *api.CeremonySignRequest, body func(fsm.CeremonyID, fsm.Approval) fsm.Body) (api.Ceremony, error) {
	var id fsm.CeremonyID
	if !decodeID(id[:], q.ID) {
		return api.Ceremony{}, malformed("%.64q is no ceremony ID: want 32 hexadecimal digits", q.ID)
	}
	operator, err := parseFingerprint(q.Operator)
	if err != nil {
		return api.Ceremony{}, err
	}
	if _, err := a.change(ctx, body(id, fsm.Approval{Operator: operator, Signature: q.Signature})); err != nil {
		return api.Ceremony{}, err
	}
	return a.ceremonyNow(id)
}
