package node

import (
	"sync"

	"github.com/hashicorp/raft"
)

// sharedEnd is the last committed entry of an AppendEntries request: its sender
// has it on disk, and so has its receiver once it answered that it succeeded.
func sharedEnd(request *raft.AppendEntriesRequest) uint64 {
	end := request.PrevLogEntry
	if n := len(request.Entries); n > 0 {
		end = request.Entries[n-1].Index
	}
	return min(end, request.LeaderCommitIndex)
}

// noteAnswer notes what an answer says about the member that gave it.
func (t *ackedTransport) noteAnswer(id raft.ServerID, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) {
	if end := sharedEnd(request); end > 0 && response.Success && response.Term == request.Term {
		t.peerHas(id, end)
	}
}

// noteRequest notes what a request says about the leader that sent it.
func (t *ackedTransport) noteRequest(rpc raft.RPC) {
	request, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok {
		return
	}
	if end := sharedEnd(request); end > 0 {
		t.peerHas(raft.ServerID(request.RPCHeader.ID), end)
	}
}

// Consumer implements raft.Transport: what forward passes on.
func (t *ackedTransport) Consumer() <-chan raft.RPC { return t.requests }

// forward passes requests on to Raft, and notes them, until stop is closed or one
// may not enter.
func (t *ackedTransport) forward(stop <-chan struct{}, mayEnter func(raft.RPC) bool) {
	for {
		select {
		case <-stop:
			return
		case rpc := <-t.raftTransport.Consumer():
			if !mayEnter(rpc) {
				return
			}
			t.noteRequest(rpc)
			select {
			case <-stop:
				return
			case t.requests <- rpc:
			}
		}
	}
}

// mayEnter has each member met before its first request is taken. Heartbeats do not
// come this way: they carry no entry and ask for no vote.
func (l *raftLog) mayEnter() func(raft.RPC) bool {
	met := map[string]bool{}
	return func(rpc raft.RPC) bool {
		request, ok := rpc.Command.(raft.WithRPCHeader)
		if !ok || l.config.Meet == nil {
			return true
		}
		from := string(request.GetRPCHeader().ID)
		if met[from] {
			return true
		}
		met[from] = true
		if err := l.config.Meet(raft.ServerID(from), l.raft.LastIndex); err != nil {
			l.fail(err)
			return false
		}
		return true
	}
}

// AppendEntriesPipeline implements raft.Transport.
func (t *ackedTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.raftTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err // compared by Raft
	}
	p := &notedPipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	go p.forward(func(answer raft.AppendFuture) { t.noteAnswer(id, answer.Request(), answer.Response()) })
	return p, nil
}

// notedPipeline is a pipeline whose answers are noted on their way to Raft. Raft takes
// none after one that refuses, but may still be sending, and a pipeline's sender waits
// for its answers to be taken: what comes then is dropped here, or Raft would never
// send to this follower again, nor end.
type notedPipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	once    sync.Once
	closed  chan struct{}
}

func (p *notedPipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

func (p *notedPipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}

func (p *notedPipeline) forward(note func(raft.AppendFuture)) {
	over := false
	for {
		select {
		case <-p.closed:
			return
		case answer := <-p.AppendPipeline.Consumer():
			note(answer)
			if over {
				continue
			}
			select {
			case <-p.closed:
				return
			case p.answers <- answer:
			}
			request, response := answer.Request(), answer.Response()
			over = !response.Success || response.Term > request.Term
		}
	}
}
