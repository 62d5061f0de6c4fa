package fsm

import (
	"bytes"
	"iter"
	"strings"

	"github.com/hashicorp/go-memdb"

	"github.com/keycustodian/keycustodian/dkek"
)

// View is the state at one applied index. It never changes, costs little to
// take and holds memory only while it is referenced. Rows that it returns are
// shared: they are for reading. Safe for concurrent use.
type View struct {
	db *memdb.MemDB
	tx *memdb.Txn
	// What every use of a key asks for is looked up once; nil where the view is
	// being written.
	head    *root
	cluster *Cluster
}

func newView(db *memdb.MemDB) *View {
	v := &View{db: db, tx: db.Txn(false)}
	v.head = v.root()
	v.cluster, _ = v.Cluster()
	return v
}

func (v *View) root() *root {
	if v.head != nil {
		return v.head
	}
	raw, err := v.tx.First(rootTable, byKey)
	if err != nil || raw == nil {
		return &root{}
	}
	return raw.(*root)
}

// find returns one record, or nil. The schema is a constant, so that memdb has
// no error to give.
func (v *View) find(table Table, index string, key []byte) *record {
	raw, err := v.tx.First(table.String(), index, key)
	if err != nil || raw == nil {
		return nil
	}
	return raw.(*record)
}

func get[T row](v *View, table Table, key []byte) (T, bool) { return getBy[T](v, table, byKey, key) }

func getBy[T row](v *View, table Table, index string, key []byte) (T, bool) {
	if found := v.find(table, index, key); found != nil {
		r, ok := found.row.(T)
		return r, ok
	}
	var none T
	return none, false
}

// all yields a table's rows in the order of an index, from a key on. The table
// must not be changed meanwhile.
func (v *View) all(table Table, index string, from []byte) iter.Seq[row] {
	return func(yield func(row) bool) {
		if from == nil {
			from = []byte{}
		}
		rows, err := v.tx.LowerBound(table.String(), index, from)
		if err != nil {
			return
		}
		for raw := rows.Next(); raw != nil; raw = rows.Next() {
			if !yield(raw.(*record).row) {
				return
			}
		}
	}
}

func each[T row](v *View, table Table, index string, from []byte) iter.Seq[T] {
	return func(yield func(T) bool) {
		for r := range v.all(table, index, from) {
			if !yield(r.(T)) {
				return
			}
		}
	}
}

// Index is the applied index that this view shows.
func (v *View) Index() uint64 { return v.root().Index }

// Time is the log's time in Unix milliseconds. Only a [Recover] sets it back.
func (v *View) Time() int64 { return v.root().Time }

// Digest is the same on all nodes that applied the same commands.
func (v *View) Digest() dkek.Hash {
	r := v.root()
	return r.digest()
}

// Count is the number of rows of a table.
func (v *View) Count(table Table) int {
	if table > lastTable {
		return 0
	}
	return int(v.root().Counts[table])
}

// Cluster returns the cluster's row; false before Init.
func (v *View) Cluster() (*Cluster, bool) {
	if v.cluster != nil {
		return v.cluster, true
	}
	return get[*Cluster](v, TableCluster, clusterKey)
}

// Member returns a member by ID. Removed ones are not members.
func (v *View) Member(id dkek.NodeID) (*Member, bool) { return get[*Member](v, TableMembers, id[:]) }

// MemberByFingerprint returns the member whose key has this fingerprint.
func (v *View) MemberByFingerprint(f dkek.Fingerprint) (*Member, bool) {
	for m := range v.Members() {
		if m.Fingerprint == f {
			return m, true
		}
	}
	return nil, false
}

// Members yields all members, in the order of their IDs.
func (v *View) Members() iter.Seq[*Member] { return each[*Member](v, TableMembers, byKey, nil) }

// Removed returns what is remembered of a member that was removed.
func (v *View) Removed(id dkek.NodeID) (*Removed, bool) {
	return get[*Removed](v, TableRemoved, id[:])
}

// RemovedMembers yields all removed members that are remembered.
func (v *View) RemovedMembers() iter.Seq[*Removed] {
	return each[*Removed](v, TableRemoved, byKey, nil)
}

// MemberChanges yields the chain of membership changes from a number on.
func (v *View) MemberChanges(from uint64) iter.Seq[*MemberChange] {
	return each[*MemberChange](v, TableChanges, byKey, number(from))
}

// Token returns a join token by the fingerprint of its public key, expired ones
// too.
func (v *View) Token(f dkek.Fingerprint) (*Token, bool) { return get[*Token](v, TableTokens, f[:]) }

// Tokens yields all join tokens.
func (v *View) Tokens() iter.Seq[*Token] { return each[*Token](v, TableTokens, byKey, nil) }

// Client returns a client by its key's fingerprint.
func (v *View) Client(f dkek.Fingerprint) (*Client, bool) {
	return get[*Client](v, TableClients, f[:])
}

