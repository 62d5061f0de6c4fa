package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

// Bodies of peer calls are deterministic CBOR, read strictly: a field that this
// version does not know is an error.
var (
	wireEncoder = mustMode(cbor.CoreDetEncOptions().EncMode())
	wireDecoder = mustMode(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, MaxNestedLevels: 16,
	}.DecMode())
)

func mustMode[M any](mode M, err error) M {
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}

// wireCodes are the codes of peer calls beside those of fsm and transport. The
// first that fits is sent: what became of a command comes before why.
var wireCodes = []struct {
	code string
	base error
}{
	{"outcome-unknown", ErrOutcomeUnknown},
	{"not-appended", ErrNotAppended},
	{"no-leader", ErrNoLeader},
	{"not-leading", errNotLeading},
	{"sealed", ErrSealed},
	{"no-cluster", ErrNoCluster},
	{"stale", ErrStale},
	{"no-dkek", ErrNoDKEK},
	{"not-here", ErrNotHere},
	{"forbidden", ErrForbidden},
	{"secret-lost", ErrLost},
}

// peerError is an error that another node answered, or that is sent to one.
type peerError struct {
	code string
	text string
	base error // what errors.Is finds; nil for an unknown code
}

func (e *peerError) Error() string     { return e.text }
func (e *peerError) Unwrap() error     { return e.base }
func (e *peerError) ErrorCode() string { return e.code }

// toWire gives an error the code under which the other side finds it again.
func toWire(err error) error {
	if err == nil {
		return nil
	}
	var refused *fsm.Error
	if errors.As(err, &refused) {
		return &peerError{code: string(refused.Code), text: refused.Message}
	}
	for _, known := range wireCodes {
		if errors.Is(err, known.base) {
			return &peerError{code: known.code, text: err.Error()}
		}
	}
	return err
}

// fromWire finds the error again.
func fromWire(err error) error {
	var remote *transport.RemoteError
	if !errors.As(err, &remote) {
		return err
	}
	for _, code := range fsm.Codes() {
		if remote.Code == string(code) {
			return &fsm.Error{Code: code, Message: remote.Message}
		}
	}
	far := &peerError{code: remote.Code, text: remote.Message}
	for _, known := range wireCodes {
		if remote.Code == known.code {
			far.base = known.base
		}
	}
	return far
}

// call asks another member.
func (n *Node) call(ctx context.Context, to dkek.NodeID, method string, request, answer any) error {
	member, ok := n.view().Member(to)
	if !ok {
		return fmt.Errorf("node: call %s: node %s is no member", method, to)
	}
	return n.callPeer(ctx, transport.Peer{Fingerprint: transport.Fingerprint(member.Fingerprint), Addr: member.Addr}, method, request, answer)
}

func (n *Node) callPeer(ctx context.Context, peer transport.Peer, method string, request, answer any) error {
	return callBy(ctx, n.server.Peers().Call, peer, method, request, answer)
}

func callBy(ctx context.Context, call func(context.Context, transport.Peer, string, []byte) ([]byte, error), peer transport.Peer, method string, request, answer any) error {
	body, err := wireEncoder.Marshal(request)
	if err != nil {
		return doing(err, "call %s", method)
	}
	body, err = call(ctx, peer, method, body)
	if err != nil {
		return fromWire(err)
	}
	if err := wireDecoder.Unmarshal(body, answer); err != nil {
		return doing(err, "call %s: the answer cannot be read", method)
	}
	return nil
}

// handle answers members' calls of one method. from is the caller, who proved
// its key on this connection.
func handle[Q, A any](n *Node, method string, answer func(ctx context.Context, from *fsm.Member, request Q) (A, error)) {
	handleEarly(n, method, func(ctx context.Context, from dkek.Fingerprint, request Q) (a A, err error) {
		member, ok := n.awaitMember(ctx, from)
		if !ok {
			// Known from a join's answer or by hearsay: Raft's affair only.
			return a, &transport.RemoteError{Code: transport.CodeNotMember, Message: "this node does not know you yet"}
		}
		return answer(ctx, member, request)
	})
}

// handleEarly is handle for what any peer may ask that this node takes for a
// member, its state knows it already or not.
func handleEarly[Q, A any](n *Node, method string, answer func(ctx context.Context, from dkek.Fingerprint, request Q) (A, error)) {
	err := n.server.Peers().Handle(method, func(ctx context.Context, from transport.Fingerprint, body []byte) ([]byte, error) {
		var request Q
		if err := wireDecoder.Unmarshal(body, &request); err != nil {
			return nil, &transport.RemoteError{Code: transport.CodeMalformed, Message: "the request cannot be read"}
		}
		out, err := answer(ctx, dkek.Fingerprint(from), request)
		if err != nil {
			return nil, toWire(err)
		}
		return wireEncoder.Marshal(out)
	})
	if err != nil {
		panic(err) // the method's name is a constant
	}
}

// knowWithin is how long a call waits for a node that has just started to learn
// from its log who the caller is.
const knowWithin = 3 * time.Second

func (n *Node) awaitMember(ctx context.Context, f dkek.Fingerprint) (*fsm.Member, bool) {
	ctx, cancel := context.WithTimeout(ctx, knowWithin)
	defer cancel()
	for {
		m := n.cluster.Load()
		changed := m.state.Changed()
		if member, ok := m.state.State().MemberByFingerprint(f); ok {
			return member, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}
