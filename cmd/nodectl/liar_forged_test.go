//go:build faults

package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// forgery is a ceremony in a state that a leader made up, in which it is approved,
// and one of the operators in force is the liar's.
type forgery struct {
	name  string // as in docs/threats.md
	forge func(l *liar) *fsm.Ceremony
}

var forgeries = []forgery{
	{"a ceremony that nobody approved", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals = nil
		return row
	}},
	{"a ceremony that too few operators approved", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals = row.Approvals[:1]
		return row
	}},
	{"one operator's approval twice", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals[1] = row.Approvals[0]
		return row
	}},
	{"an invented signature of an operator", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals[1].Signature = make([]byte, ed25519.SignatureSize)
		return row
	}},
	{"an invented operator", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals[1] = l.approval(l.stranger, row.Open)
		return row
	}},
	{"a lower k", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { o.Govern = l.ownSet().Ref() })
		row.Approvals = []fsm.Approval{l.approval(l.alice, row.Open)}
		return row
	}},
	{"operators of its own", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { o.Govern = l.ownSet().Ref() })
		row.Approvals = []fsm.Approval{l.approval(l.stranger, row.Open)}
		return row
	}},
	{"approvals of operators who were replaced", func(l *liar) *fsm.Ceremony {
		// One was enough then, and every member knows that.
		var first fsm.GovernRef
		for record := range l.genuine.Governs(0) {
			first = record.Set.Ref()
			break
		}
		_, row := l.open(func(o *fsm.Open) { o.Govern = first })
		row.Approvals = row.Approvals[:1]
		return row
	}},
	{"a denial for an approval", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals[1].Signature, _ = fsm.SignMessage(l.bob, fsm.DomainDeny, row.Open)
		return row
	}},
	{"approvals of another Open", func(l *liar) *fsm.Ceremony {
		_, other := l.open(func(o *fsm.Open) { o.Reason = "what was shown" })
		_, row := l.open(func(*fsm.Open) {})
		row.Approvals = other.Approvals
		return row
	}},
	{"another recipient", func(l *liar) *fsm.Ceremony {
		o, row := l.open(func(o *fsm.Open) { l.receives(o, l.honest[1]) })
		return l.swapped(row, o, func() { l.receivesItself(o) })
	}},
	{"another key of the recipient", func(l *liar) *fsm.Ceremony {
		o, row := l.open(func(*fsm.Open) {})
		return l.swapped(row, o, func() { l.receivesItself(o) })
	}},
	{"a recipient's entry that another key signed", func(l *liar) *fsm.Ceremony {
		// Approved by operators who did not look: not even then.
		_, row := l.open(func(o *fsm.Open) {
			entry, err := fsm.SignStatement(l.stranger, fsm.DomainRecipient, l.entry(o, l.id, l.key))
			if err != nil {
				l.t.Fatal(err)
			}
			o.Recipients = []fsm.Signed{entry}
		})
		return row
	}},
	{"what another recipient is to get", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { l.receives(o, l.honest[1]) })
		return row
	}},
	{"a recipient of another key than the caller's", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { l.recipient(o, l.id, l.stranger) })
		return row
	}},
	{"an Open that its opener did not sign", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) {
			id, key := l.honest[1].nodeKey()
			o.Opener = dkek.Holder{Node: id, Fingerprint: dkek.Fingerprint(fingerprintOf(l.t, key))}
		})
		return row
	}},
	{"a later expiry", func(l *liar) *fsm.Ceremony {
		o, row := l.open(func(*fsm.Open) {})
		return l.swapped(row, o, func() { o.Expires += time.Hour.Milliseconds() })
	}},
	{"a ceremony that has expired", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { o.Expires = time.Now().Add(-time.Minute).UnixMilli() })
		row.Expires = time.Now().Add(time.Hour).UnixMilli()
		return row
	}},
	{"a ceremony that is closed", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(*fsm.Open) {})
		row.Outcome, row.Closed, row.ClosedAt = fsm.OutcomeDenied, row.Opened, row.Time
		return row
	}},
	{"another sharing", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { o.Source.Hash[0] ^= 1 })
		return row
	}},
	{"another incarnation", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { o.Incarnation++ })
		return row
	}},
	{"another cluster", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) { o.Cluster[0] ^= 1 })
		return row
	}},
	{"the approval of a provision for a reshare that it did not name", func(l *liar) *fsm.Ceremony {
		_, provision := l.open(func(*fsm.Open) {})
		_, row := l.open(func(o *fsm.Open) {
			source, _ := l.genuine.Proven()
			plan := source.Plan
			plan.Epoch, plan.Attempt, plan.Dealers, plan.Previous, plan.KCV = plan.Epoch+1, 1, plan.Holders[:plan.Threshold], source.Hash, source.KCV
			o.Kind, o.Plan, o.Cites = fsm.CeremonyReshare, &plan, &fsm.Cite{Ceremony: provision.ID, Hash: provision.Hash}
			l.allReceive(o)
		})
		row.Approvals, row.Cited = nil, true
		l.cited = append(l.cited, provision)
		return row
	}},
	{"shares in an approved change of operators", func(l *liar) *fsm.Ceremony {
		_, row := l.open(func(o *fsm.Open) {
			cluster, _ := l.genuine.Cluster()
			o.Kind = fsm.CeremonyGovern
			o.Proposal = &fsm.Proposal{Operators: cluster.Operators.Operators, Approvals: cluster.Operators.Approvals, Policy: cluster.Policy}
		})
		return row
	}},
}

