package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/transport"
)

const (
	methodMark = "member.mark"
	// startPatience is how long a start waits for the other members to say what
	// this node had.
	startPatience = 3 * time.Second
	// refusedFor is how long a member takes no connection before a start counts it
	// as not running.
	refusedFor = time.Second
	// askEvery is how often a start asks a member again that did not answer.
	askEvery = 200 * time.Millisecond
	// markEvery is how soon a running node asks again, and markSeldom how rarely
	// in the end.
	markEvery  = time.Second
	markSeldom = time.Minute
	// writeMarksEvery is how often what is known of the others is written.
	writeMarksEvery = time.Second
)

// RolledBackError says that this node's data folder is older than what the node
// once had: somebody restored a copy of it.
type RolledBackError struct {
	Last  uint64 // the newest log index in the folder
	Known uint64 // the newest committed entry that this node is known to have had
	Peer  string // who remembers: its address
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("node: data folder was rolled back: its log ends at index %d, and this node told %s that it had entry %d: a copy of a data folder must not be started; remove this node and join again with an empty one", e.Last, e.Peer, e.Known)
}

// against refuses a log that ends at last, and a process beside another one.
func (a markAnswer) against(last uint64, peer string) error {
	switch {
	case a.Elsewhere != "":
		return &RunningTwiceError{Addr: a.Elsewhere, Peer: peer}
	case a.Index > last:
		return &RolledBackError{Last: last, Known: a.Index, Peer: peer}
	}
	return nil
}

type markQuestion struct {
	Boot bootID `cbor:"1,keyasint"` // the asking process
}

type markAnswer struct {
	Index     uint64 `cbor:"1,keyasint"`           // 0 where nothing is known
	Elsewhere string `cbor:"2,keyasint,omitempty"` // where another process with the same key answers
}

// answerMarks tells members what this node remembers of them, and where it reaches
// another process with the asking one's key. It needs no state, so that members
// which all start at the same time can answer each other before any of them has a
// log.
func (n *Node) answerMarks() error {
	return n.server.Peers().Handle(methodMark, func(ctx context.Context, from transport.Fingerprint, body []byte) ([]byte, error) {
		var asked markQuestion
		if err := wireDecoder.Unmarshal(body, &asked); err != nil {
			return nil, &transport.RemoteError{Code: transport.CodeMalformed, Message: "the request cannot be read"}
		}
		var answer markAnswer
		if m, ok := n.directory.memberOf(dkek.Fingerprint(from)); ok {
			answer.Index = n.marks.of(m.Node)
			if n.answersAs(ctx, m, asked.Boot) {
				answer.Elsewhere = m.Addr
			}
		}
		return wireEncoder.Marshal(answer)
	})
}

func (n *Node) askMark(ctx context.Context, m memberIdentity) (markAnswer, error) {
	var answer markAnswer
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := n.callPeer(ctx, transport.Peer{Fingerprint: transport.Fingerprint(m.Fingerprint), Addr: m.Addr}, methodMark, markQuestion{n.boot}, &answer)
	return answer, err
}

// heardFrom are the other members that have said in this boot what this node had.
// All of them are asked: often the leader alone remembers. Safe for concurrent use.
type heardFrom struct {
	mu      sync.Mutex
	members map[dkek.NodeID]bool
	nothing bool // this start had no log, and so nothing to have lost
}

func (h *heardFrom) note(id dkek.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.members == nil {
		h.members = map[dkek.NodeID]bool{}
	}
	h.members[id] = true
}

func (h *heardFrom) isNew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nothing = true
}

// has tells whether a member need not be asked any more.
func (h *heardFrom) has(id dkek.NodeID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nothing || h.members[id]
}

// remembered is what one member said at a start.
type remembered struct {
	by      dkek.NodeID
	refuses bool  // it takes no connection, and is asked again
	err     error // what it said is against the start
}

// checkRollback asks, before Raft starts, those who were the other members when
// this node ran last what it had, and whether it is one of them at all: they may
// have recovered without it, and its votes could make another cluster with those
// of others that come back. It returns when all have answered, also when a
// majority has and the others are not running, and at the latest after
// startPatience: a cluster of which most are down, or that is started one by one,
// must come up as well.
func (n *Node) checkRollback(ctx context.Context, last uint64) error {
	if last == 0 {
		n.heard.isNew()
		return nil
	}
	others := n.directory.othersBefore()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	answers := make(chan remembered)
	for _, m := range others {
		n.run(func(context.Context) { n.keepAsking(ctx, m, last, answers) })
	}
	refusing := map[dkek.NodeID]bool{}
	for answered := 0; answered < len(others) && (answered <= len(others)/2 || answered+len(refusing) < len(others)); {
		select {
		case said := <-answers:
			switch {
			case said.err != nil:
				return said.err
			case said.refuses:
				refusing[said.by] = true
			default:
				delete(refusing, said.by)
				answered++
			}
		case <-ctx.Done():
			n.logger.Warn("starting without having asked all other members whether this data folder was rolled back", "answered", answered, "members", len(others))
			return nil
		}
	}
	return nil
}

