package fsm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"

	"github.com/keycustodian/keycustodian/dkek"
)

// Machine is one node's copy of the replicated state. Apply and Restore are for
// one caller at a time; everything else may be called concurrently with them.
type Machine struct {
	mu      sync.Mutex // one writer
	fatal   error
	history history
	db      *memdb.MemDB         // with mu
	view    atomic.Pointer[View] // of db as it is

	watch   sync.Mutex
	changed chan struct{}
}

// Result is what became of one command.
type Result struct {
	Index uint64
	// Err is the command's refusal, the same on every node; nil: accepted.
	Err *Error
	// Value is what an accepted command answers.
	Value Value
	// Repeated: the request was answered before, this is that answer, and
	// nothing changed.
	Repeated bool
	// Changes are the rows that changed, for those who act on them.
	Changes []Change
	// Fatal, if not nil, means that this node must stop: the cluster is at a
	// command version that this build does not read, or the index was applied
	// before. Nothing was applied, and the machine applies nothing more.
	Fatal error
}

// Change is a row that was put or removed. Requests and audit records are not
// reported.
type Change struct {
	Table Table
	// Key identifies the row within its table: see the table's type.
	Key     []byte
	Removed bool
}

// New returns an empty machine: it wants an [Init], or a Restore.
func New() *Machine {
	db, err := newDB()
	if err != nil {
		panic(err) // the schema is a constant
	}
	m := &Machine{}
	m.become(db)
	return m
}

// Apply applies the command at a log index, which must be above the last one.
// It never panics for what is in a command.
func (m *Machine) Apply(index uint64, command []byte) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fatal != nil {
		return Result{Index: index, Fatal: m.fatal}
	}
	result, err := m.apply(index, command)
	if err != nil {
		m.fatal = err
		return Result{Index: index, Fatal: err}
	}
	m.wake()
	return result
}

func (m *Machine) apply(index uint64, command []byte) (Result, error) {
	c, body, unreadable := decode(command)
	db := m.db
	t := newTxn(db, index, c)
	defer t.abort()
	if t.state.Index >= index {
		return Result{}, fmt.Errorf("fsm: index %d is not above %d, which is applied", index, t.state.Index)
	}
	version := t.version()
	if version > CommandVersion {
		return Result{}, fmt.Errorf("fsm: index %d: %w (command version %d, this build reads %d)", index, ErrUnknownKind, version, CommandVersion)
	}
	if unreadable != nil || since(c.Body.Kind()) > version {
		return m.passOver(t, unreadable)
	}
	result := Result{Index: index}
	if first, ok := t.repeated(); ok {
		result.Err, result.Value, result.Repeated = first.refusal(), first.Value, true
	} else {
		result.Value, result.Err = t.run()
		if result.Err != nil { // whatever was written before the refusal is dropped
			t.abort()
			t = newTxn(db, index, c)
			defer t.abort()
		}
		t.state.Time = t.now
		t.remember(content(c, body), result.Value, result.Err)
	}
	result.Changes = t.changes
	t.state.Index = index
	digest := t.state.digest()
	if err := t.commit(); err != nil {
		return Result{}, err
	}
	m.become(db)
	m.history.add(index, digest)
	return result, nil
}

// passOver leaves out an entry that no build may write at the cluster's command
// version: every build leaves it out, this one with or without knowing what it
// would mean at a later version. No honest leader appends one, and one that lies
// must not stop all nodes for good by it.
func (m *Machine) passOver(t *txn, unreadable error) (Result, error) {
	refusal := refuse(BadRequest, "entry %d is no command: it is passed over", t.index)
	if unreadable == nil || errors.Is(unreadable, ErrUnknownKind) {
		refusal.Code = UnknownKind
	}
	t.state.Index = t.index
	digest := t.state.digest()
	if err := t.commit(); err != nil {
		return Result{}, err
	}
	m.become(m.db)
	m.history.add(t.index, digest)
	return Result{Index: t.index, Err: refusal}, nil
}

// become shows what is in the database now. With mu held.
func (m *Machine) become(db *memdb.MemDB) {
	m.db = db
	m.view.Store(newView(db.Snapshot()))
}

// State returns a consistent view of the present state: the same one until
// something is applied.
func (m *Machine) State() *View { return m.view.Load() }

// Digest returns the digest of the present state.
func (m *Machine) Digest() dkek.Hash { return m.State().Digest() }

// AppliedIndex returns the index of the command that was applied last.
func (m *Machine) AppliedIndex() uint64 { return m.State().Index() }

// Changed returns a channel that is closed at the next Apply or Restore. Ask
// for it before reading the state.
func (m *Machine) Changed() <-chan struct{} {
	m.watch.Lock()
	defer m.watch.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

func (m *Machine) wake() {
	m.watch.Lock()
	defer m.watch.Unlock()
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Validate says what Apply would answer to a command in this state, by the same
// code and without changing anything. The command must be stamped. The leader
// asks before it appends.
func Validate(v *View, c Command) error {
	if c.Body == nil {
		return refuse(BadRequest, "command without a body")
	}
	t := newTxn(v.db.Snapshot(), v.Index()+1, c)
	defer t.abort()
	if _, repeated := t.repeated(); repeated {
		return nil // the log will answer it again
	}
	if _, err := t.run(); err != nil {
		return err
	}
	return errors.Join(t.broken)
}
