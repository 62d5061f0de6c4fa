package fsm

import (
	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/hsm"
)

// Member is a node of the cluster. Its change key is the ID, 16 bytes.
type Member struct {
	ID          dkek.NodeID      `cbor:"1,keyasint"`
	Name        string           `cbor:"2,keyasint"` // unique
	Public      []byte           `cbor:"3,keyasint"` // DER SubjectPublicKeyInfo
	Fingerprint dkek.Fingerprint `cbor:"4,keyasint"` // of Public
	Addr        string           `cbor:"5,keyasint"` // host:port, unique
	Voter       bool             `cbor:"6,keyasint,omitempty"`
	ReadsTo     uint64           `cbor:"7,keyasint"` // command version
	Added       uint64           `cbor:"8,keyasint"` // log index
	// What it last reported about itself.
	Device   *Device      `cbor:"9,keyasint,omitempty"`
	Share    *ShareHealth `cbor:"10,keyasint,omitempty"`
	SealKept string       `cbor:"11,keyasint,omitempty"` // why its seal secret is weak; empty: it is not
	// Emptied is the log index at which its device was last replaced or wiped:
	// what it held until then it does not hold now. See [Holding].
	Emptied uint64 `cbor:"12,keyasint,omitempty"`
	// Former is the key before this one: what it proposed under that may still be
	// on its way. It gives no access.
	Former dkek.Fingerprint `cbor:"13,keyasint,omitzero"`
}

func (*Member) table() Table  { return TableMembers }
func (m *Member) key() []byte { return m.ID[:] }

// Holder is the member as sharings name it.
func (m *Member) Holder() dkek.Holder { return dkek.Holder{Node: m.ID, Fingerprint: m.Fingerprint} }

// Device is what a member reports about its device.
type Device struct {
	Kind     string        `cbor:"1,keyasint"`
	Serial   string        `cbor:"2,keyasint"`
	Label    string        `cbor:"3,keyasint,omitempty"`
	State    string        `cbor:"4,keyasint,omitempty"`
	KCV      dkek.KCV      `cbor:"5,keyasint"` // zero: holds no DKEK
	BlobKind string        `cbor:"6,keyasint,omitempty"`
	Types    []hsm.KeyType `cbor:"7,keyasint,omitempty"` // that it can make
	Slots    uint32        `cbor:"8,keyasint,omitempty"`
	Combines bool          `cbor:"9,keyasint,omitempty"` // shares, by itself
	Weakness string        `cbor:"10,keyasint,omitempty"`
}

// ShareHealth is what a member found when it last unsealed its share.
type ShareHealth struct {
	Epoch   uint64 `cbor:"1,keyasint"`
	Attempt uint64 `cbor:"2,keyasint"`
	Index   uint64 `cbor:"3,keyasint"` // applied when it looked
	OK      bool   `cbor:"4,keyasint,omitempty"`
	Text    string `cbor:"5,keyasint,omitempty"` // what is wrong
}

// Removed is what is remembered of a removed member: its ID never comes back,
// and its address is not used for another ID while this row exists. Its change
// key is the ID.
type Removed struct {
	ID          dkek.NodeID      `cbor:"1,keyasint"`
	Name        string           `cbor:"2,keyasint"`
	Fingerprint dkek.Fingerprint `cbor:"3,keyasint"`
	Addr        string           `cbor:"4,keyasint"`
	Index       uint64           `cbor:"5,keyasint"` // in the log
	Time        int64            `cbor:"6,keyasint"`
	Reason      string           `cbor:"7,keyasint,omitempty"`
}

func (*Removed) table() Table     { return TableRemoved }
func (r *Removed) key() []byte    { return r.ID[:] }
func (r *Removed) second() []byte { return append(number(r.Index), r.ID[:]...) }

// What a [MemberChange] did.
const (
	ChangeAdd    = "add"
	ChangeRotate = "rotate"
	ChangeRemove = "remove"
)

