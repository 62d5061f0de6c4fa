package node

import (
	"context"
	"crypto"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// What tests of keys need to see or do from outside.

func (n *Node) SignerForTest() crypto.Signer { return n.own.Load().signer }

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

// ForgeUse asks another member for a signature in anybody's name.
func (n *Node) ForgeUse(ctx context.Context, to dkek.NodeID, who dkek.Fingerprint, key string, digest []byte) error {
	var answer forwardedAnswer
	q := forwardedUse{Who: who, Key: key, Verb: uint32(fsm.Sign), Input: digest, Hash: uint64(crypto.SHA256), Index: n.view().Index()}
	return n.call(ctx, to, methodUse, q, &answer)
}

// ListAnewForTest has the device listed as after an operation that nobody knows the
// outcome of.
func (n *Node) ListAnewForTest(ctx context.Context) error {
	t := n.device.slots
	doubt := func(more int) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.doubts += more
	}
	doubt(1)
	defer doubt(-1)
	return t.open(ctx)
}
