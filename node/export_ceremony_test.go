package node

import (
	"context"
	"crypto"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Reached sets what is told at the instants of the crash table.
func (n *Node) Reached(f func(ctx context.Context, point string) error) {
	n.ceremonies.reached.Store(&f)
}

// Ask asks another node for a share of a ceremony, as this node.
func (n *Node) Ask(ctx context.Context, holder dkek.NodeID, method string, id fsm.CeremonyID) (sealed []byte, err error) {
	var answer shareAnswer
	err = n.call(ctx, holder, method, shareRequest{Ceremony: id}, &answer)
	return answer.Sealed, err
}

// PassOn passes an operator's word about a device on to its node, as this one.
func (n *Node) PassOn(ctx context.Context, to dkek.NodeID, statement []byte, by fsm.Approval) error {
	return n.call(ctx, to, methodAct, actRequest{statement, by}, &struct{}{})
}

// Pinned is the operator set that the node believes.
func (n *Node) Pinned() fsm.OperatorSet { return n.pins.set() }

// Propose commits on the node's own behalf.
func (n *Node) Propose(ctx context.Context, body fsm.Body) error {
	_, err := n.do(ctx, body)
	return err
}

// Files lists the names of the files in memory that begin with a prefix.
func (m *Memory) Files(prefix string) []string {
	var names []string
	for _, name := range m.files.names() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// Content returns a file; nil for none.
func (m *Memory) Content(name string) []byte {
	content, _ := m.files.read(name)
	return content
}

// SetContent replaces a file.
func (m *Memory) SetContent(name string, content []byte) { m.files.write(name, content) }

// Remove deletes a file.
func (m *Memory) Remove(name string) { m.files.remove(name) }

func (m *memoryFiles) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.content {
		names = append(names, name)
	}
	return names
}

// ShareFile is the name of a share's file.
func ShareFile(epoch, attempt uint64) string { return sharingName{epoch, attempt}.file() }

// DealWrongly makes what this node deals in a ceremony a random secret's, in
// place of its share's.
func (n *Node) DealWrongly() error {
	for row := range n.view().Ceremonies() {
		open, err := fsm.ParseOpen(row.Open)
		if err != nil || row.Outcome != fsm.OutcomeOpen || open.Plan == nil {
			continue
		}
		wrong, err := dkek.Deal(open.Plan, n.id, secret.Random(dkek.Size))
		if err != nil {
			return err
		}
		n.ceremonies.mu.Lock()
		n.ceremonies.dealt[row.ID] = wrong
		n.ceremonies.mu.Unlock()
	}
	return nil
}

// Lie has the node answer those who ask for its share with something else: its
// honest answer, changed and signed anew.
func (n *Node) Lie(change func(sealed []byte) []byte) {
	handle(n, methodRelease, func(ctx context.Context, from *fsm.Member, q shareRequest) (shareAnswer, error) {
		answer, err := n.ceremonies.answerRelease(ctx, from, q)
		if err != nil {
			return answer, err
		}
		a, err := n.ceremonies.approved(n.view(), q.Ceremony)
		if err != nil {
			return answer, err
		}
		about, err := n.ceremonies.about(n.view(), a, fsm.ReleaseGather)
		if err != nil {
			return answer, err
		}
		info, err := a.transcript(fsm.ReleaseGather, n.id, from.ID, about)
		if err != nil {
			return answer, err
		}
		answer.Sealed = change(answer.Sealed)
		answer.Signature, err = fsm.SignMessage(n.own.Load().signer, fsm.DomainRelease, signedRelease(info, answer.Sealed))
		return answer, err
	})
}

// SignWrongly has the node answer with its share and a signature that is none.
func (n *Node) SignWrongly() {
	handle(n, methodRelease, func(ctx context.Context, from *fsm.Member, q shareRequest) (shareAnswer, error) {
		answer, err := n.ceremonies.answerRelease(ctx, from, q)
		if err == nil {
			answer.Signature[0] ^= 1
		}
		return answer, err
	})
}

// RecipientEntry is an entry for an Open with a key of the test's making, signed
// by this node.
func (n *Node) RecipientEntry(o *fsm.Open) (fsm.Signed, error) {
	key, err := dkek.NewRecipientKey(dkek.Hybrid())
	if err != nil {
		return fsm.Signed{}, err
	}
	return fsm.SignStatement(n.own.Load().signer, fsm.DomainRecipient, &fsm.RecipientStatement{
		Cluster: o.Cluster, Incarnation: o.Incarnation, Ceremony: o.Ceremony, Epoch: o.Source.Epoch, Attempt: o.Source.Attempt,
		Node: n.own.Load().holder(n.id), Public: n.own.Load().spki, DeviceKind: "soft", DeviceSerial: "forged", Key: key.Public(),
	})
}

// Dealers are who would deal a reshare if all holders were in reach.
func (n *Node) Dealers() ([]dkek.Holder, error) {
	view := n.view()
	source, _ := view.Proven()
	return dealers(view, source, source.Plan.Holders)
}

// Signer is the node's own key.
func (n *Node) Signer() crypto.Signer { return n.own.Load().signer }

// LookAtShares has the node look after its shares.
func (n *Node) LookAtShares() { n.shares.look() }

// SharesLookedAt does the same at once and waits for it.
func (n *Node) SharesLookedAt() bool {
	n.shares.clear(n.ctx, n.view())
	return true
}

// Scratch has the next scratch device of this node be one of the test's.
func (n *Node) Scratch(wrap func(hsm.Device) hsm.Device) {
	make := n.ceremonies.scratch
	n.ceremonies.scratch = func() hsm.Device { return wrap(make()) }
}