// MemberChange is one link in the chain of membership changes, by which a node
// that meets an unknown fingerprint finds out whose it is. Its change key is
// Number, 8 bytes big endian.
type MemberChange struct {
	Number      uint64           `cbor:"1,keyasint"` // from 1
	Index       uint64           `cbor:"2,keyasint"` // in the log
	Action      string           `cbor:"3,keyasint"`
	Node        dkek.NodeID      `cbor:"4,keyasint"`
	Fingerprint dkek.Fingerprint `cbor:"5,keyasint"` // after the change; at a removal the last
	Public      []byte           `cbor:"6,keyasint,omitempty"`
	// Signed is the joiner's own [JoinStatement] at add (not of the first
	// member), the old key's [RotateStatement] at rotate.
	Signed *Signed `cbor:"7,keyasint,omitempty"`
}

func (*MemberChange) table() Table  { return TableChanges }
func (c *MemberChange) key() []byte { return number(c.Number) }

// NewMember is a node as it joins.
type NewMember struct {
	ID      dkek.NodeID `cbor:"1,keyasint"`
	Name    string      `cbor:"2,keyasint"`
	Public  []byte      `cbor:"3,keyasint"`
	Addr    string      `cbor:"4,keyasint"`
	ReadsTo uint64      `cbor:"5,keyasint"`
}

// row checks everything that does not depend on how it came.
func (n NewMember) row(t *txn) (*Member, *Error) {
	fingerprint, err := checkIdentity(n.Public)
	if err != nil {
		return nil, err
	}
	if zero(n.ID) {
		return nil, refuse(BadRequest, "member without an ID")
	}
	if err := CheckName(n.Name); err != nil {
		return nil, err
	}
	if err := checkAddress(n.Addr); err != nil {
		return nil, err
	}
	if _, ok := t.Removed(n.ID); ok {
		return nil, refuse(Conflict, "node %v was removed: it cannot come back under its old ID", n.ID)
	}
	if err := t.identityFree(fingerprint); err != nil {
		return nil, err
	}
	for m := range t.Members() {
		if m.ID == n.ID || m.Name == n.Name {
			return nil, refuse(Exists, "there is a member %s with ID %v", m.Name, m.ID)
		}
	}
	if err := t.addressFree(n.Addr, n.ID); err != nil {
		return nil, err
	}
	if cluster, ok := t.Cluster(); ok && n.ReadsTo < cluster.Version || n.ReadsTo == 0 {
		return nil, refuse(WrongState, "node reads command versions up to %d only: upgrade it first", n.ReadsTo)
	}
	return &Member{ID: n.ID, Name: n.Name, Public: n.Public, Fingerprint: fingerprint, Addr: n.Addr, ReadsTo: n.ReadsTo, Added: t.index}, nil
}

// identityFree refuses a key that already stands for somebody else, or once stood
// for a member: what was signed on the way from A to B could be handed in again
// after a way back to A.
func (t *txn) identityFree(f dkek.Fingerprint) *Error {
	if m, ok := t.MemberByFingerprint(f); ok {
		return refuse(Exists, "member %s has this key", m.Name)
	}
	for r := range t.RemovedMembers() {
		if r.Fingerprint == f {
			return refuse(Exists, "removed member %s had this key", r.Name)
		}
	}
	for c := range t.MemberChanges(0) {
		if c.Fingerprint == f {
			return refuse(Exists, "node %v had this key before: make a new one", c.Node)
		}
	}
	if c, ok := t.Client(f); ok {
		return refuse(Exists, "client %s has this key", c.Name)
	}
	if o, ok := t.Operator(f); ok {
		return refuse(Exists, "operator %s has this key", o.Name)
	}
	return nil
}

// addressFree refuses an address of another node, a removed one too: Raft
// remembers votes by address.
func (t *txn) addressFree(addr string, id dkek.NodeID) *Error {
	for m := range t.Members() {
		if m.Addr == addr && m.ID != id {
			return refuse(Exists, "address %s is member %s's", addr, m.Name)
		}
	}
	for r := range t.RemovedMembers() {
		if r.Addr == addr && r.ID != id {
			return refuse(Exists, "address %s was removed member %s's: take another", addr, r.Name)
		}
	}
	return nil
}

