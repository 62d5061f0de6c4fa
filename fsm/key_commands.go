package fsm

import (
	"github.com/keycustodian/keycustodian/hsm"
)

// KeyCreate commits a key that a device made and wrapped, and its maker proved.
// The request ID becomes the key's ID.
type KeyCreate struct {
	Name     string      `cbor:"1,keyasint"`
	Type     hsm.KeyType `cbor:"2,keyasint"`
	Usage    Verbs       `cbor:"3,keyasint"` // within Usable(Type)
	Labels   []Label     `cbor:"4,keyasint,omitempty"`
	Policy   KeyPolicy   `cbor:"5,keyasint"`
	Legacy   bool        `cbor:"6,keyasint,omitempty"`
	Material Material    `cbor:"7,keyasint"`
}

func (*KeyCreate) Kind() Kind { return KindKeyCreate }

func (b *KeyCreate) apply(t *txn) (Value, *Error) {
	if made, ok := t.VersionByRequest(t.command.Request); ok && made.N == 1 {
		if key, ok := t.KeyByID(made.Key); ok && key.Name == b.Name {
			return Value{Number: made.N}, nil // a retry, long after its answer was forgotten
		}
	}
	if err := t.byUser(Create, b.Name); err != nil {
		return Value{}, err
	}
	if err := b.validate(t); err != nil {
		return Value{}, err
	}
	if old, ok := t.Key(b.Name); ok {
		return Value{}, refuse(Exists, "there is a key %s since request %v: names are not used again", b.Name, old.ID)
	}
	if t.count(TableKeys) >= MaxKeys {
		return Value{}, refuse(TooMany, "%d keys at most", MaxKeys)
	}
	if err := t.notAborted(); err != nil {
		return Value{}, err
	}
	key := &Key{
		ID: KeyID(t.command.Request), Name: b.Name, Type: b.Type, Usage: b.Usage, Labels: b.Labels,
		Policy: b.Policy, Legacy: b.Legacy, Created: t.now, Newest: 1,
	}
	t.put(key)
	t.putVersion(key, b.Material)
	t.audit("key create", b.Name, string(b.Type))
	return Value{Number: 1}, nil
}

func (b *KeyCreate) validate(t *txn) *Error {
	if err := CheckKeyName(b.Name); err != nil {
		return err
	}
	if b.Type.Family() == "" {
		return refuse(BadRequest, "unknown key type %.40q", b.Type)
	}
	if b.Usage == 0 || !b.Usage.valid(Usable(b.Type)) {
		return refuse(BadRequest, "usage of a key of type %s: one or more of %s", b.Type, Usable(b.Type))
	}
	if b.Type.Legacy() {
		if !b.Legacy {
			return refuse(NotAllowed, "a key of type %s needs the legacy permission", b.Type)
		}
		allowed := false
		for _, legacy := range t.cluster().Policy.Legacy {
			allowed = allowed || legacy == b.Type
		}
		if !allowed {
			return refuse(NotAllowed, "the cluster's policy does not allow keys of type %s: a govern ceremony can", b.Type)
		}
	}
	if err := checkLabels(b.Labels); err != nil {
		return err
	}
	if err := b.Policy.validate(); err != nil {
		return err
	}
	return b.Material.validate(t, b.Type)
}

// notAborted refuses a request that was given up: its object is being deleted.
func (t *txn) notAborted() *Error {
	if _, ok := t.Aborted(t.command.Request); ok {
		return refuse(Conflict, "request %v was aborted", t.command.Request)
	}
	if _, ok := t.VersionByRequest(t.command.Request); ok {
		return refuse(Conflict, "request %v made another key", t.command.Request)
	}
	return nil
}

// putVersion adds the key's newest version, which its maker's device holds.
func (t *txn) putVersion(key *Key, m Material) {
	t.put(&Version{Key: key.ID, N: key.Newest, State: Enabled, Request: t.command.Request, Created: t.now, Material: m})
	t.cover(VersionRef{Key: key.ID, N: key.Newest}, m.Maker)
}

// KeyRotate commits a new version of a key.
type KeyRotate struct {
	Name     string   `cbor:"1,keyasint"`
	Material Material `cbor:"2,keyasint"`
}

func (*KeyRotate) Kind() Kind { return KindKeyRotate }

func (b *KeyRotate) apply(t *txn) (Value, *Error) {
	key, err := t.userKey(Rotate, b.Name)
	if err != nil {
		return Value{}, err
	}
	if made, ok := t.VersionByRequest(t.command.Request); ok && made.Key == key.ID && made.N > 1 {
		return Value{Number: made.N}, nil // a retry, long after its answer was forgotten
	}
	if newest, ok := t.Version(key.ID, key.Newest); !ok || newest.State != Enabled && newest.State != Disabled {
		return Value{}, refuse(WrongState, "key %s is deleted", b.Name)
	}
	if key.Newest >= MaxVersions {
		return Value{}, refuse(TooMany, "%d versions of a key at most", MaxVersions)
	}
	if err := b.Material.validate(t, key.Type); err != nil {
		return Value{}, err
	}
	if err := t.notAborted(); err != nil {
		return Value{}, err
	}
	next := *key
	next.Newest++
	t.put(&next)
	t.putVersion(&next, b.Material)
	t.audit("key rotate", versionName(b.Name, next.Newest), "")
	return Value{Number: next.Newest}, nil
}

// userKey returns a key on which the actor may do something.
func (t *txn) userKey(verb Verbs, name string) (*Key, *Error) {
	if err := t.byUser(verb, name); err != nil {
		return nil, err
	}
	key, ok := t.Key(name)
	if !ok {
		return nil, refuse(NotFound, "no key %.128s", name)
	}
	return key, nil
}

// KeyState enables or disables one version, or with 0 all that are one or the
// other.
type KeyState struct {
	Name    string `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint,omitempty"`
	Disable bool   `cbor:"3,keyasint,omitempty"`
}

func (*KeyState) Kind() Kind { return KindKeyState }

func (b *KeyState) apply(t *txn) (Value, *Error) {
	key, err := t.userKey(Manage, b.Name)
	if err != nil {
		return Value{}, err
	}
	want, action := Enabled, "key enable"
	if b.Disable {
		want, action = Disabled, "key disable"
	}
	changed, err := t.changeVersions(key, b.Version, func(v *Version) bool {
		if v.State != Enabled && v.State != Disabled {
			return false
		}
		v.State = want
		return true
	})
	if err != nil {
		return Value{}, err
	}
	if changed > 0 {
		t.audit(action, versionName(b.Name, b.Version), "")
	}
	return Value{}, nil
}

// KeyLabels replaces a key's labels.
type KeyLabels struct {
	Name   string  `cbor:"1,keyasint"`
	Labels []Label `cbor:"2,keyasint,omitempty"`
}

func (*KeyLabels) Kind() Kind { return KindKeyLabels }

func (b *KeyLabels) apply(t *txn) (Value, *Error) {
	key, err := t.userKey(Manage, b.Name)
	if err != nil {
		return Value{}, err
	}
	if err := checkLabels(b.Labels); err != nil {
		return Value{}, err
	}
	next := *key
	next.Labels = b.Labels
	t.put(&next)
	t.audit("key labels", b.Name, "")
	return Value{}, nil
}
