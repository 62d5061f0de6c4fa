package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// request remembers how a request was answered. The newest [MaxRequests] are
// kept, by their place in the log and never by time.
type request struct {
	ID    RequestID `cbor:"1,keyasint"`
	Index uint64    `cbor:"2,keyasint"`
	// Content is the start of a hash over kind, body and who asked: another
	// command under the same ID is not a repetition.
	Content [8]byte `cbor:"3,keyasint"`
	Code    Code    `cbor:"4,keyasint,omitempty"`
	Message string  `cbor:"5,keyasint,omitempty"`
	Value   Value   `cbor:"6,keyasint"`
}

func (*request) table() Table     { return TableRequests }
func (r *request) key() []byte    { return r.ID[:] }
func (r *request) second() []byte { return append(number(r.Index), r.ID[:]...) }

func (r *request) refusal() *Error {
	if r.Code == "" {
		return nil
	}
	return &Error{Code: r.Code, Message: r.Message}
}

// number is an integer as an index wants it: big endian, so that order is
// order.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// repeated finds the first answer to this request. Another command under the
// same ID is answered by a conflict, which is not remembered.
func (t *txn) repeated() (*request, bool) {
	first, ok := get[*request](t.View, TableRequests, t.command.Request[:])
	if !ok {
		return nil, false
	}
	if first.Content == ([8]byte{}) { // an abort's: whatever is asked under this ID, nothing comes of it
		return first, true
	}
	body, err := marshal(t.command.Body)
	if err != nil || first.Content != content(t.command, body) {
		return &request{Code: Conflict, Message: "request ID was used for another command"}, true
	}
	return first, true
}

// remember keeps the answer, and forgets the oldest.
func (t *txn) remember(content [8]byte, value Value, refusal *Error) {
	r := &request{ID: t.command.Request, Index: t.index, Content: content, Value: value}
	if refusal != nil {
		r.Code, r.Message = refusal.Code, refusal.Message
	}
	t.put(r)
	if t.count(TableRequests) > MaxRequests {
		t.trim(TableRequests, bySecond, MaxRequests, nil)
	}
}

// content is the start of SHA-256(kind, who asked, CBOR of the body).
func content(c Command, body []byte) [8]byte {
	hash := sha256.Sum256(slices.Concat([]byte{byte(c.Body.Kind())}, c.Actor.Who[:], body))
	return [8]byte(hash[:8])
}
