package fsm

import "github.com/keycustodian/keycustodian/dkek"

// Aborted is a request that will never make a key, so that the object which a
// device made for it can be deleted. Its change key is the request, 16 bytes.
type Aborted struct {
	Request RequestID   `cbor:"1,keyasint"`
	Node    dkek.NodeID `cbor:"2,keyasint"` // whose device has the object
	Index   uint64      `cbor:"3,keyasint"` // of the Abort, in the log
}

func (*Aborted) table() Table  { return TableAborts }
func (a *Aborted) key() []byte { return a.Request[:] }

// Abort gives up a request: whichever comes first, the key or its abort, wins.
// It is legal only in the incarnation in which the object was made, and for a
// state that is at or past the index that was applied then: an older state could
// lack the key only because it is old.
type Abort struct {
	Request     RequestID   `cbor:"1,keyasint"`
	Incarnation uint64      `cbor:"2,keyasint"`
	Index       uint64      `cbor:"3,keyasint"`
	Node        dkek.NodeID `cbor:"4,keyasint"`
}

func (*Abort) Kind() Kind { return KindAbort }

func (b *Abort) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	if b.Request == (RequestID{}) || b.Request == t.command.Request {
		return Value{}, refuse(BadRequest, "an abort names the request of another command")
	}
	if b.Incarnation != t.cluster().Incarnation {
		return Value{}, refuse(Conflict, "the object was made in incarnation %d, this is %d: keep it aside", b.Incarnation, t.cluster().Incarnation)
	}
	if b.Index > t.state.Index {
		return Value{}, refuse(Conflict, "the object was made at index %d, this state is at %d: keep it aside", b.Index, t.state.Index)
	}
	if _, ok := t.VersionByRequest(b.Request); ok {
		return Value{}, refuse(Exists, "request %v made a key", b.Request)
	}
	if old, ok := t.Aborted(b.Request); ok {
		if old.Node != b.Node {
			return Value{}, refuse(WrongState, "request %v was aborted by node %v", b.Request, old.Node)
		}
		return Value{}, nil
	}
	if t.count(TableAborts) >= MaxAborts {
		return Value{}, refuse(TooMany, "%d aborts at most", MaxAborts)
	}
	t.put(&Aborted{Request: b.Request, Node: b.Node, Index: t.index})
	// The row goes with its confirmation; a proposal of the request that is
	// still under way then must not make a key whose object is deleted.
	if _, answered := get[*request](t.View, TableRequests, b.Request[:]); !answered {
		t.put(&request{ID: b.Request, Index: t.index, Code: Conflict, Message: "request was aborted: nothing came of it; ask again under a new ID"})
	}
	t.audit("key abort", b.Request.String(), "")
	return Value{}, nil
}

// AbortConfirm says that the object of an aborted request is deleted. The row
// goes; that the request was refused is remembered as long as any answer.
type AbortConfirm struct {
	Request RequestID   `cbor:"1,keyasint"`
	Node    dkek.NodeID `cbor:"2,keyasint"`
}

func (*AbortConfirm) Kind() Kind { return KindAbortConfirm }

func (b *AbortConfirm) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	a, ok := t.Aborted(b.Request)
	if !ok {
		return Value{}, nil
	}
	if a.Node != b.Node {
		return Value{}, refuse(NotAllowed, "request %v was aborted by node %v", b.Request, a.Node)
	}
	t.remove(a)
	return Value{}, nil
}
