//go:build faults

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/keycustodian/keycustodian/transport"
)

func (l *liar) junk() {
	l.append([]byte("no command"), nil, []byte{1, 0xff, 0xa0}, []byte{0xff, 1})
}

// encode is a command as a leader would have written it.
func (l *liar) encode(who ed25519.PrivateKey, node dkek.NodeID, body fsm.Body) []byte {
	l.t.Helper()
	return l.encodeAt(time.Now(), who, node, body)
}

func (l *liar) encodeAt(at time.Time, who ed25519.PrivateKey, node dkek.NodeID, body fsm.Body) []byte {
	l.t.Helper()
	command := fsm.Command{Header: fsm.Header{Actor: fsm.Actor{Who: dkek.Fingerprint(fingerprintOf(l.t, who)), Node: node}, Time: at.UnixMilli()}, Body: body}
	rand.Read(command.Request[:])
	encoded, err := fsm.Encode(command)
	if err != nil {
		l.t.Fatal(err)
	}
	return encoded
}

// removals takes members away in an operator's name, which a leader can: as long as
// t holders remain.
func (l *liar) removals() {
	honest, _ := l.honest[0].nodeKey()
	l.append(l.encode(l.alice, honest, &fsm.MemberRemove{Node: l.id}), l.encode(l.alice, honest, &fsm.MemberRemove{Node: honest}))
	l.p.eventually("the first removal counts and the second does not", func(ctx context.Context) error {
		for _, n := range l.honest {
			status, _, err := l.p.client(n).Status(ctx)
			if err != nil || len(status.Members) != len(l.honest) {
				return fmt.Errorf("%s: %d members, %w", n.name, len(status.Members), err)
			}
		}
		return nil
	})
}

// uncommitted has holders asked for the shares of a ceremony that both operators
// approved, by a leader that says that their releases are in the log. They are not, so
// nothing leaves; once they can be, it does.
func (l *liar) uncommitted() {
	row := l.pending
	l.append(
		l.encode(l.alice, l.id, &fsm.CeremonyApprove{Ceremony: row.ID, Approval: row.Approvals[0]}),
		l.encode(l.bob, l.id, &fsm.CeremonyApprove{Ceremony: row.ID, Approval: row.Approvals[1]}),
	)
	asked := new(atomic.Int64)
	l.answer("log.propose", struct {
		Index uint64   `cbor:"1,keyasint"`
		Value struct{} `cbor:"3,keyasint"`
	}{Index: l.genuine.Index()}, asked)
	l.p.eventually("holders were told by the liar that their releases are committed", func(context.Context) error {
		before, given := asked.Load(), 0
		var refusals error
		l.reign(func(uint64) { given, refusals = l.shares(row.ID) })
		// Where the nodes have found an honest leader meanwhile, a release is what it seems.
		if given > 0 && !released(l.p.nodectl(l.honest[0], "audit", "-o", "json"), row.ID.String(), "") {
			l.t.Errorf("%d shares left before their releases were in the log", given)
		}
		if asked.Load() == before && given == 0 {
			return fmt.Errorf("nobody asked it: %w", refusals)
		}
		return nil
	})
	if err := l.server.Peers().Handle("log.propose", func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
		return nil, errors.New("no more")
	}); err != nil {
		l.t.Fatal(err)
	}
	l.releases(row.ID)
}

// recovery begins another incarnation without the honest nodes, as a stranger signed.
func (l *liar) recovery() *fsm.Recover {
	l.t.Helper()
	cluster, _ := l.genuine.Cluster()
	s := &fsm.RecoverStatement{
		Cluster: cluster.ID, Incarnation: cluster.Incarnation + 1, Node: l.id, Reason: "all burnt",
		State: l.genuine.Digest(), Index: l.genuine.Index() + 100000, Term: 100, Time: time.Now().UnixMilli(),
	}
	for _, n := range l.honest {
		id, _ := n.nodeKey()
		s.Lost = append(s.Lost, id)
	}
	slices.SortFunc(s.Lost, func(a, b dkek.NodeID) int { return bytes.Compare(a[:], b[:]) })
	statement, err := fsm.EncodeRecover(s)
	if err != nil {
		l.t.Fatal(err)
	}
	signature, err := fsm.SignMessage(l.stranger, fsm.DomainRecover, statement)
	if err != nil {
		l.t.Fatal(err)
	}
	return &fsm.Recover{Statement: statement, Approvals: []fsm.Approval{{Operator: dkek.Fingerprint(fingerprintOf(l.t, l.stranger)), Signature: signature}}}
}

