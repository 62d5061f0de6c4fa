package fsm

import (
	"encoding/binary"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/hsm"
)

// Key is a named key, with one version at least. Its change key is the name.
type Key struct {
	ID     KeyID       `cbor:"1,keyasint"` // the request that created it
	Name   string      `cbor:"2,keyasint"` // never used for another key
	Type   hsm.KeyType `cbor:"3,keyasint"`
	Usage  Verbs       `cbor:"4,keyasint"` // within KeyVerbs
	Labels []Label     `cbor:"5,keyasint,omitempty"`
	Policy KeyPolicy   `cbor:"6,keyasint"`
	Legacy bool        `cbor:"7,keyasint,omitempty"` // permission for legacy algorithms
	// Created is in the log's time, Unix milliseconds.
	Created int64  `cbor:"8,keyasint"`
	Newest  uint64 `cbor:"9,keyasint"` // number of the newest version
}

func (*Key) table() Table     { return TableKeys }
func (k *Key) key() []byte    { return []byte(k.Name) }
func (k *Key) second() []byte { return k.ID[:] }

// Label is a key's annotation. Labels are ascending by key.
type Label struct {
	Key   string `cbor:"1,keyasint"`
	Value string `cbor:"2,keyasint"`
}

// KeyPolicy is what holds for one key.
type KeyPolicy struct {
	// Copies is how many devices hold a version before it is acknowledged; 0 is
	// the cluster's.
	Copies int `cbor:"1,keyasint,omitempty"`
	// Clients, where not empty, are the only ones who may use the key,
	// ascending.
	Clients []dkek.Fingerprint `cbor:"2,keyasint,omitempty"`
}

// VersionState says what may be done with a version.
type VersionState uint8

const (
	Enabled         VersionState = 1
	Disabled        VersionState = 2
	Pending         VersionState = 3 // deletion is due at DeleteAfter and can be taken back
	Destroying      VersionState = 4 // the blob is gone; devices have yet to confirm
	Destroyed       VersionState = 5 // all devices confirmed
	DestroyedExcept VersionState = 6 // an operator waived some devices
)

func (s VersionState) String() string {
	names := [...]string{"unknown", "enabled", "disabled", "pending deletion", "destroying", "destroyed", "destroyed except"}
	if int(s) >= len(names) {
		return names[0]
	}
	return names[s]
}

// Live tells whether the version has a blob.
func (s VersionState) Live() bool { return s >= Enabled && s <= Pending }

// Version is one version of a key. Its change key is the key's ID and the
// number, 8 bytes big endian.
type Version struct {
	Key     KeyID        `cbor:"1,keyasint"`
	N       uint64       `cbor:"2,keyasint"` // from 1
	State   VersionState `cbor:"3,keyasint"`
	Request RequestID    `cbor:"4,keyasint"` // that made it, for life
	Created int64        `cbor:"5,keyasint"`
	// DeleteAfter is when a pending version may be destroyed, in the log's
	// time, and Before the state that it goes back to.
	DeleteAfter int64        `cbor:"6,keyasint,omitempty"`
	Before      VersionState `cbor:"7,keyasint,omitempty"`
	Material    Material     `cbor:"8,keyasint"` // without the blob once it is destroyed
}

func (*Version) table() Table     { return TableVersions }
func (v *Version) key() []byte    { return versionKey(v.Key, v.N) }
func (v *Version) second() []byte { return v.Request[:] }

// Ref names the version.
func (v *Version) Ref() VersionRef { return VersionRef{Key: v.Key, N: v.N} }

// VersionRef names a version.
type VersionRef struct {
	Key KeyID  `cbor:"1,keyasint"`
	N   uint64 `cbor:"2,keyasint"`
}

func versionKey(id KeyID, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 24), id[:]...), n)
}

// Material is what a device made: the public half, and the private one wrapped
// under the DKEK.
type Material struct {
	Public   []byte `cbor:"1,keyasint,omitempty"` // DER SubjectPublicKeyInfo; none for AES
	Blob     []byte `cbor:"2,keyasint,omitempty"` // wrapped
	BlobKind string `cbor:"3,keyasint"`
	// Check, for AES only, is the 16-byte CMAC of [CheckMessage].
	Check       []byte      `cbor:"4,keyasint,omitempty"`
	KCV         dkek.KCV    `cbor:"5,keyasint"` // of the DKEK that it is wrapped under
	Maker       dkek.NodeID `cbor:"6,keyasint"`
	Serial      string      `cbor:"7,keyasint"` // of the maker's device
	Incarnation uint64      `cbor:"8,keyasint"` // in which it was made
}