// Clients yields all clients, in the order of their fingerprints.
func (v *View) Clients() iter.Seq[*Client] { return each[*Client](v, TableClients, byKey, nil) }

// Operator returns an operator by its key's fingerprint.
func (v *View) Operator(f dkek.Fingerprint) (Operator, bool) {
	if cluster, ok := v.Cluster(); ok {
		return cluster.Operators.Find(f)
	}
	return Operator{}, false
}

// Governs yields the chain of govern records from a number on.
func (v *View) Governs(from uint64) iter.Seq[*GovernRecord] {
	return each[*GovernRecord](v, TableGoverns, byKey, number(from))
}

// Sharing returns a sharing by epoch and attempt.
func (v *View) Sharing(epoch, attempt uint64) (*SharingRow, bool) {
	return get[*SharingRow](v, TableSharings, sharingKey(epoch, attempt))
}

// Proven returns the sharing that is in force; false while there is none.
func (v *View) Proven() (*SharingRow, bool) {
	if cluster, ok := v.Cluster(); ok && cluster.Proven.Epoch != 0 {
		return v.Sharing(cluster.Proven.Epoch, cluster.Proven.Attempt)
	}
	return nil, false
}

// Sharings yields all sharings that are remembered, the oldest first.
func (v *View) Sharings() iter.Seq[*SharingRow] {
	return each[*SharingRow](v, TableSharings, byKey, nil)
}

// Ceremony returns a ceremony by ID.
func (v *View) Ceremony(id CeremonyID) (*Ceremony, bool) {
	return get[*Ceremony](v, TableCeremonies, id[:])
}

// Ceremonies yields all ceremonies that are remembered, in the order of their
// opening.
func (v *View) Ceremonies() iter.Seq[*Ceremony] {
	return each[*Ceremony](v, TableCeremonies, bySecond, nil)
}

// Key returns a key by name, destroyed ones too: names are never used again.
func (v *View) Key(name string) (*Key, bool) { return get[*Key](v, TableKeys, []byte(name)) }

// KeyByID returns a key by ID.
func (v *View) KeyByID(id KeyID) (*Key, bool) {
	return getBy[*Key](v, TableKeys, bySecond, id[:])
}

// Keys yields the keys whose name begins with prefix and comes after another
// name, in the order of names. The name of a page's last key is the next page's
// after.
func (v *View) Keys(prefix, after string) iter.Seq[*Key] {
	from := prefix
	if after != "" && after >= prefix {
		from = after + "\x00"
	}
	return func(yield func(*Key) bool) {
		for k := range each[*Key](v, TableKeys, byKey, []byte(from)) {
			if !strings.HasPrefix(k.Name, prefix) || !yield(k) {
				return
			}
		}
	}
}

// Version returns one version of a key.
func (v *View) Version(id KeyID, n uint64) (*Version, bool) {
	return get[*Version](v, TableVersions, versionKey(id, n))
}

// Versions yields a key's versions, the oldest first.
func (v *View) Versions(id KeyID) iter.Seq[*Version] {
	return func(yield func(*Version) bool) {
		for r := range each[*Version](v, TableVersions, byKey, id[:]) {
			if r.Key != id || !yield(r) {
				return
			}
		}
	}
}

// AllVersions yields every version of every key, by key ID and number, from
// after one of them; the zero reference begins at the start.
func (v *View) AllVersions(after VersionRef) iter.Seq[*Version] {
	from := versionKey(after.Key, after.N)
	return func(yield func(*Version) bool) {
		for r := range each[*Version](v, TableVersions, byKey, from) {
			if !bytes.Equal(r.key(), from) && !yield(r) {
				return
			}
		}
	}
}

// VersionByRequest returns the version that a request made.
func (v *View) VersionByRequest(id RequestID) (*Version, bool) {
	return getBy[*Version](v, TableVersions, bySecond, id[:])
}

// Tombstone returns what is recorded of a version's destruction.
func (v *View) Tombstone(id KeyID, n uint64) (*Tombstone, bool) {
	return get[*Tombstone](v, TableTombstones, versionKey(id, n))
}

// Tombstones yields all tombstones.
func (v *View) Tombstones() iter.Seq[*Tombstone] {
	return each[*Tombstone](v, TableTombstones, byKey, nil)
}

// Aborted returns the abort of a request.
func (v *View) Aborted(id RequestID) (*Aborted, bool) {
	return get[*Aborted](v, TableAborts, id[:])
}

// Aborts yields all aborts that are not confirmed yet.
func (v *View) Aborts() iter.Seq[*Aborted] { return each[*Aborted](v, TableAborts, byKey, nil) }

// Audit yields the audit records from a number on.
func (v *View) Audit(from uint64) iter.Seq[*AuditRecord] {
	return each[*AuditRecord](v, TableAudit, byKey, number(from))
}

// AuditHead returns the number and hash of the newest audit record.
func (v *View) AuditHead() (uint64, dkek.Hash) {
	r := v.root()
	return r.AuditSeq, r.AuditHead
}
