package node

import (
	"context"
	"crypto"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// What tests of keys need to see or do from outside.

func (n *Node) SignerForTest() crypto.Signer { return n.key }

func (n *Node) DoForTest(ctx context.Context, body fsm.Body) error {
	_, err := n.do(ctx, body)
	return err
}

func (n *Node) LoginForTest(ctx context.Context) error { return n.device.login(ctx) }

func (n *Node) FileForTest(name string) ([]byte, error) { return n.files.read(name) }

func (n *Node) CreateAsForTest(ctx context.Context, caller Caller, spec KeySpec) (KeyInfo, error) {
	return n.keys.create(ctx, caller, spec)
}

func (n *Node) ListAsForTest(caller Caller, filter KeyFilter) (KeyPage, error) {
	return n.keys.list(caller, filter)
}

// TagForTest is the tag of an object of this request, made in this state.
func (n *Node) TagForTest(request fsm.RequestID) []byte {
	return n.device.tag(n.view(), request).bytes()
}

func TagOfForTest(request fsm.RequestID, incarnation, index uint64) []byte {
	return objectTag{request, incarnation, index}.bytes()
}

// RequestOfForTest reads the request in an object's tag.
func RequestOfForTest(object hsm.Object) (fsm.RequestID, bool) {
	tag, ok := parseTag(object.Tag)
	return tag.request, ok
}

// SettledForTest tells whether upkeep has nothing left to do on this node.
func (n *Node) ObjectsForTest() DeviceObjects { return n.device.slots.objects() }