// CheckMessage is what an AES key authenticates by CMAC when it is made, so that
// a restored one can be told from another.
func CheckMessage(id RequestID) []byte {
	return append([]byte("keycustodian v1 key check\x00"), id[:]...)
}

func (m *Material) validate(t *txn, keyType hsm.KeyType) *Error {
	proven, ok := t.Proven()
	if !ok {
		return refuse(WrongState, "there is no proven DKEK yet: create it first")
	}
	switch {
	case m.KCV != proven.KCV:
		return refuse(Conflict, "key is wrapped under a DKEK with check value %v, the cluster's is %v", m.KCV, proven.KCV)
	case len(m.Blob) == 0 || len(m.Blob) > MaxBlob:
		return refuse(BadRequest, "blob of %d bytes: want 1 to %d", len(m.Blob), MaxBlob)
	case m.Incarnation != t.cluster().Incarnation:
		return refuse(Conflict, "key was made in incarnation %d, this is %d", m.Incarnation, t.cluster().Incarnation)
	case m.Maker != t.command.Actor.Node:
		return refuse(NotAllowed, "only its maker proposes a key")
	case m.BlobKind == "":
		return refuse(BadRequest, "blob without a kind")
	}
	if err := checkText("blob kind", m.BlobKind, MaxMemberName); err != nil {
		return err
	}
	if err := t.checkDevice(m.Maker, m.Serial); err != nil {
		return err
	}
	if keyType.Symmetric() {
		if len(m.Check) != 16 || len(m.Public) != 0 {
			return refuse(BadRequest, "an AES key has a check of 16 bytes and no public half")
		}
		return nil
	}
	if len(m.Check) != 0 {
		return refuse(BadRequest, "only an AES key has a check")
	}
	return checkPublic(m.Public, keyType)
}

// checkDevice wants a node's device to be the one that it last reported.
func (t *txn) checkDevice(node dkek.NodeID, serial string) *Error {
	m, err := t.member(node)
	if err != nil {
		return err
	}
	if m.Device == nil || m.Device.Serial != serial {
		return refuse(Conflict, "device %.64q is not the one that %s reported: report it first", serial, m.Name)
	}
	return nil
}

func checkLabels(labels []Label) *Error {
	if len(labels) > MaxLabels {
		return refuse(TooMany, "%d labels at most", MaxLabels)
	}
	for i, l := range labels {
		if l.Key == "" || i > 0 && labels[i-1].Key >= l.Key {
			return refuse(BadRequest, "labels: want distinct keys in order")
		}
		if err := checkText("label key", l.Key, MaxLabelKey); err != nil {
			return err
		}
		if err := checkText("label value", l.Value, MaxLabelValue); err != nil {
			return err
		}
	}
	return nil
}

func (p KeyPolicy) validate() *Error {
	if p.Copies < 0 || p.Copies > MaxVoters {
		return refuse(BadRequest, "copies %d: want 1 to %d", p.Copies, MaxVoters)
	}
	if len(p.Clients) > MaxKeyClients {
		return refuse(TooMany, "%d clients of one key at most", MaxKeyClients)
	}
	for i := 1; i < len(p.Clients); i++ {
		if slices.Compare(p.Clients[i-1][:], p.Clients[i][:]) >= 0 {
			return refuse(BadRequest, "clients of a key: want them distinct and ascending")
		}
	}
	return nil
}

// Usable returns the verbs that a type of key can do: the widest usage.
func Usable(keyType hsm.KeyType) Verbs {
	switch keyType.Family() {
	case hsm.FamilyRSA:
		return Sign | Verify | Encrypt | Decrypt
	case hsm.FamilyEC:
		return Sign | Verify | Derive
	case hsm.FamilyEd25519:
		return Sign | Verify
	case hsm.FamilyAES:
		return Encrypt | Decrypt | MAC
	}
	return 0
}
