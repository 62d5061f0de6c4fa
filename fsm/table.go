package fsm

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"github.com/keycustodian/keycustodian/dkek"
)

// Table numbers a table of the state; snapshots and digests use the number.
type Table uint8

const (
	TableCluster    Table = 1
	TableMembers    Table = 2
	TableRemoved    Table = 3
	TableChanges    Table = 4
	TableTokens     Table = 5
	TableClients    Table = 6
	TableGoverns    Table = 7
	TableSharings   Table = 8
	TableCeremonies Table = 9
	TableKeys       Table = 10
	TableVersions   Table = 11
	TableTombstones Table = 12
	TableCoverage   Table = 13
	TableAborts     Table = 14
	TableRequests   Table = 15
	TableAudit      Table = 16

	lastTable = TableAudit
)

var tableNames = [lastTable + 1]string{"root", "cluster", "members", "removed", "changes", "tokens", "clients", "governs", "sharings",
	"ceremonies", "keys", "versions", "tombstones", "coverage", "aborts", "requests", "audit"}

func (t Table) String() string {
	if t > lastTable {
		return fmt.Sprintf("table %d", uint8(t))
	}
	return tableNames[t]
}

// newRow returns an empty row of a table.
func newRow(table Table) row {
	switch table {
	case TableCluster:
		return new(Cluster)
	case TableMembers:
		return new(Member)
	case TableRemoved:
		return new(Removed)
	case TableChanges:
		return new(MemberChange)
	case TableTokens:
		return new(Token)
	case TableClients:
		return new(Client)
	case TableGoverns:
		return new(GovernRecord)
	case TableSharings:
		return new(SharingRow)
	case TableCeremonies:
		return new(Ceremony)
	case TableKeys:
		return new(Key)
	case TableVersions:
		return new(Version)
	case TableTombstones:
		return new(Tombstone)
	case TableCoverage:
		return new(Coverage)
	case TableAborts:
		return new(Aborted)
	case TableRequests:
		return new(request)
	case TableAudit:
		return new(AuditRecord)
	}
	return nil
}

// row is one row of a table. Rows are immutable once put: a change puts a copy.
type row interface {
	table() Table
	key() []byte
}

// indexed is a row that can be found by a second unique key as well.
type indexed interface {
	row
	second() []byte
}

// record is what memdb holds: a row, and the hash of its encoding, which is
// taken out of the table's sum when the row goes.
type record struct {
	row row
	sum dkek.Hash
}

const (
	byKey    = "id" // the name memdb wants for its primary index
	bySecond = "second"
)

// index finds a record by the bytes that its row gives.
type index struct {
	bytes func(row) []byte
}

func (i index) FromObject(object any) (bool, []byte, error) {
	r, ok := object.(*record)
	if !ok {
		return false, nil, errors.New("not a record")
	}
	return true, i.bytes(r.row), nil
}

func (i index) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if key, ok := args[0].([]byte); ok {
			return key, nil
		}
	}
	return nil, errors.New("want one key")
}

func (i index) PrefixFromArgs(args ...any) ([]byte, error) { return i.FromArgs(args...) }

const rootTable = "root"

// newDB makes an empty database, as a snapshot: memdb then keeps no list of
// watchers to wake at every commit, of which there are none ([Machine.Changed] is
// for all rows).
func newDB() (*memdb.MemDB, error) {
	primary := index{row.key}
	schema := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		rootTable: {Name: rootTable, Indexes: map[string]*memdb.IndexSchema{
			byKey: {Name: byKey, Unique: true, Indexer: rootIndex{}},
		}},
	}}
	for table := Table(1); table <= lastTable; table++ {
		indexes := map[string]*memdb.IndexSchema{byKey: {Name: byKey, Unique: true, Indexer: primary}}
		if _, ok := newRow(table).(indexed); ok {
			second := index{func(r row) []byte { return r.(indexed).second() }}
			indexes[bySecond] = &memdb.IndexSchema{Name: bySecond, Unique: true, Indexer: second}
		}
		schema.Tables[table.String()] = &memdb.TableSchema{Name: table.String(), Indexes: indexes}
	}
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		return nil, err
	}
	return db.Snapshot(), nil
}

// root is the one row beside the tables: where the state is, and what the
// tables sum up to.
type root struct {
	Index  uint64 // applied
	Time   int64  // the log's, Unix milliseconds
	Counts [lastTable + 1]uint64
	Sums   [lastTable + 1]sum
	// AuditSeq and AuditHead are the newest audit record's; they outlive it.
	AuditSeq  uint64
	AuditHead dkek.Hash
}

type rootIndex struct{}

func (rootIndex) FromObject(any) (bool, []byte, error) { return true, []byte{0}, nil }
func (rootIndex) FromArgs(...any) ([]byte, error)      { return []byte{0}, nil }
