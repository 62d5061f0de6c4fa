package node

import (
	"context"
	"net/http"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// PeerMethods are what members ask of each other, with the requests that a member
// could send.
func PeerMethods() map[string][]any {
	return map[string][]any{
		methodPrepare:    {prepareRequest{Ceremony: fsm.CeremonyID{1}, Incarnation: 1, Epoch: 2, Attempt: 1, Scratch: true}},
		methodShareState: {nothing{}},
		methodDeal:       {shareRequest{Ceremony: fsm.CeremonyID{1}}, shareRequest{Index: 1 << 63}},
		methodRelease:    {shareRequest{Ceremony: fsm.CeremonyID{1}}, shareRequest{}},
		methodAct:        {actRequest{[]byte{0xa0}, fsm.Approval{}}},
		methodDigest:     {logIndex{1}, logIndex{1 << 63}},
		methodUse: {
			forwardedUse{Key: "k", Version: 1, Verb: uint32(fsm.Sign), Input: make([]byte, 32), Hash: 5},
			forwardedUse{Key: "k", Verb: uint32(fsm.Sign), Input: []byte{1}, Hash: 1 << 40, Scheme: "pss"},
			forwardedUse{Verb: uint32(fsm.Random), Count: 1 << 40},
			forwardedUse{Verb: uint32(fsm.Random), Count: -1},
			forwardedUse{Key: "a", Verb: uint32(fsm.Decrypt), Input: []byte{1}},
		},
		methodDevice:    {nothing{}},
		methodMembers:   {nothing{}},
		methodPropose:   {proposal{}, proposal{[]byte{1, 0, 0xa0}}},
		methodReadIndex: {nothing{}},
		methodApplied:   {nothing{}},
		methodLogEnd:    {nothing{}},
		methodMark:      {markQuestion{}},
		methodKnownKey:  {nothing{}},
		methodBoot:      {nothing{}},
		"node.word":     {nothing{}},
	}
}

// Encoded is a request or an answer as it travels.
func Encoded(body any) []byte {
	content, err := wireEncoder.Marshal(body)
	if err != nil {
		panic(err)
	}
	return content
}

// CallWith sends any bytes to another member's method.
func (n *Node) CallWith(ctx context.Context, to *Node, method string, body []byte) ([]byte, error) {
	return n.server.Peers().Call(ctx, transport.Peer{Fingerprint: transport.Fingerprint(to.Fingerprint()), Addr: to.Addr()}, method, body)
}

// JoinSeed is a request to join of somebody who has no token.
func (n *Node) JoinSeed() []byte {
	return Encoded(joinRequest{Cluster: n.Cluster(), Member: fsm.NewMember{ID: dkek.NodeID{9}, Name: "x", Public: n.own.Load().spki, Addr: "10.0.0.9:7400", ReadsTo: 1}, Govern: 1})
}

// AnswerJoin answers a joiner who has this node's own key, and a token that nobody
// knows.
func (n *Node) AnswerJoin(ctx context.Context, body []byte) ([]byte, error) {
	return n.answerJoin(ctx, transport.JoinRequest{Peer: transport.Fingerprint(n.Fingerprint()), PeerPublicKey: n.own.Load().spki, Body: body})
}

// AnswerAPI answers a request as one of who the route lets in, in the test's own
// goroutine.
func (n *Node) AnswerAPI(w http.ResponseWriter, r *http.Request, who api.Who, fingerprint dkek.Fingerprint) {
	n.face.answer(w, r, func(*http.Request, *fsm.View) visitor {
		return visitor{role: who, name: "fuzzer", fingerprint: fingerprint}
	})
}