func (t *txn) changeMember(c MemberChange) {
	t.changeCluster(func(cluster *Cluster) { cluster.Changes++ })
	c.Number, c.Index = t.cluster().Changes, t.index
	t.put(&c)
	t.trim(TableChanges, byKey, MaxChanges, nil)
}

// MemberAdd lets a node in as a non-voter, against a join token. Signed is the
// joiner's [JoinStatement].
type MemberAdd struct {
	Member NewMember        `cbor:"1,keyasint"`
	Token  dkek.Fingerprint `cbor:"2,keyasint"`
	Signed Signed           `cbor:"3,keyasint"`
}

func (*MemberAdd) Kind() Kind { return KindMemberAdd }

// JoinStatement is what a joiner signs with its own key, domain [DomainJoin].
type JoinStatement struct {
	Cluster dkek.ClusterID   `cbor:"1,keyasint"`
	Token   dkek.Fingerprint `cbor:"2,keyasint"`
	Member  NewMember        `cbor:"3,keyasint"`
}

func (b *MemberAdd) apply(t *txn) (Value, *Error) {
	if err := t.byMember(); err != nil {
		return Value{}, err
	}
	token, ok := t.Token(b.Token)
	if !ok {
		return Value{}, refuse(NotAllowed, "no such join token: unknown, or used already")
	}
	if t.now > token.Expires {
		return Value{}, refuse(Expired, "join token %s has expired", token.Name)
	}
	member, err := b.Member.row(t)
	if err != nil {
		return Value{}, err
	}
	var statement JoinStatement
	if err := b.Signed.open(DomainJoin, b.Member.Public, &statement); err != nil {
		return Value{}, err
	}
	if statement.Cluster != t.cluster().ID || statement.Token != b.Token || !statement.Member.equal(b.Member) {
		return Value{}, refuse(NotAllowed, "the joiner signed something else")
	}
	if _, nonvoters := t.voters(); nonvoters >= MaxNonvoters {
		return Value{}, refuse(TooMany, "%d non-voters at most", MaxNonvoters)
	}
	t.put(member)
	t.remove(token)
	t.changeMember(MemberChange{Action: ChangeAdd, Node: member.ID, Fingerprint: member.Fingerprint, Public: member.Public, Signed: &b.Signed})
	t.audit("member add", member.Name, member.Fingerprint.String())
	return Value{}, nil
}

func (n NewMember) equal(o NewMember) bool {
	return n.ID == o.ID && n.Name == o.Name && string(n.Public) == string(o.Public) && n.Addr == o.Addr && n.ReadsTo == o.ReadsTo
}

func (v *View) voters() (voters, nonvoters int) {
	for m := range v.Members() {
		if m.Voter {
			voters++
		} else {
			nonvoters++
		}
	}
	return voters, nonvoters
}

// MemberPromote makes a non-voter a voter.
type MemberPromote struct {
	Node dkek.NodeID `cbor:"1,keyasint"`
}

func (*MemberPromote) Kind() Kind { return KindMemberPromote }

func (b *MemberPromote) apply(t *txn) (Value, *Error) {
	if err := t.byMemberOrOperator(); err != nil {
		return Value{}, err
	}
	m, err := t.member(b.Node)
	if err != nil {
		return Value{}, err
	}
	if m.Voter {
		return Value{}, nil
	}
	if voters, _ := t.voters(); voters >= MaxVoters {
		return Value{}, refuse(TooMany, "%d voters at most", MaxVoters)
	}
	next := *m
	next.Voter = true
	t.put(&next)
	t.audit("member promote", m.Name, "")
	return Value{}, nil
}

// member returns a member that must exist.
func (t *txn) member(id dkek.NodeID) (*Member, *Error) {
	if m, ok := t.Member(id); ok {
		return m, nil
	}
	return nil, refuse(NotFound, "no member %v", id)
}
