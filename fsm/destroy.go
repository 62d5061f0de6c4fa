package fsm

import (
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// Tombstone says that a version is gone and which devices have yet to confirm
// that they do not hold it. Its change key is a [Version]'s.
type Tombstone struct {
	Key      KeyID         `cbor:"1,keyasint"`
	N        uint64        `cbor:"2,keyasint"`
	Index    uint64        `cbor:"3,keyasint"` // of the Destroy, in the log
	Time     int64         `cbor:"4,keyasint"`
	Awaiting []dkek.NodeID `cbor:"5,keyasint,omitempty"`
	// Except are the nodes that an operator waived.
	Except []dkek.NodeID `cbor:"6,keyasint,omitempty"`
}

func (*Tombstone) table() Table  { return TableTombstones }
func (x *Tombstone) key() []byte { return versionKey(x.Key, x.N) }

func versionName(name string, n uint64) string {
	if n == 0 {
		return name
	}
	return fmt.Sprintf("%s@%d", name, n)
}

// changeVersions changes one version, or with n = 0 all that change applies to.
// A single one to which it does not apply is refused; of all, one must remain.
func (t *txn) changeVersions(key *Key, n uint64, change func(*Version) bool) (int, *Error) {
	versions := slices.Collect(t.Versions(key.ID))
	if n != 0 {
		v, ok := t.Version(key.ID, n)
		if !ok {
			return 0, refuse(NotFound, "no version %s", versionName(key.Name, n))
		}
		versions = []*Version{v}
	}
	applies := 0
	for _, v := range versions {
		next := *v
		if !change(&next) {
			continue
		}
		applies++
		t.put(&next)
	}
	if applies == 0 {
		return 0, refuse(WrongState, "%s is %s", versionName(key.Name, n), versions[len(versions)-1].State)
	}
	return applies, nil
}

// KeyDelete makes a version, or with 0 all versions, pending: destroyed after a
// while, until then to be taken back.
type KeyDelete struct {
	Name    string `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint,omitempty"`
	// After is the wait in milliseconds, 1 or more; 0 is the policy's.
	After int64 `cbor:"3,keyasint,omitempty"`
}

func (*KeyDelete) Kind() Kind { return KindKeyDelete }

func (b *KeyDelete) apply(t *txn) (Value, *Error) {
	key, err := t.userKey(Manage, b.Name)
	if err != nil {
		return Value{}, err
	}
	if b.After < 0 || b.After > MaxDeleteWait.Milliseconds() {
		return Value{}, refuse(BadRequest, "delete after: want up to %v", MaxDeleteWait)
	}
	wait := b.After
	if wait == 0 {
		wait = t.cluster().Policy.DeleteTime().Milliseconds()
	}
	_, err = t.changeVersions(key, b.Version, func(v *Version) bool {
		if v.State != Enabled && v.State != Disabled {
			return false
		}
		v.Before, v.State, v.DeleteAfter = v.State, Pending, t.now+wait
		return true
	})
	if err != nil {
		return Value{}, err
	}
	t.audit("key delete", versionName(b.Name, b.Version), fmt.Sprintf("after %d ms", wait))
	return Value{}, nil
}

// KeyUndelete takes a deletion back.
type KeyUndelete struct {
	Name    string `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint,omitempty"`
}

func (*KeyUndelete) Kind() Kind { return KindKeyUndelete }

func (b *KeyUndelete) apply(t *txn) (Value, *Error) {
	key, err := t.userKey(Manage, b.Name)
	if err != nil {
		return Value{}, err
	}
	_, err = t.changeVersions(key, b.Version, func(v *Version) bool {
		if v.State != Pending {
			return false
		}
		v.State, v.Before, v.DeleteAfter = v.Before, 0, 0
		return true
	})
	if err != nil {
		return Value{}, err
	}
	t.audit("key undelete", versionName(b.Name, b.Version), "")
	return Value{}, nil
}

// Destroy commits the end of pending versions whose wait is over: their blobs
// are dropped, and every device that could hold them is to confirm that it does
// not. All of them, or none.
type Destroy struct {
	Items []VersionRef `cbor:"1,keyasint"`
}

func (*Destroy) Kind() Kind { return KindDestroy }

func (b *Destroy) apply(t *txn) (Value, *Error) {
	if err := t.byMember(); err != nil {
		return Value{}, err
	}
	if err := checkItems(b.Items); err != nil {
		return Value{}, err
	}
	var awaiting []dkek.NodeID
	for m := range t.Members() {
		if m.Device != nil {
			awaiting = append(awaiting, m.ID)
		}
	}
	for _, item := range b.Items {
		v, ok := t.Version(item.Key, item.N)
		if !ok {
			return Value{}, refuse(NotFound, "no version %d of key %v", item.N, item.Key)
		}
		if v.State != Pending || t.now < v.DeleteAfter {
			return Value{}, refuse(WrongState, "version %d of key %v is %s and not due", item.N, item.Key, v.State)
		}
		next := *v
		next.State, next.Material.Blob = Destroying, nil
		t.put(&next)
		stone := &Tombstone{Key: item.Key, N: item.N, Index: t.index, Time: t.now, Awaiting: awaiting}
		t.put(stone)
		t.settle(stone)
		t.remove(&Coverage{Key: item.Key, N: item.N})
		t.audit("key destroy", t.nameOf(item), "")
	}
	return Value{}, nil
}

func checkItems(items []VersionRef) *Error {
	if len(items) == 0 || len(items) > MaxItems {
		return refuse(BadRequest, "%d versions: want 1 to %d", len(items), MaxItems)
	}
	seen := make(map[VersionRef]bool, len(items))
	for _, item := range items {
		if seen[item] {
			return refuse(BadRequest, "version %d of key %v is named twice", item.N, item.Key)
		}
		seen[item] = true
	}
	return nil
}

func (t *txn) nameOf(ref VersionRef) string {
	if key, ok := t.KeyByID(ref.Key); ok {
		return versionName(key.Name, ref.N)
	}
	return versionName(ref.Key.String(), ref.N)
}

// confirm takes a node from those awaited.
func (t *txn) confirm(stone *Tombstone, node dkek.NodeID) {
	next := *stone
	next.Awaiting = slices.DeleteFunc(slices.Clone(stone.Awaiting), func(id dkek.NodeID) bool { return id == node })
	t.put(&next)
	t.settle(&next)
}

// settle calls a version destroyed once nobody is awaited.
func (t *txn) settle(stone *Tombstone) {
	v, ok := t.Version(stone.Key, stone.N)
	if !ok || len(stone.Awaiting) > 0 || v.State != Destroying {
		return
	}
	next := *v
	next.State = Destroyed
	if len(stone.Except) > 0 {
		next.State = DestroyedExcept
	}
	t.put(&next)
}

// DestroyConfirm says that a node's device does not hold versions, by an
// enumeration made after the Destroy was applied.
type DestroyConfirm struct {
	Node   dkek.NodeID  `cbor:"1,keyasint"`
	Serial string       `cbor:"2,keyasint"` // of the device
	Items  []VersionRef `cbor:"3,keyasint"`
}

func (*DestroyConfirm) Kind() Kind { return KindDestroyConfirm }

func (b *DestroyConfirm) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Node); err != nil {
		return Value{}, err
	}
	if err := checkItems(b.Items); err != nil {
		return Value{}, err
	}
	if err := t.checkDevice(b.Node, b.Serial); err != nil {
		return Value{}, err
	}
	for _, item := range b.Items {
		stone, ok := t.Tombstone(item.Key, item.N)
		if !ok {
			return Value{}, refuse(NotFound, "version %d of key %v is not destroyed", item.N, item.Key)
		}
		if slices.Contains(stone.Awaiting, b.Node) {
			t.confirm(stone, b.Node)
		}
	}
	return Value{}, nil
}

