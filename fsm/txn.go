package fsm

import (
	"fmt"

	"github.com/hashicorp/go-memdb"

	"github.com/keycustodian/keycustodian/dkek"
)

// txn is one command being applied: a view that can be written.
type txn struct {
	*View
	state   root
	index   uint64
	now     int64 // the log's time, Unix milliseconds
	command Command
	changes []Change
	broken  error // a failure of the database itself, which stops the node
}

func newTxn(db *memdb.MemDB, index uint64, c Command) *txn {
	view := &View{db: db, tx: db.Txn(true)}
	t := &txn{View: view, state: *view.root(), index: index, command: c}
	t.now = max(c.Time, t.state.Time)
	return t
}

func (t *txn) abort() { t.tx.Abort() }

func (t *txn) commit() error {
	if t.broken == nil {
		t.broken = t.tx.Insert(rootTable, &t.state)
	}
	if t.broken != nil {
		return fmt.Errorf("fsm: index %d: %w", t.index, t.broken)
	}
	t.tx.Commit()
	return nil
}

// run applies the body after the checks that all kinds share.
func (t *txn) run() (Value, *Error) {
	if t.command.Request == (RequestID{}) {
		return Value{}, refuse(BadRequest, "command without a request ID")
	}
	if t.command.Time <= 0 {
		return Value{}, refuse(BadRequest, "command without a time: the leader stamps it")
	}
	if t.command.Body.Kind() != KindInit {
		if _, ok := t.Cluster(); !ok {
			return Value{}, refuse(WrongState, "no cluster yet: init it first")
		}
	}
	if needs := since(t.command.Body.Kind()); needs > t.version() {
		return Value{}, refuse(WrongState, "command kind %d needs command version %d, the cluster is at %d", t.command.Body.Kind(), needs, t.version())
	}
	return t.command.Body.apply(t)
}

// version is the command version that the cluster is at, which begins at 1.
func (t *txn) version() uint64 {
	if cluster, ok := t.Cluster(); ok {
		return cluster.Version
	}
	return 1
}

// since is the command version that brought a kind.
func since(Kind) uint64 { return 1 }

// put writes a row, in place of the one with the same key.
func (t *txn) put(r row) {
	hash, err := hashRow(r)
	if err != nil {
		t.fail(err)
		return
	}
	table := r.table()
	if old := t.find(table, byKey, r.key()); old != nil {
		t.state.Sums[table].sub(old.sum)
	} else {
		t.state.Counts[table]++
	}
	t.state.Sums[table].add(hash)
	t.fail(t.tx.Insert(table.String(), &record{row: r, sum: hash}))
	t.note(r, false)
}

// remove drops a row; one that is not there is no error.
func (t *txn) remove(r row) {
	table := r.table()
	old := t.find(table, byKey, r.key())
	if old == nil {
		return
	}
	t.state.Sums[table].sub(old.sum)
	t.state.Counts[table]--
	t.fail(t.tx.Delete(table.String(), old))
	t.note(r, true)
}

func (t *txn) note(r row, removed bool) {
	if table := r.table(); table != TableRequests && table != TableAudit {
		t.changes = append(t.changes, Change{Table: table, Key: r.key(), Removed: removed})
	}
}

func (t *txn) fail(err error) {
	if t.broken == nil {
		t.broken = err
	}
}

// count returns how many rows a table has.
func (t *txn) count(table Table) int { return int(t.state.Counts[table]) }

// trim drops a table's rows in the order of an index until at most keep are
// left.
func (t *txn) trim(table Table, order string, keep int, may func(row) bool) {
	var drop []row
	excess := t.count(table) - keep
	for r := range t.all(table, order, nil) {
		if len(drop) >= excess {
			break
		}
		if may == nil || may(r) {
			drop = append(drop, r)
		}
	}
	for _, r := range drop {
		t.remove(r)
	}
}

// cluster is the cluster's row, which exists in every command but Init.
func (t *txn) cluster() *Cluster {
	cluster, _ := t.Cluster()
	return cluster
}

// changeCluster puts a changed copy of the cluster's row.
func (t *txn) changeCluster(change func(*Cluster)) {
	next := *t.cluster()
	change(&next)
	t.put(&next)
}

func zero(id dkek.NodeID) bool { return id == dkek.NodeID{} }
