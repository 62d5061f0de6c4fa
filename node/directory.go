package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/transport"
)

const sponsorsFile = "sponsors"

// sponsor is a member that the authenticated answer to a join named: a joiner
// accepts Raft from these until it has caught up and knows better.
type sponsor struct {
	Node        string `json:"node"`
	Fingerprint string `json:"fingerprint"`
	Addr        string `json:"addr"`
}

// directory answers the transport's question who is who, from the local state.
type directory struct {
	node     *Node
	sponsors atomic.Pointer[[]sponsor] // nil once the state knows this node
	caughtUp atomic.Bool               // before the last start: the sponsors are of the past
	learned  atomic.Pointer[memberList]
	heard    atomic.Pointer[memberList] // from a majority of the others, for a minute
	written  atomic.Pointer[memberList] // what the file says
	stranger chan struct{}              // somebody unknown was here
}

func newDirectory(n *Node) *directory {
	return &directory{node: n, stranger: make(chan struct{}, 1)}
}

// IsMember implements transport.Directory.
func (d *directory) IsMember(f transport.Fingerprint) bool {
	if d.behind() == nil { // else a key that was rotated or removed since would do
		if _, ok := d.node.view().MemberByFingerprint(dkek.Fingerprint(f)); ok {
			return true
		}
	}
	for _, s := range d.trusted() {
		if s.Fingerprint == f.String() {
			return true
		}
	}
	if d.knows(f) {
		return true
	}
	if !d.IsClient(f) {
		d.meet()
	}
	return false
}

// IsClient implements transport.Directory.
func (d *directory) IsClient(f transport.Fingerprint) bool {
	view := d.node.view()
	if _, ok := view.Client(dkek.Fingerprint(f)); ok {
		return true
	}
	_, ok := view.Operator(dkek.Fingerprint(f))
	return ok
}

// WasMember implements transport.Directory.
func (d *directory) WasMember(f transport.Fingerprint) bool {
	if d.behind() != nil {
		return false // what this state says may be over
	}
	for removed := range d.node.view().RemovedMembers() {
		if removed.Fingerprint == dkek.Fingerprint(f) {
			return true
		}
	}
	return false
}

// MemberAt implements transport.Directory.
func (d *directory) MemberAt(addr string) (transport.Fingerprint, bool) {
	if list := d.behind(); list != nil {
		if i := slices.IndexFunc(list.Members, func(m memberIdentity) bool { return m.Addr == addr }); i >= 0 {
			return transport.Fingerprint(list.Members[i].Fingerprint), true
		}
	}
	for m := range d.node.view().Members() {
		if m.Addr == addr {
			return transport.Fingerprint(m.Fingerprint), true
		}
	}
	for _, s := range d.trusted() {
		if s.Addr == addr {
			f, err := transport.ParseFingerprint(s.Fingerprint)
			return f, err == nil
		}
	}
	m, ok := d.learnt(func(m memberIdentity) bool { return m.Addr == addr })
	return transport.Fingerprint(m.Fingerprint), ok
}

// trusted are the sponsors, until the state has once known this node: a start
// begins with an empty state, and a sponsor may have been removed since.
func (d *directory) trusted() []sponsor {
	sponsors := d.sponsors.Load()
	if sponsors == nil || d.caughtUp.Load() {
		return nil
	}
	if _, ok := d.node.view().Member(d.node.id); ok {
		d.sponsors.Store(nil)
		return nil
	}
	return *sponsors
}

// sponsor keeps whom the join's answer named, also across a restart.
func (d *directory) sponsor(sponsors []sponsor) error {
	content, err := json.Marshal(sponsors)
	if err != nil {
		return err
	}
	if err := d.node.files.write(sponsorsFile, content); err != nil {
		return fmt.Errorf("node: join: %w", err)
	}
	d.sponsors.Store(&sponsors)
	return nil
}

// membersFile keeps who was a member when this node last saw it change: the
// deterministic CBOR of a memberList. A node that is started again has to know
// whom to let in before its log says so.
const membersFile = "members"

// remember writes down who is a member, for the next start.
func (d *directory) remember(list memberList) error {
	content, err := wireEncoder.Marshal(list)
	if err == nil {
		err = d.node.files.write(membersFile, content)
	}
	if err != nil {
		return fmt.Errorf("node: members: %w", err)
	}
	d.written.Store(&list)
	return nil
}

// writtenKey is a member's key as it is written down; zero for none.
func (d *directory) writtenKey(id dkek.NodeID) dkek.Fingerprint {
	if list := d.written.Load(); list != nil {
		for _, m := range list.Members {
			if m.Node == id {
				return m.Fingerprint
			}
		}
	}
	return dkek.Fingerprint{}
}

// recall reads who was a member when this node ran last. They are believed until
// its state has come as far as it was then.
func (d *directory) recall() error {
	content, err := d.node.files.read(membersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("node: members: %w", err)
	}
	var list memberList
	if err := wireDecoder.Unmarshal(content, &list); err != nil {
		// Not worth a refusal: the state and the members themselves say it too.
		d.node.logger.Warn("members: the file is damaged and left aside", "file", membersFile, "reason", err)
		return nil
	}
	d.learned.Store(&list)
	d.caughtUp.Store(slices.ContainsFunc(list.Members, func(m memberIdentity) bool { return m.Node == d.node.id }))
	d.written.Store(&list)
	return nil
}

// load reads the sponsors of a join that has not caught up yet.
func (d *directory) load() error {
	if err := d.recall(); err != nil {
		return err
	}
	content, err := d.node.files.read(sponsorsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("node: sponsors: %w", err)
	}
	var sponsors []sponsor
	if err := json.Unmarshal(content, &sponsors); err != nil {
		// They are of use until the state has come once. Without them a join that
		// was cut off before that is repeated with another token.
		d.node.logger.Warn("sponsors: the file is damaged and left aside: if this node does not catch up, join it anew with an empty data folder",
			"file", sponsorsFile, "reason", err)
		return nil
	}
	d.sponsors.Store(&sponsors)
	return nil
}