// DestroyExcept waives the confirmation of nodes whose devices cannot be asked,
// at an operator's word. The version is then called destroyed except them.
type DestroyExcept struct {
	Items  []VersionRef  `cbor:"1,keyasint"`
	Nodes  []dkek.NodeID `cbor:"2,keyasint"`
	Reason string        `cbor:"3,keyasint"`
}

func (*DestroyExcept) Kind() Kind { return KindDestroyExcept }

func (b *DestroyExcept) apply(t *txn) (Value, *Error) {
	if err := t.byOperator(); err != nil {
		return Value{}, err
	}
	if err := checkItems(b.Items); err != nil {
		return Value{}, err
	}
	if err := checkText("reason", b.Reason, MaxReason); err != nil {
		return Value{}, err
	}
	for _, item := range b.Items {
		stone, ok := t.Tombstone(item.Key, item.N)
		if !ok {
			return Value{}, refuse(NotFound, "version %d of key %v is not destroyed", item.N, item.Key)
		}
		next := *stone
		next.Except, next.Awaiting = slices.Clone(stone.Except), nil
		for _, id := range stone.Awaiting {
			if slices.Contains(b.Nodes, id) {
				next.Except = append(next.Except, id)
			} else {
				next.Awaiting = append(next.Awaiting, id)
			}
		}
		if len(next.Except) == len(stone.Except) {
			return Value{}, refuse(WrongState, "%s awaits none of these nodes", t.nameOf(item))
		}
		t.put(&next)
		t.settle(&next)
		t.audit("key destroy except", t.nameOf(item), b.Reason)
	}
	return Value{}, nil
}