// keepAsking asks one member until it answers or ctx ends. One that takes no
// connection is given refusedFor before that is told: it may be starting as well.
func (n *Node) keepAsking(ctx context.Context, m memberIdentity, last uint64, answers chan<- remembered) {
	for began := time.Now(); ; {
		answer, err := n.askMark(ctx, m)
		said := remembered{by: m.Node}
		switch {
		case err == nil:
			n.heard.note(m.Node)
			said.err = answer.against(last, m.Addr)
		case errors.Is(err, transport.ErrRemoved):
			said.err = fmt.Errorf("node: start refused: %w: %s says so", ErrRemoved, m.Addr)
		default:
			said.refuses = errors.Is(err, syscall.ECONNREFUSED) && time.Since(began) >= refusedFor
		}
		if err == nil || said.err != nil || said.refuses {
			select {
			case answers <- said:
			case <-ctx.Done():
			}
		}
		if err == nil || said.err != nil || !sleep(ctx, askEvery) {
			return
		}
	}
}

// meet asks a member for its mark before its first entries or vote are taken, where
// it has not answered yet: what it sends may be what this node had lost, and then
// nothing shows any more. One that does not answer is let in all the same: its
// answer must not be what a cluster starts by.
func (n *Node) meet(from raft.ServerID, last func() uint64) error {
	m, ok := n.directory.memberNamed(from)
	if !ok || n.heard.has(m.Node) {
		return nil
	}
	answer, err := n.askMark(n.ctx, m)
	if err != nil {
		n.logger.Warn("taking what a member sends without its word on whether this data folder was rolled back", "member", m.Addr, "reason", err)
		return nil
	}
	n.heard.note(m.Node)
	return answer.against(last(), m.Addr)
}

// memberNamed is the member that Raft knows by this ID, by the state or what came
// before it.
func (d *directory) memberNamed(id raft.ServerID) (memberIdentity, bool) {
	others := append(d.othersBefore(), memberListOf(d.node.view()).Members...)
	i := slices.IndexFunc(others, func(m memberIdentity) bool { return m.Node.String() == string(id) })
	if i < 0 {
		return memberIdentity{}, false
	}
	return others[i], true
}

// keepMarks goes on asking those who have not answered in this boot. By the time
// they do, others may have sent this node what it had lost, and nothing shows any
// more. Meanwhile it writes down what it learns of the others itself.
func (n *Node) keepMarks() {
	n.run(func(ctx context.Context) {
		for wait := markEvery; n.askMarks(ctx) && sleep(ctx, wait); wait = min(2*wait, markSeldom) {
		}
	})
	n.run(func(ctx context.Context) {
		for sleep(ctx, writeMarksEvery) {
			n.writeMarks()
		}
	})
}

// askMarks asks each member that has not answered yet, and reports whether there
// is any left.
func (n *Node) askMarks(ctx context.Context) bool {
	left := false
	for m := range n.view().Members() {
		if m.ID == n.id || n.heard.has(m.ID) {
			continue
		}
		answer, err := n.askMark(ctx, memberIdentity{m.ID, m.Fingerprint, m.Addr})
		if err != nil {
			left = true
			continue
		}
		n.heard.note(m.ID)
		// Looked at after the answer: what this node has given out since its start
		// is in its log.
		if err := answer.against(n.cluster.Load().log.Stats().LastIndex, m.Addr); err != nil {
			n.stop(err)
			return false
		}
	}
	return left
}

func (n *Node) writeMarks() {
	view := n.view()
	n.marks.forget(func(id dkek.NodeID) bool { _, removed := view.Removed(id); return removed })
	if err := n.marks.write(); err != nil {
		n.logger.Error("what the other members have is not written down", "reason", err)
	}
}

// othersBefore are the other members as of when this node ran last.
func (d *directory) othersBefore() []memberIdentity {
	var others []memberIdentity
	if list := d.learned.Load(); list != nil {
		for _, m := range list.Members {
			if m.Node != d.node.id {
				others = append(others, m)
			}
		}
		return others
	}
	for _, s := range d.trusted() {
		f, err := transport.ParseFingerprint(s.Fingerprint)
		var id dkek.NodeID
		if err == nil && decodeID(id[:], s.Node) {
			others = append(others, memberIdentity{id, dkek.Fingerprint(f), s.Addr})
		}
	}
	return others
}
