package node

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ackedTransport notes which member answered this leader, and to a request sent
// when. Raft's VerifyLeader counts any answer that arrives after the question,
// also one to a heartbeat sent long before it: a leader that was paused could
// take such answers for a majority that has moved on. Rounds tell them apart.
// What requests and answers say about how far others have come goes to peerHas.
//
// It does not pass on Close: the transport is closed after Raft, by raftLog.
type ackedTransport struct {
	raftTransport
	peerHas  func(id raft.ServerID, index uint64)
	requests chan raft.RPC

	mu    sync.Mutex
	round uint64
	acks  map[raft.ServerID]ack
}

// ack is the newest answer of one member.
type ack struct {
	term  uint64
	round uint64 // that had begun when the request was sent
	at    time.Time
}

func newAckedTransport(t raftTransport, peerHas func(raft.ServerID, uint64)) *ackedTransport {
	if peerHas == nil {
		peerHas = func(raft.ServerID, uint64) {}
	}
	return &ackedTransport{raftTransport: t, peerHas: peerHas, requests: make(chan raft.RPC), acks: map[raft.ServerID]ack{}}
}

// AppendEntries is what heartbeats use; a pipeline of entries does not count for rounds.
func (t *ackedTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	t.mu.Lock()
	round := t.round
	t.mu.Unlock()
	err := t.raftTransport.AppendEntries(id, target, request, response)
	if err != nil || !response.Success || response.Term != request.Term {
		return err
	}
	t.noteAnswer(id, request, response)
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.acks[id]; old.term < request.Term || old.term == request.Term && old.round <= round {
		t.acks[id] = ack{request.Term, round, time.Now()}
	}
	return nil
}

// begin starts a round: requests sent from now on belong to it, or to a later one.
func (t *ackedTransport) begin() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.round++
	return t.round
}

// confirmed reports whether a majority of the voters, self among them, answered
// in this term to requests of this round or a later one.
func (t *ackedTransport) confirmed(self raft.ServerID, servers []raft.Server, term, round uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	voters, confirmed := 0, 0
	for _, server := range servers {
		if server.Suffrage != raft.Voter {
			continue
		}
		voters++
		answer := t.acks[server.ID]
		if server.ID == self || answer.term == term && answer.round >= round {
			confirmed++
		}
	}
	return confirmed > voters/2
}

// lastContact is when the member last answered this node as a leader.
func (t *ackedTransport) lastContact(id raft.ServerID) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acks[id].at
}
