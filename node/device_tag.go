package node

import (
	"encoding/binary"

	"github.com/keycustodian/keycustodian/fsm"
)

// tagSize is the length of an objectTag in bytes.
const tagSize = 32

// objectTag is what every object of ours carries in the device: the request that
// made the key, and the incarnation and applied index at which this object came
// to be. As bytes: request (16), incarnation (8), index (8), big endian.
type objectTag struct {
	request     fsm.RequestID
	incarnation uint64
	index       uint64
}

func (t objectTag) bytes() []byte {
	out := make([]byte, 0, tagSize)
	out = append(out, t.request[:]...)
	out = binary.BigEndian.AppendUint64(out, t.incarnation)
	return binary.BigEndian.AppendUint64(out, t.index)
}

// parseTag reads a tag; false for what cannot be one of ours.
func parseTag(tag []byte) (t objectTag, ok bool) {
	if len(tag) != tagSize {
		return objectTag{}, false
	}
	copy(t.request[:], tag)
	t.incarnation = binary.BigEndian.Uint64(tag[16:])
	t.index = binary.BigEndian.Uint64(tag[24:])
	return t, t.request != fsm.RequestID{} && t.incarnation != 0
}

// tag is that of an object made now.
func (d *deviceRoom) tag(view *fsm.View, request fsm.RequestID) objectTag {
	t := objectTag{request: request, index: view.Index()}
	if cluster, ok := view.Cluster(); ok {
		t.incarnation = cluster.Incarnation
	}
	return t
}
