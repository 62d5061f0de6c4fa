package node

import (
	"context"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// Context ends with the node.
func (n *Node) Context() context.Context { return n.ctx }

// Keys is how many keys of its own the node has on its disk.
func (n *Node) Keys() int {
	box, err := n.box(nodeKeyBox)
	if err != nil {
		return 0
	}
	who, err := readIdentity(n.files, box)
	if err != nil {
		return 0
	}
	return len(slices.DeleteFunc([]*ownKey{who.key, who.next, who.former}, func(k *ownKey) bool { return k == nil }))
}

// RotateBack proposes the change to a key that the node had before.
func (n *Node) RotateBack(ctx context.Context, to dkek.Fingerprint) error {
	who := n.identityNow()
	i := slices.IndexFunc(who.past, func(public []byte) bool { return fsm.FingerprintOf(public) == to })
	signed, err := fsm.SignStatement(who.key.signer, fsm.DomainRotate, &fsm.RotateStatement{
		Cluster: n.Cluster(), Node: n.id, Old: who.key.fingerprint, Public: who.past[i],
	})
	if err != nil {
		return err
	}
	_, err = n.do(ctx, &fsm.MemberRotateKey{Signed: signed, Possession: signed.Signature})
	return err
}