// ownSet is the operator set that the liar would like to be in force: the honest
// ones beside its own, and one approval.
func (l *liar) ownSet() fsm.OperatorSet {
	cluster, _ := l.genuine.Cluster()
	set := cluster.Operators
	set.Number++
	set.Approvals = 1
	set.Operators = append(slices.Clone(set.Operators), fsm.Operator{Name: "stranger", Public: spki(l.t, l.stranger)})
	slices.SortFunc(set.Operators, func(a, b fsm.Operator) int {
		x, y := a.Fingerprint(), b.Fingerprint()
		return slices.Compare(x[:], y[:])
	})
	return set
}

// entry is a recipient's, with a key of the liar's making.
func (l *liar) entry(o *fsm.Open, id dkek.NodeID, key ed25519.PrivateKey) *fsm.RecipientStatement {
	l.t.Helper()
	fresh, err := dkek.NewRecipientKey(dkek.Hybrid())
	if err != nil {
		l.t.Fatal(err)
	}
	epoch, attempt := o.Source.Epoch, o.Source.Attempt
	if o.Plan != nil {
		epoch, attempt = o.Plan.Epoch, o.Plan.Attempt
	}
	return &fsm.RecipientStatement{
		Cluster: o.Cluster, Incarnation: o.Incarnation, Ceremony: o.Ceremony, Epoch: epoch, Attempt: attempt,
		Node:   dkek.Holder{Node: id, Fingerprint: dkek.Fingerprint(fingerprintOf(l.t, key))},
		Public: spki(l.t, key), DeviceKind: "soft", DeviceSerial: "forged", Key: fresh.Public(),
	}
}

// receives names a node as the recipient, as it would itself.
func (l *liar) receives(o *fsm.Open, n *process) {
	id, key := n.nodeKey()
	l.recipient(o, id, key)
}

func (l *liar) receivesItself(o *fsm.Open) { l.recipient(o, l.id, l.key) }

// allReceive names the holders of the plan as recipients, as they would themselves.
func (l *liar) allReceive(o *fsm.Open) {
	l.t.Helper()
	keys := map[dkek.NodeID]ed25519.PrivateKey{l.id: l.key}
	for _, n := range l.honest {
		id, key := n.nodeKey()
		keys[id] = key
	}
	var entries []fsm.Signed
	for _, h := range o.Plan.Holders {
		l.recipient(o, h.Node, keys[h.Node])
		entries = append(entries, o.Recipients...)
	}
	o.Recipients = entries
}

func (l *liar) recipient(o *fsm.Open, id dkek.NodeID, key ed25519.PrivateKey) {
	l.t.Helper()
	entry, err := fsm.SignStatement(key, fsm.DomainRecipient, l.entry(o, id, key))
	if err != nil {
		l.t.Fatal(err)
	}
	o.Recipients = []fsm.Signed{entry}
}

