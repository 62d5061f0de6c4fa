package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

func (f *fake) ceremonyHandlers() handlers {
	open := func(kind fsm.CeremonyKind, terms func(request any) api.CeremonyTerms) func(api.Who, any, any) (any, error) {
		return func(_ api.Who, _, request any) (any, error) { return f.open(kind, terms(request), request) }
	}
	return handlers{
		api.DKEKStatus: func(api.Who, any, any) (any, error) {
			return api.DKEK{State: "none", Holders: []api.ShareHolder{}}, nil
		},
		api.DKEKCreate:     open(fsm.CeremonyCreate, func(r any) api.CeremonyTerms { return r.(*api.CreateDKEKRequest).CeremonyTerms }),
		api.DKEKReshare:    open(fsm.CeremonyReshare, func(r any) api.CeremonyTerms { return r.(*api.ReshareRequest).CeremonyTerms }),
		api.DKEKDrill:      open(fsm.CeremonyDrill, func(r any) api.CeremonyTerms { return r.(*api.DrillRequest).CeremonyTerms }),
		api.DeviceReplace:  open(fsm.CeremonyProvision, func(r any) api.CeremonyTerms { return r.(*api.ReplaceRequest).CeremonyTerms }),
		api.OperatorGovern: open(fsm.CeremonyGovern, func(r any) api.CeremonyTerms { return r.(*api.GovernRequest).CeremonyTerms }),
		api.CeremonyList: func(api.Who, any, any) (any, error) {
			list := api.Ceremonies{Ceremonies: []api.Ceremony{}}
			for _, c := range f.ceremonies {
				list.Ceremonies = append(list.Ceremonies, *c)
			}
			return list, nil
		},
		api.CeremonyShow: func(_ api.Who, query, _ any) (any, error) {
			return f.find(query.(*api.CeremonyQuery).ID)
		},
		api.CeremonyApprove: func(_ api.Who, _, request any) (any, error) {
			return f.decide(request.(*api.CeremonySignRequest), fsm.DomainApproval)
		},
		api.CeremonyDeny: func(_ api.Who, _, request any) (any, error) {
			return f.decide(request.(*api.CeremonySignRequest), fsm.DomainDeny)
		},
	}
}

func (f *fake) find(id string) (*api.Ceremony, error) {
	for _, c := range f.ceremonies {
		if c.ID == id {
			return c, nil
		}
	}
	return nil, refuse(api.CodeNotFound, "no such ceremony")
}

// open puts together what a node would, or what a liar would.
func (f *fake) open(kind fsm.CeremonyKind, terms api.CeremonyTerms, request any) (any, error) {
	o := &fsm.Open{Format: fsm.OpenFormat, Cluster: f.cluster, Incarnation: 1, Kind: kind, Reason: terms.Reason, Opener: f.holder(),
		Expires: time.Now().Add(time.Duration(terms.ExpiresSeconds) * time.Second).UnixMilli(), Govern: f.set_.Ref()}
	rand.Read(o.Ceremony[:])
	switch f.lie {
	case "kind":
		kind = fsm.CeremonyGovern
		o.Kind = kind
		request = &api.GovernRequest{Approvals: 1}
	case "reason":
		o.Reason = "nothing special"
	case "expiry":
		o.Expires += (20 * time.Hour).Milliseconds()
	case "clock":
		o.Expires += (2 * time.Hour).Milliseconds()
	case "late":
		o.Expires -= (4 * time.Hour).Milliseconds()
	case "cluster":
		rand.Read(o.Cluster[:])
	case "set":
		o.Govern.Number++
	}
	target, key := f.target()
	if kind == fsm.CeremonyCreate || kind == fsm.CeremonyReshare {
		o.Plan = &dkek.Plan{Cluster: f.cluster, Epoch: 1, Attempt: 1, Threshold: 1, Origin: dkek.Single, Holders: []dkek.Holder{target}, Dealers: []dkek.Holder{target}}
	}
	if kind == fsm.CeremonyGovern {
		o.Proposal = f.proposal(request.(*api.GovernRequest))
	}
	if kind != fsm.CeremonyGovern {
		entry, err := f.recipient(o, target, key)
		if err != nil {
			return nil, err
		}
		o.Recipients = []fsm.Signed{entry}
	}
	if kind == fsm.CeremonyProvision && f.lie == "successor" {
		o.Successor = &fsm.Successor{Holders: []dkek.Holder{f.holder()}, Threshold: 1}
	}
	encoded, err := fsm.EncodeOpen(o)
	if err != nil {
		return nil, err
	}
	c := &api.Ceremony{ID: o.Ceremony.String(), Kind: o.Kind.String(), State: api.CeremonyOpen, Reason: terms.Reason, OpenedBy: "node-1",
		OpenedAt: time.Now().UTC(), ExpiresAt: time.UnixMilli(o.Expires).UTC(), Open: encoded, Needed: f.set_.Approvals, Approvals: []api.Approval{}, Revision: 1}
	f.ceremonies = append(f.ceremonies, c)
	return c, nil
}

