package node

import (
	"context"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

func ceremonyEndpoints() map[string]endpoint {
	return map[string]endpoint{
		api.DKEKStatus:   look(showDKEK),
		api.CeremonyList: ask(listCeremonies),
		api.CeremonyShow: ask(showCeremony),
		api.CeremonyApprove: ask(func(ctx context.Context, a *asked, q *api.CeremonySignRequest) (api.Ceremony, error) {
			return signCeremony(ctx, a, q, func(id fsm.CeremonyID, signed fsm.Approval) fsm.Body {
				return &fsm.CeremonyApprove{Ceremony: id, Approval: signed}
			})
		}),
		api.CeremonyDeny: ask(func(ctx context.Context, a *asked, q *api.CeremonySignRequest) (api.Ceremony, error) {
			return signCeremony(ctx, a, q, func(id fsm.CeremonyID, signed fsm.Approval) fsm.Body {
				return &fsm.CeremonyDeny{Ceremony: id, Denial: signed}
			})
		}),
		api.DKEKCreate:     ask(openCreate),
		api.DKEKReshare:    ask(openReshare),
		api.DKEKDrill:      ask(openDrill),
		api.DeviceReplace:  ask(openReplace),
		api.OperatorGovern: ask(openGovern),
	}
}

func showDKEK(ctx context.Context, a *asked) (api.DKEK, error) {
	if err := a.look(ctx); err != nil {
		return api.DKEK{}, err
	}
	a.face.askMembers(ctx, a.view)
	return a.face.dkek(a.view, newTimes(a.view)), nil
}

func listCeremonies(ctx context.Context, a *asked, q *api.CeremonyListQuery) (api.Ceremonies, error) {
	limit, err := pageLimit(q.Limit)
	if err != nil {
		return api.Ceremonies{}, err
	}
	if err := a.look(ctx); err != nil {
		return api.Ceremonies{}, err
	}
	var rows []*fsm.Ceremony
	for c := range a.view.Ceremonies() {
		if !q.Open || c.Outcome == fsm.OutcomeOpen {
			rows = append(rows, c)
		}
	}
	list := api.Ceremonies{Ceremonies: []api.Ceremony{}}
	at := newTimes(a.view)
	for i := len(rows) - 1; i >= 0 && len(list.Ceremonies) < limit; i-- {
		wire := ceremonyToWire(a.view, rows[i], at)
		wire.Open = []byte{}
		list.Ceremonies = append(list.Ceremonies, wire)
	}
	return list, nil
}

// openCeremonies are those that have not ended, for status.
func openCeremonies(view *fsm.View) []api.Ceremony {
	var open []api.Ceremony
	at := newTimes(view)
	for c := range view.Ceremonies() {
		if c.Outcome == fsm.OutcomeOpen {
			wire := ceremonyToWire(view, c, at)
			wire.Open = []byte{}
			open = append(open, wire)
		}
	}
	return open
}

func showCeremony(ctx context.Context, a *asked, q *api.CeremonyQuery) (api.Ceremony, error) {
	wait := time.Duration(q.WaitSeconds) * time.Second
	if wait < 0 || wait > api.MaxWait {
		return api.Ceremony{}, malformed("wait: want 0 to %d seconds", int(api.MaxWait/time.Second))
	}
	if err := a.look(ctx); err != nil {
		return api.Ceremony{}, err
	}
	row, err := ceremonyCalled(a.view, q.ID)
	if err != nil {
		return api.Ceremony{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		changed := a.node.cluster.Load().log.AppliedChanged()
		a.view = a.node.view()
		if newer, ok := a.view.Ceremony(row.ID); ok {
			row = newer
		}
		wire := ceremonyToWire(a.view, row, newTimes(a.view))
		if wire.Revision > q.After {
			return wire, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return wire, nil
		case <-a.face.closing:
			return wire, nil
		}
	}
}

// ceremonyCalled finds a ceremony by its ID or a unique prefix of it.
func ceremonyCalled(view *fsm.View, text string) (*fsm.Ceremony, error) {
	var found []*fsm.Ceremony
	for c := range view.Ceremonies() {
		if text != "" && strings.HasPrefix(c.ID.String(), text) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &api.Error{Code: api.CodeNotFound, Message: "no ceremony is called " + quoted(text), Hint: "see nodectl ceremony list"}
	}
	return nil, &api.Error{Code: api.CodeBadRequest, Message: quoted(text) + " fits several ceremonies", Hint: "give the whole ID"}
}

func ceremonyToWire(view *fsm.View, c *fsm.Ceremony, at *times) api.Ceremony {
	wire := api.Ceremony{
		ID: c.ID.String(), Kind: c.Kind.String(), State: ceremonyState(c), Outcome: string(c.Outcome), Detail: c.Detail,
		OpenedBy: memberName(view, c.Opener), OpenedAt: logTime(c.Time), ExpiresAt: logTime(c.Expires), Open: c.Open,
		Approvals: []api.Approval{}, Revision: revision(view, c),
	}
	open, err := fsm.ParseOpen(c.Open)
	if err != nil {
		return wire // the state took it, so it parses
	}
	wire.Reason = open.Reason
	set := setNumbered(view, open.Govern.Number)
	if !c.Cited {
		wire.Needed = set.Approvals
	}
	for _, approval := range c.Approvals {
		operator, _ := set.Find(approval.Operator)
		wire.Approvals = append(wire.Approvals, api.Approval{
			Operator: approval.Operator.String(), Name: operator.Name, Signature: approval.Signature, At: approvedAt(at, c, operator.Name),
		})
	}
	if c.Outcome == fsm.OutcomeOpen && c.Approved != 0 {
		wire.Progress = progressOf(view, c, open)
	}
	for other := range view.Ceremonies() {
		if !other.Cited {
			continue
		}
		if o, err := fsm.ParseOpen(other.Open); err == nil && o.Cites != nil && o.Cites.Ceremony == c.ID {
			wire.Successor = other.ID.String()
		}
	}
	return wire
}

func ceremonyState(c *fsm.Ceremony) string {
	switch {
	case c.Outcome == fsm.OutcomeSuccess || c.Outcome == fsm.OutcomeUnproven:
		return api.CeremonyDone
	case c.Outcome != fsm.OutcomeOpen:
		return api.CeremonyFailed
	case c.Approved != 0:
		return api.CeremonyApproved
	}
	return api.CeremonyOpen
}

// setNumbered is the operator set of a number.
func setNumbered(view *fsm.View, number uint64) fsm.OperatorSet {
	for record := range view.Governs(number) {
		if record.Number == number {
			return record.Set
		}
		break
	}
	return fsm.OperatorSet{}
}

// approvedAt is when an operator approved, by the audit records.
func approvedAt(at *times, c *fsm.Ceremony, operator string) time.Time {
	for r := range at.view.Audit(0) {
		if r.Index > c.Opened && r.Action == "ceremony approve" && r.Target == c.ID.String() && r.Detail == operator {
			return logTime(r.Time)
		}
	}
	return time.Time{}
}

// sharingDealt is the sharing that a create or reshare deals, or nil.
func sharingDealt(view *fsm.View, open *fsm.Open) *fsm.SharingRow {
	if open.Plan == nil {
		return nil
	}
	s, _ := view.Sharing(open.Plan.Epoch, open.Plan.Attempt)
	return s
}

// revision counts what has happened to a ceremony: all of it only ever grows.
func revision(view *fsm.View, c *fsm.Ceremony) uint64 {
	n := 1 + len(c.Approvals) + len(c.Denials) + len(c.Releases) + len(c.Reports)
	if c.Approved != 0 {
		n++
	}
	if c.Outcome != fsm.OutcomeOpen {
		n++
	}
	if open, err := fsm.ParseOpen(c.Open); err == nil {
		if s := sharingDealt(view, open); s != nil {
			n += len(s.Dealings) + len(s.Acked)
		}
	}
	return uint64(n)
}

// progressOf says how far an approved ceremony is, by what is recorded.
func progressOf(view *fsm.View, c *fsm.Ceremony, open *fsm.Open) *api.Progress {
	if s := sharingDealt(view, open); s != nil {
		switch {
		case len(s.Dealings) < len(s.Plan.Dealers):
			return &api.Progress{Step: "dealing", Done: len(s.Dealings), Total: len(s.Plan.Dealers)}
		case len(s.Acked) < len(s.Plan.Holders):
			return &api.Progress{Step: "storing shares", Done: len(s.Acked), Total: len(s.Plan.Holders)}
		}
		return &api.Progress{Step: "proving in devices", Done: len(c.Reports), Total: len(open.Recipients)}
	}
	source, ok := view.Sharing(open.Source.Epoch, open.Source.Attempt)
	if !ok {
		return &api.Progress{Step: "under way"}
	}
	if done := len(c.Releases); done < source.Plan.Threshold {
		return &api.Progress{Step: "gathering shares", Done: done, Total: source.Plan.Threshold}
	}
	return &api.Progress{Step: "proving in the device", Done: len(c.Reports), Total: 1}
}