// open is a provision of the liar's own device, as it would be opened and approved
// in order, but for what change does before it is signed.
func (l *liar) open(change func(*fsm.Open)) (*fsm.Open, *fsm.Ceremony) {
	l.t.Helper()
	cluster, _ := l.genuine.Cluster()
	source, _ := l.genuine.Proven()
	o := &fsm.Open{
		Format: fsm.OpenFormat, Cluster: cluster.ID, Incarnation: cluster.Incarnation, Kind: fsm.CeremonyProvision, Reason: "a new device",
		Opener:  dkek.Holder{Node: l.id, Fingerprint: l.fingerprint()},
		Expires: time.Now().Add(time.Hour).UnixMilli(), Govern: cluster.Operators.Ref(), Source: source.Ref(),
	}
	rand.Read(o.Ceremony[:])
	l.receivesItself(o)
	change(o)
	l.opened++
	row := &fsm.Ceremony{
		ID: o.Ceremony, Kind: o.Kind, Opener: o.Opener.Node, Opened: l.genuine.Index() + l.opened, Time: l.genuine.Time(),
		Approved: l.genuine.Index() + l.opened,
	}
	for _, h := range source.Plan.Holders {
		row.Holders = append(row.Holders, h.Node)
	}
	l.fill(row, o)
	row.Approvals = []fsm.Approval{l.approval(l.alice, row.Open), l.approval(l.bob, row.Open)}
	return o, row
}

// fill puts an Open into its row, signed by the liar.
func (l *liar) fill(row *fsm.Ceremony, o *fsm.Open) {
	l.t.Helper()
	signed, err := fsm.SignOpen(l.key, o)
	if err != nil {
		l.t.Fatal(err)
	}
	row.Open, row.Signature, row.Hash, row.Expires, row.Recipients = signed.Open, signed.Signature, fsm.OpenHash(signed.Open), o.Expires, nil
	for _, entry := range o.Recipients {
		var s fsm.RecipientStatement
		if err := entry.Peek(&s); err != nil {
			l.t.Fatal(err)
		}
		row.Recipients = append(row.Recipients, s.Node.Node)
	}
}

// swapped changes an Open after it was approved.
func (l *liar) swapped(row *fsm.Ceremony, o *fsm.Open, change func()) *fsm.Ceremony {
	change()
	l.fill(row, o)
	return row
}

func (l *liar) approval(by ed25519.PrivateKey, open []byte) fsm.Approval {
	l.t.Helper()
	signature, err := fsm.SignMessage(by, fsm.DomainApproval, open)
	if err != nil {
		l.t.Fatal(err)
	}
	return fsm.Approval{Operator: dkek.Fingerprint(fingerprintOf(l.t, by)), Signature: signature}
}

// forgedCeremonies gives the honest nodes a state with every forgery in it, and
// asks them for their shares. One ceremony in it is what it seems, so that a holder
// that releases shows.
func (l *liar) forgedCeremonies() {
	l.t.Helper()
	state := &forgedState{machine: l.state()}
	cluster, _ := state.machine.State().Cluster()
	before := cluster.Operators
	cluster.Operators = l.ownSet()
	_, change := l.open(func(o *fsm.Open) {
		o.Kind, o.Source, o.Recipients = fsm.CeremonyGovern, fsm.SharingRef{}, nil
		o.Proposal = &fsm.Proposal{Operators: cluster.Operators.Operators, Approvals: 1}
	})
	state.governs = []*fsm.GovernRecord{{
		Number: cluster.Operators.Number, Previous: before.Digest(), Digest: cluster.Operators.Digest(), Set: cluster.Operators, Policy: cluster.Policy,
		Open: change.Open, Approvals: []fsm.Approval{l.approval(l.stranger, change.Open)},
	}}
	rows := make([]*fsm.Ceremony, len(forgeries))
	for i, f := range forgeries {
		rows[i] = f.forge(l)
	}
	_, genuine := l.open(func(*fsm.Open) {})
	l.approved = genuine.ID
	state.ceremonies = slices.Concat(rows, l.cited, []*fsm.Ceremony{genuine})
	l.install(state)
	for i, f := range forgeries {
		given, _ := l.shares(rows[i].ID)
		if given > 0 {
			l.t.Errorf("%s: %d shares left honest holders", f.name, given)
		}
	}
	l.releases(genuine.ID)
}