// strangersWord has the operator whom the made-up state added ask for all that an
// operator alone can have done to a device, with its own key and through the liar.
// The API lets it in, by that state; the node concerned believes its pins.
func (l *liar) strangersWord() {
	config := l.p.clientConfig(l.honest...)
	config.Key = l.stranger
	c, err := client.New(config)
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	var who api.Identity
	if _, err := c.Do(l.t.Context(), api.WhoAmI, nil, &who); err != nil || who.Role != api.Operator {
		l.t.Fatalf("in the made-up state the stranger is %+v, %v", who, err)
	}
	for _, n := range l.honest { // the first is asked, the other asks it
		for what, act := range deviceActs {
			word := func() word { return l.word(n, l.stranger, fsm.DomainDevice, act) }
			l.refused(n, []forgedWord{
				{what + " by an operator of the state", word(), api.CodeNotAllowed, "is none"},
				{what + " in alice's name", l.borrowed(word()), api.CodeNotAllowed, "signature"},
			})
			w := word()
			said := api.OperatorWord{Statement: w.Statement, Operator: w.By.Operator.String(), Signature: w.By.Signature}
			route, request := api.DeviceAside, any(api.AsideRequest{Node: n.name, OperatorWord: said})
			if what == "wipe" {
				route, request = api.DeviceWipe, api.WipeRequest{Node: n.name, Serial: l.devices[n].Serial, OperatorWord: said}
			}
			_, err := c.Do(l.t.Context(), route, request, nil)
			var refusal *api.Error
			if !errors.As(err, &refusal) || refusal.Code != api.CodeNotAllowed || !strings.Contains(refusal.Message, "is none") {
				l.t.Errorf("%s of the device of %s, by an operator of the state: %v", what, n.name, err)
			}
		}
	}
}

// future has every ceremony expire. Keys are used all the same.
func (l *liar) future() {
	honest, _ := l.honest[0].nodeKey()
	var token fsm.TokenCreate
	rand.Read(token.Fingerprint[:])
	later := time.Now().Add(10 * 365 * 24 * time.Hour)
	token.Name, token.Expires = "late", later.Add(time.Hour).UnixMilli()
	l.append(l.encodeAt(later, l.alice, honest, &token))
	l.p.eventually("what both operators approved has expired", func(context.Context) error {
		given, refusals := l.shares(l.approved)
		if given > 0 || strings.Count(fmt.Sprint(refusals), "(expired)") != 2*len(l.honest) {
			return fmt.Errorf("%d shares left: %w", given, refusals)
		}
		return nil
	})
}

func (l *liar) unsignedCommands() {
	_, row := l.open(func(*fsm.Open) {})
	l.pending = row
	invented := fsm.Approval{Operator: dkek.Fingerprint(fingerprintOf(l.t, l.alice)), Signature: make([]byte, 64)}
	l.append(
		l.encode(l.key, l.id, &fsm.CeremonyOpen{Open: row.Open, Signature: row.Signature}),
		l.encode(l.stranger, l.id, &fsm.CeremonyApprove{Ceremony: row.ID, Approval: l.approval(l.stranger, row.Open)}),
		l.encode(l.alice, l.id, &fsm.CeremonyApprove{Ceremony: row.ID, Approval: invented}),
		l.encode(l.stranger, l.id, l.recovery()),
		l.encode(l.key, l.id, &fsm.Release{Ceremony: row.ID, Holder: l.id, Recipient: l.id, Purpose: fsm.ReleaseGather}),
	)
	l.p.eventually("the ceremony is open and nobody approved it", func(ctx context.Context) error {
		for _, n := range l.honest {
			var c api.Ceremony
			if _, err := l.p.client(n).Do(ctx, api.CeremonyShow, api.CeremonyQuery{ID: row.ID.String()}, &c); err != nil {
				return err
			}
			if len(c.Approvals) > 0 || c.State != api.CeremonyOpen {
				l.t.Fatalf("%s: %+v", n.name, c)
			}
		}
		return nil
	})
	if given, _ := l.shares(row.ID); given > 0 {
		l.t.Errorf("%d shares left", given)
	}
}
