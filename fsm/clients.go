package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// Role is what a client is for. Operators are in a table of their own.
type Role string

const (
	RoleUser    Role = "user"    // verbs on keys under its prefixes
	RoleAuditor Role = "auditor" // reads everything, changes nothing
)

// Client is whoever may use the API. Its change key is the fingerprint, 32
// bytes.
type Client struct {
	Fingerprint dkek.Fingerprint `cbor:"1,keyasint"`
	Name        string           `cbor:"2,keyasint"` // unique
	Role        Role             `cbor:"3,keyasint"`
	// Prefixes are the beginnings of key names that it may act on; the empty
	// prefix is every key.
	Prefixes []string `cbor:"4,keyasint,omitempty"`
	Verbs    Verbs    `cbor:"5,keyasint,omitempty"`
	Index    uint64   `cbor:"6,keyasint"`
}

func (*Client) table() Table  { return TableClients }
func (c *Client) key() []byte { return c.Fingerprint[:] }

// ClientAdd lets a client in, at an operator's word. A name that exists is
// refused: remove it first.
type ClientAdd struct {
	Name        string           `cbor:"1,keyasint"`
	Fingerprint dkek.Fingerprint `cbor:"2,keyasint"`
	Role        Role             `cbor:"3,keyasint"`
	Prefixes    []string         `cbor:"4,keyasint,omitempty"` // ascending
	Verbs       Verbs            `cbor:"5,keyasint,omitempty"`
}

func (*ClientAdd) Kind() Kind { return KindClientAdd }

func (b *ClientAdd) apply(t *txn) (Value, *Error) {
	if err := t.byOperator(); err != nil {
		return Value{}, err
	}
	if err := b.validate(); err != nil {
		return Value{}, err
	}
	if err := t.identityFree(b.Fingerprint); err != nil {
		return Value{}, err
	}
	for c := range t.Clients() {
		if c.Name == b.Name {
			return Value{}, refuse(Exists, "there is a client %s: remove it first", b.Name)
		}
	}
	if t.count(TableClients) >= MaxClients {
		return Value{}, refuse(TooMany, "%d clients at most", MaxClients)
	}
	t.put(&Client{Fingerprint: b.Fingerprint, Name: b.Name, Role: b.Role, Prefixes: b.Prefixes, Verbs: b.Verbs, Index: t.index})
	t.audit("client add", b.Name, string(b.Role)+" "+b.Verbs.String())
	return Value{}, nil
}

func (b *ClientAdd) validate() *Error {
	if err := CheckName(b.Name); err != nil {
		return err
	}
	if b.Fingerprint == (dkek.Fingerprint{}) {
		return refuse(BadRequest, "client without a fingerprint")
	}
	switch {
	case b.Role == RoleAuditor && (len(b.Prefixes) > 0 || b.Verbs != 0):
		return refuse(BadRequest, "an auditor has no prefixes and no verbs")
	case b.Role == RoleUser && (len(b.Prefixes) == 0 || b.Verbs == 0):
		return refuse(BadRequest, "a user wants a prefix and a verb")
	case b.Role != RoleAuditor && b.Role != RoleUser:
		return refuse(BadRequest, "unknown role %.40q: %s or %s", b.Role, RoleUser, RoleAuditor)
	case !b.Verbs.valid(AllVerbs):
		return refuse(BadRequest, "unknown verb")
	case len(b.Prefixes) > MaxPrefixes:
		return refuse(TooMany, "%d prefixes at most", MaxPrefixes)
	case !slices.IsSorted(b.Prefixes) || len(slices.Compact(slices.Clone(b.Prefixes))) != len(b.Prefixes):
		return refuse(BadRequest, "prefixes: want them distinct and in order")
	}
	for _, prefix := range b.Prefixes {
		if prefix != "" && !matches(prefix, MaxName, "._/-") {
			return refuse(BadRequest, "prefix %.40q: want the beginning of a key's name", prefix)
		}
	}
	return nil
}

// ClientRemove takes a client's rights away.
type ClientRemove struct {
	Fingerprint dkek.Fingerprint `cbor:"1,keyasint"`
}

func (*ClientRemove) Kind() Kind { return KindClientRemove }

func (b *ClientRemove) apply(t *txn) (Value, *Error) {
	if err := t.byOperator(); err != nil {
		return Value{}, err
	}
	client, ok := t.Client(b.Fingerprint)
	if !ok {
		return Value{}, refuse(NotFound, "no such client")
	}
	t.remove(client)
	t.audit("client remove", client.Name, "")
	return Value{}, nil
}