func (f *fake) proposal(r *api.GovernRequest) *fsm.Proposal {
	wire := r.Add
	for _, o := range setToWire(f.set_).Operators {
		gone := false
		for _, fingerprint := range r.Remove {
			gone = gone || fingerprint == o.Fingerprint
		}
		if !gone {
			wire = append(wire, o)
		}
	}
	approvals := r.Approvals
	if approvals == 0 {
		approvals = f.set_.Approvals
	}
	if f.lie == "operators" {
		public, _, _ := ed25519.GenerateKey(rand.Reader)
		spki, _ := x509.MarshalPKIXPublicKey(public)
		wire = append(wire, api.OperatorKey{Name: "mallory", Public: spki})
	}
	policy := f.policy
	if p := r.Policy; p != nil {
		policy = fsm.Policy{Copies: p.Copies, StaleFor: p.StaleForSeconds * 1000, DeleteWait: p.DeleteAfterSeconds * 1000, Threshold: p.Threshold}
		for _, name := range p.Legacy {
			policy.Legacy = append(policy.Legacy, hsm.KeyType(name))
		}
	}
	if f.lie == "policy" {
		policy.StaleFor = fsm.MaxStaleFor.Milliseconds()
	}
	return &fsm.Proposal{Operators: makeSet(f.cluster, 0, approvals, wire).Operators, Approvals: approvals, Policy: policy}
}

// target is the node that receives, with its key: under the lies "target" and
// "holder" with another one.
func (f *fake) target() (dkek.Holder, ed25519.PrivateKey) {
	if f.lie != "target" && f.lie != "holder" {
		return f.holder(), f.key
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	spki, _ := x509.MarshalPKIXPublicKey(key.Public())
	return dkek.Holder{Node: f.holder().Node, Fingerprint: fsm.FingerprintOf(spki)}, key
}

// recipient is the entry of a node that receives.
func (f *fake) recipient(o *fsm.Open, node dkek.Holder, key ed25519.PrivateKey) (fsm.Signed, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fsm.Signed{}, err
	}
	statement := &fsm.RecipientStatement{Cluster: o.Cluster, Incarnation: 1, Ceremony: o.Ceremony, Node: node, Public: spki,
		DeviceKind: "soft", DeviceSerial: "S1", Key: dkek.PublicKey{Suite: dkek.X25519(), Bytes: make([]byte, 32)}}
	if o.Plan != nil {
		statement.Epoch, statement.Attempt = o.Plan.Epoch, o.Plan.Attempt
	}
	return fsm.SignStatement(key, fsm.DomainRecipient, statement)
}

// decide takes a signature; with enough of them the ceremony is done at once.
func (f *fake) decide(r *api.CeremonySignRequest, domain fsm.Domain) (any, error) {
	c, err := f.find(r.ID)
	if err != nil {
		return nil, err
	}
	for _, o := range f.set_.Operators {
		if o.Fingerprint().String() != r.Operator {
			continue
		}
		if err := fsm.VerifyMessage(o.Public, domain, c.Open, r.Signature); err != nil {
			return nil, refuse(api.CodeNotAllowed, err.Error())
		}
		c.Revision++
		if domain == fsm.DomainDeny {
			c.State, c.Outcome = api.CeremonyFailed, "denied"
			return c, nil
		}
		f.signed++
		c.Approvals = append(c.Approvals, api.Approval{Operator: r.Operator, Name: o.Name, Signature: r.Signature, At: time.Now().UTC()})
		if len(c.Approvals) >= c.Needed {
			c.State, c.Outcome = api.CeremonyDone, "success"
			f.govern(c)
		}
		return c, nil
	}
	return nil, refuse(api.CodeForbidden, "no operator")
}

// govern puts an approved proposal in force.
func (f *fake) govern(c *api.Ceremony) {
	o, err := fsm.ParseOpen(c.Open)
	if err != nil || o.Kind != fsm.CeremonyGovern {
		return
	}
	record := &fsm.GovernRecord{Open: c.Open}
	for _, a := range c.Approvals {
		var fingerprint dkek.Fingerprint
		hex.Decode(fingerprint[:], []byte(a.Operator))
		record.Approvals = append(record.Approvals, fsm.Approval{Operator: fingerprint, Signature: a.Signature})
	}
	if next, err := fsm.VerifyGovern(f.set_, record); err == nil {
		f.set_, f.policy = next, o.Proposal.Policy
		f.chain = append(f.chain, api.GovernRecord{Number: next.Number, Open: c.Open, Approvals: c.Approvals})
	}
}
