package fsm

import (
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/hsm"
)

var clusterKey = []byte{1}

// Cluster is the one row about the whole. Its change key is one byte 1.
type Cluster struct {
	ID          dkek.ClusterID `cbor:"1,keyasint"`
	Name        string         `cbor:"2,keyasint"`
	Incarnation uint64         `cbor:"3,keyasint"` // from 1; a recovery begins the next
	Version     uint64         `cbor:"4,keyasint"` // command version that may be written
	Policy      Policy         `cbor:"5,keyasint"`
	Operators   OperatorSet    `cbor:"6,keyasint"`
	// Epoch and Attempt are the highest pair that a sharing ever used.
	Epoch   uint64 `cbor:"7,keyasint"`
	Attempt uint64 `cbor:"8,keyasint"`
	// Proven is the sharing in force; zero before the first.
	Proven SharingRef `cbor:"9,keyasint"`
	// ReshareDue says why the shares should be dealt anew; empty: no reason.
	ReshareDue string `cbor:"10,keyasint,omitempty"`
	// Changes counts membership changes.
	Changes uint64 `cbor:"11,keyasint"`
}

func (*Cluster) table() Table { return TableCluster }
func (*Cluster) key() []byte  { return clusterKey }

// Policy is what the operators agreed on beside who they are.
type Policy struct {
	// Copies is how many devices hold a key before it is acknowledged; 0 is 1.
	Copies int `cbor:"1,keyasint,omitempty"`
	// StaleFor is how long a node without quorum goes on under what it saw
	// last, in milliseconds; 0 is one hour, negative: not at all.
	StaleFor int64 `cbor:"2,keyasint,omitempty"`
	// DeleteWait is how long a deletion can be taken back where it does not
	// say itself, in milliseconds; 0 is seven days.
	DeleteWait int64 `cbor:"3,keyasint,omitempty"`
	// Threshold is the least t of a new sharing; 0 is a majority.
	Threshold int `cbor:"4,keyasint,omitempty"`
	// Legacy are the legacy key types that may be made.
	Legacy []hsm.KeyType `cbor:"5,keyasint,omitempty"`
}

// CopiesOrDefault returns Copies with its default.
func (p Policy) CopiesOrDefault() int {
	if p.Copies == 0 {
		return DefaultCopies
	}
	return p.Copies
}

// StaleTime returns StaleFor with its default.
func (p Policy) StaleTime() time.Duration {
	if p.StaleFor == 0 {
		return DefaultStaleFor
	}
	return time.Duration(max(p.StaleFor, 0)) * time.Millisecond
}

// DeleteTime returns DeleteWait with its default.
func (p Policy) DeleteTime() time.Duration {
	if p.DeleteWait == 0 {
		return DefaultDeleteWait
	}
	return time.Duration(p.DeleteWait) * time.Millisecond
}

// LeastThreshold returns the least t for n holders: the policy's, but no more
// than n, and no less than a majority.
func (p Policy) LeastThreshold(n int) int { return max(n/2+1, min(p.Threshold, n)) }

func (p Policy) validate() *Error {
	switch {
	case p.Copies < 0 || p.Copies > MaxVoters:
		return refuse(BadRequest, "policy: copies %d: want 1 to %d", p.Copies, MaxVoters)
	case p.StaleFor > MaxStaleFor.Milliseconds():
		return refuse(BadRequest, "policy: stale-for: want %v at most", MaxStaleFor)
	case p.DeleteWait < 0 || p.DeleteWait > MaxDeleteWait.Milliseconds():
		return refuse(BadRequest, "policy: delete wait: want 0 to %v", MaxDeleteWait)
	case p.Threshold < 0 || p.Threshold > dkek.MaxHolders:
		return refuse(BadRequest, "policy: threshold %d: want 0 to %d", p.Threshold, dkek.MaxHolders)
	}
	for i, keyType := range p.Legacy {
		if !keyType.Legacy() || i > 0 && p.Legacy[i-1] >= keyType {
			return refuse(BadRequest, "policy: legacy types: want distinct legacy key types in order")
		}
	}
	return nil
}

// Init begins a cluster with its first member, who is a voter, and its first
// operators. The actor is that member.
type Init struct {
	Cluster   dkek.ClusterID `cbor:"1,keyasint"`
	Name      string         `cbor:"2,keyasint"`
	Member    NewMember      `cbor:"3,keyasint"`
	Operators []Operator     `cbor:"4,keyasint"` // ascending by fingerprint, at least one
	Approvals int            `cbor:"5,keyasint"` // k
	Policy    Policy         `cbor:"6,keyasint"`
}

func (*Init) Kind() Kind { return KindInit }

func (b *Init) apply(t *txn) (Value, *Error) {
	if _, ok := t.Cluster(); ok {
		return Value{}, refuse(Exists, "there is a cluster already")
	}
	if b.Cluster == (dkek.ClusterID{}) {
		return Value{}, refuse(BadRequest, "cluster without an ID")
	}
	if err := CheckName(b.Name); err != nil {
		return Value{}, err
	}
	if err := b.Policy.validate(); err != nil {
		return Value{}, err
	}
	set := OperatorSet{Cluster: b.Cluster, Number: 1, Approvals: b.Approvals, Operators: b.Operators}
	if err := set.validate(); err != nil {
		return Value{}, err
	}
	member, err := b.Member.row(t)
	if err != nil {
		return Value{}, err
	}
	if t.command.Actor != (Actor{Who: member.Fingerprint, Node: member.ID}) {
		return Value{}, refuse(NotAllowed, "a cluster is begun by its first member")
	}
	if _, taken := set.Find(member.Fingerprint); taken {
		return Value{}, refuse(NotAllowed, "a node's key cannot be an operator's")
	}
	member.Voter = true
	t.put(&Cluster{ID: b.Cluster, Name: b.Name, Incarnation: 1, Version: 1, Policy: b.Policy, Operators: set})
	t.put(&GovernRecord{Number: 1, Digest: set.Digest(), Set: set, Policy: b.Policy})
	t.put(member)
	t.changeMember(MemberChange{Action: ChangeAdd, Node: member.ID, Fingerprint: member.Fingerprint, Public: member.Public})
	t.audit("cluster init", b.Name, "")
	return Value{}, nil
}

// VersionRaise raises the command version: from then on commands of the new
// version may be written. Every member must have reported that it reads it.
type VersionRaise struct {
	Version uint64 `cbor:"1,keyasint"`
}

func (*VersionRaise) Kind() Kind { return KindVersionRaise }

func (b *VersionRaise) apply(t *txn) (Value, *Error) {
	if err := t.byMemberOrOperator(); err != nil {
		return Value{}, err
	}
	if b.Version <= t.cluster().Version {
		return Value{}, refuse(WrongState, "command version is %d already", t.cluster().Version)
	}
	// One step at a time: a leap to a version that no build will ever read
	// would be for ever.
	if next := t.cluster().Version + 1; b.Version != next {
		return Value{}, refuse(WrongState, "the next command version is %d", next)
	}
	for m := range t.Members() {
		if m.ReadsTo < b.Version {
			return Value{}, refuse(WrongState, "member %s reads command versions up to %d only: upgrade it first", m.Name, m.ReadsTo)
		}
	}
	t.changeCluster(func(c *Cluster) { c.Version = b.Version })
	t.audit("version raise", t.cluster().Name, "")
	return Value{}, nil
}
