package fsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

func reader(p []byte) *bytes.Reader { return bytes.NewReader(p) }

func TestKeyCreate(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	with := func(change func(*fsm.KeyCreate)) func() fsm.Body {
		return func() fsm.Body { c := l.keyCreate("k"); change(c); return c }
	}
	l.refusals([]refusal{
		{"empty name", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Name = "" })},
		{"long name", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Name = strings.Repeat("k", fsm.MaxName+1) })},
		{"control character", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Name = "a\n" })},
		{"upper case", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Name = "K" })},
		{"begins with a dot", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Name = ".k" })},
		{"unknown type", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Type = "des" })},
		{"no usage", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Usage = 0 })},
		{"usage that the type lacks", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Usage = fsm.Decrypt })},
		{"another type's public key", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Type = hsm.ECDSAP256 })},
		{"no public key", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Material.Public = nil })},
		{"no blob", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Material.Blob = nil })},
		{"large blob", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Material.Blob = make([]byte, fsm.MaxBlob+1) })},
		{"another DKEK", fsm.Conflict, a, a, with(func(c *fsm.KeyCreate) { c.Material.KCV[0]++ })},
		{"another's device", fsm.Conflict, a, a, with(func(c *fsm.KeyCreate) { c.Material.Serial = "other" })},
		{"proposed by another", fsm.NotAllowed, b, b, with(func(c *fsm.KeyCreate) {})},
		{"by a stranger", fsm.NotAllowed, newPerson("stranger"), a, with(func(c *fsm.KeyCreate) {})},
		{"check of an asymmetric key", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Material.Check = make([]byte, 16) })},
		{"AES without a check", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Type, c.Usage, c.Material.Public = hsm.AES256, fsm.MAC, nil })},
		{"labels out of order", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Labels = []fsm.Label{{Key: "b"}, {Key: "a"}} })},
		{"long label", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Labels = []fsm.Label{{Key: "a", Value: strings.Repeat("v", 257)}} })},
		{"many labels", fsm.TooMany, a, a, with(func(c *fsm.KeyCreate) {
			for i := range fsm.MaxLabels + 1 {
				c.Labels = append(c.Labels, fsm.Label{Key: fmt.Sprintf("%03d", i)})
			}
		})},
		{"many copies", fsm.BadRequest, a, a, with(func(c *fsm.KeyCreate) { c.Policy.Copies = 16 })},
		{"many clients", fsm.TooMany, a, a, with(func(c *fsm.KeyCreate) { c.Policy.Clients = make([]dkek.Fingerprint, fsm.MaxKeyClients+1) })},
		{"legacy without permission", fsm.NotAllowed, a, a, with(func(c *fsm.KeyCreate) { c.Type = hsm.RSA1024 })},
		{"legacy against the policy", fsm.NotAllowed, a, a, with(func(c *fsm.KeyCreate) { c.Type, c.Legacy = hsm.RSA1024, true })},
	})
	result := l.self(a, l.keyCreate("k"))
	key, _ := l.machine.State().Key("k")
	v, _ := l.machine.State().Version(key.ID, 1)
	if result.Value.Number != 1 || v.State != fsm.Enabled || v.Request != fsm.RequestID(key.ID) {
		t.Errorf("result %+v, version %+v", result, v)
	}
	if got := l.machine.State().Coverage(key.ID, 1); !slices.Equal(got, []dkek.NodeID{a.id}) {
		t.Errorf("the maker's device does not count: %v", got)
	}
	l.refused(fsm.Exists, a, a, l.keyCreate("k"))
	l.self(a, with(func(c *fsm.KeyCreate) {
		c.Name, c.Type, c.Usage = "aes", hsm.AES256, fsm.MAC
		c.Material.Public, c.Material.Check = nil, make([]byte, 16)
	})())
}

func TestNoKeyBeforeTheDKEK(t *testing.T) {
	l := newLab(t)
	a := l.init(fsm.Policy{})
	l.refused(fsm.WrongState, a, a, l.keyCreate("k"))
}

// Public keys as other software writes them, for each type.
func TestPublicKeysOfEachType(t *testing.T) {
	l := newLab(t)
	a := l.init(fsm.Policy{Legacy: []hsm.KeyType{hsm.ECDSAP192, hsm.RSA1024}})
	l.createDKEK(1)
	publics := map[hsm.KeyType][]byte{}
	for keyType, curve := range map[hsm.KeyType]elliptic.Curve{hsm.ECDSAP224: elliptic.P224(), hsm.ECDSAP256: elliptic.P256(), hsm.ECDSAP384: elliptic.P384(), hsm.ECDSAP521: elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		publics[keyType], _ = x509.MarshalPKIXPublicKey(&key.PublicKey)
	}
	for _, keyType := range []hsm.KeyType{hsm.RSA1024, hsm.RSA2048} {
		key, err := rsa.GenerateKey(rand.Reader, max(keyType.Bits(), 1024))
		if err != nil {
			t.Fatal(err)
		}
		publics[keyType], _ = x509.MarshalPKIXPublicKey(&key.PublicKey)
	}
	for keyType, public := range publics {
		for as := range publics {
			c := l.keyCreate(fmt.Sprintf("%s-as-%s", keyType, as))
			c.Type, c.Usage, c.Legacy, c.Material.Public = as, fsm.Sign, true, public
			if as != keyType {
				l.refused(fsm.BadRequest, a, a, c)
				continue
			}
			l.self(a, c)
			for i := range min(len(public), 40) { // no byte of the head may differ, and none be missing
				c.Name, c.Material.Public = "cut", public[:i]
				l.refused(fsm.BadRequest, a, a, c)
			}
			c.Material.Public = append(slices.Clone(public), 0)
			l.refused(fsm.BadRequest, a, a, c)
		}
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	user, auditor := newPerson("user"), newPerson("auditor")
	l.must(l.alice, a, &fsm.ClientAdd{Name: "user", Fingerprint: user.fingerprint(), Role: fsm.RoleUser, Prefixes: []string{"app/"}, Verbs: fsm.Create | fsm.Sign})
	l.must(l.alice, a, &fsm.ClientAdd{Name: "auditor", Fingerprint: auditor.fingerprint(), Role: fsm.RoleAuditor})
	l.must(user, a, l.keyCreate("app/k"))
	own := l.keyCreate("app/named")
	own.Policy.Clients = []dkek.Fingerprint{newPerson("somebody else").fingerprint()}
	l.must(user, a, own)
	for _, test := range []struct {
		who  person
		verb fsm.Verbs
		name string
		may  bool
	}{
		{user, fsm.Sign, "app/k", true},
		{user, fsm.Sign, "app", false},
		{user, fsm.Sign, "other", false},
		{user, fsm.Decrypt, "app/k", false},
		{user, fsm.Create, "app/new", true},
		{user, fsm.Manage, "app/k", false},
		{user, fsm.Random, "", false},
		{user, fsm.Sign, "app/named", false},
		{user, 0, "app/k", false},
		{auditor, fsm.List, "app/k", true},
		{auditor, fsm.Sign, "app/k", false},
		{a, fsm.Sign, "app/k", true},
		{a, fsm.Decrypt, "app/k", false}, // the key's usage
		{a, fsm.Sign, "app/named", false},
		{l.alice, fsm.Manage, "app/named", true},
		{newPerson("nobody"), fsm.List, "", false},
	} {
		if err := l.machine.State().May(test.who.fingerprint(), test.verb, test.name); (err == nil) != test.may {
			t.Errorf("%s %s %s: %v", test.who.name, test.verb, test.name, err)
		}
	}
	l.refusals([]refusal{
		{"manage without the verb", fsm.NotAllowed, user, a, func() fsm.Body { return &fsm.KeyDelete{Name: "app/k"} }},
		{"through a stranger", fsm.NotAllowed, l.alice, newPerson("stranger"), func() fsm.Body { return &fsm.KeyDelete{Name: "app/k"} }},
		{"client by a client", fsm.NotAllowed, user, a, func() fsm.Body { return &fsm.ClientRemove{Fingerprint: auditor.fingerprint()} }},
		{"client by a node", fsm.NotAllowed, b, b, func() fsm.Body { return &fsm.ClientRemove{Fingerprint: auditor.fingerprint()} }},
		{"same name", fsm.Exists, l.alice, a, func() fsm.Body {
			return &fsm.ClientAdd{Name: "user", Fingerprint: newPerson("new").fingerprint(), Role: fsm.RoleAuditor}
		}},
		{"same key", fsm.Exists, l.alice, a, func() fsm.Body {
			return &fsm.ClientAdd{Name: "user-2", Fingerprint: user.fingerprint(), Role: fsm.RoleAuditor}
		}},
		{"operator role", fsm.BadRequest, l.alice, a, func() fsm.Body {
			return &fsm.ClientAdd{Name: "boss", Fingerprint: newPerson("boss").fingerprint(), Role: "operator"}
		}},
		{"user without verbs", fsm.BadRequest, l.alice, a, func() fsm.Body {
			return &fsm.ClientAdd{Name: "u", Fingerprint: newPerson("u").fingerprint(), Role: fsm.RoleUser, Prefixes: []string{""}}
		}},
	})
	l.must(l.alice, a, &fsm.ClientRemove{Fingerprint: user.fingerprint()})
	l.refused(fsm.NotAllowed, user, a, l.keyCreate("app/late"))
}

func TestKeysArePagedByName(t *testing.T) {
	l := ready(t, 1)
	for _, name := range []string{"b", "a/2", "a/1", "a", "a/10", "a0", "c"} {
		l.createKey(name)
	}
	names := func(prefix, after string) []string {
		var list []string
		for k := range l.machine.State().Keys(prefix, after) {
			list = append(list, k.Name)
		}
		return list
	}
	for _, test := range []struct {
		prefix, after string
		want          []string
	}{
		{"", "", []string{"a", "a/1", "a/10", "a/2", "a0", "b", "c"}},
		{"a/", "", []string{"a/1", "a/10", "a/2"}},
		{"a/", "a/1", []string{"a/10", "a/2"}},
		{"a", "a", []string{"a/1", "a/10", "a/2", "a0"}},
		{"", "b", []string{"c"}},
		{"", "c", nil},
		{"b", "a", []string{"b"}},
		{"a/", "b", nil},
	} {
		if got := names(test.prefix, test.after); !slices.Equal(got, test.want) {
			t.Errorf("prefix %q after %q: got %v, want %v", test.prefix, test.after, got, test.want)
		}
	}
}

func TestLifeOfAVersion(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	key := l.createKey("k")
	if r := l.self(a, &fsm.KeyRotate{Name: "k", Material: l.material(a)}); r.Value.Number != 2 {
		t.Fatalf("rotated to %d", r.Value.Number)
	}
	state := func(n uint64) fsm.VersionState { v, _ := l.machine.State().Version(key.ID, n); return v.State }
	one := fsm.VersionRef{Key: key.ID, N: 1}
	l.self(a, &fsm.KeyState{Name: "k", Version: 1, Disable: true})
	l.self(a, &fsm.KeyDelete{Name: "k", After: 500})
	if state(1) != fsm.Pending || state(2) != fsm.Pending {
		t.Fatalf("states %v, %v", state(1), state(2))
	}
	l.refusals([]refusal{
		{"delete twice", fsm.WrongState, a, a, func() fsm.Body { return &fsm.KeyDelete{Name: "k"} }},
		{"enable", fsm.WrongState, a, a, func() fsm.Body { return &fsm.KeyState{Name: "k", Version: 1} }},
		{"rotate", fsm.WrongState, a, a, func() fsm.Body { return &fsm.KeyRotate{Name: "k", Material: l.material(a)} }},
		{"destroy early", fsm.WrongState, a, a, func() fsm.Body { return &fsm.Destroy{Items: []fsm.VersionRef{one}} }},
		{"no such version", fsm.NotFound, a, a, func() fsm.Body { return &fsm.KeyUndelete{Name: "k", Version: 3} }},
		{"no such key", fsm.NotFound, a, a, func() fsm.Body { return &fsm.KeyUndelete{Name: "x"} }},
		{"confirm before destroy", fsm.NotFound, a, a, func() fsm.Body {
			return &fsm.DestroyConfirm{Node: a.id, Serial: "node-a-device", Items: []fsm.VersionRef{one}}
		}},
	})
	l.self(a, &fsm.KeyUndelete{Name: "k"})
	if state(1) != fsm.Disabled || state(2) != fsm.Enabled {
		t.Fatalf("back to %v, %v", state(1), state(2))
	}
	l.self(a, &fsm.KeyDelete{Name: "k", Version: 1, After: 500})
	l.now += 500
	l.refused(fsm.NotAllowed, l.alice, a, &fsm.Destroy{Items: []fsm.VersionRef{one}})
	l.refused(fsm.BadRequest, a, a, &fsm.Destroy{Items: []fsm.VersionRef{one, one}})
	l.refused(fsm.WrongState, a, a, &fsm.Destroy{Items: []fsm.VersionRef{one, {Key: key.ID, N: 2}}}) // all or none
	l.self(a, &fsm.Destroy{Items: []fsm.VersionRef{one}})
	v, _ := l.machine.State().Version(key.ID, 1)
	if v.State != fsm.Destroying || v.Material.Blob != nil || len(v.Material.Public) == 0 || l.machine.State().Coverage(key.ID, 1) != nil {
		t.Fatalf("after destroy: %+v", v)
	}
	l.self(b, &fsm.Cover{Node: b.id, Serial: "node-b-device", Add: []fsm.VersionRef{one}}) // passed over
	if l.machine.State().Coverage(key.ID, 1) != nil {
		t.Error("a destroyed version is covered")
	}
	l.refused(fsm.WrongState, a, a, &fsm.KeyUndelete{Name: "k", Version: 1})
	l.self(a, &fsm.DestroyConfirm{Node: a.id, Serial: "node-a-device", Items: []fsm.VersionRef{one}})
	if state(1) != fsm.Destroying {
		t.Fatal("destroyed before all confirmed")
	}
	l.self(b, &fsm.DestroyConfirm{Node: b.id, Serial: "node-b-device", Items: []fsm.VersionRef{one}})
	if state(1) != fsm.Destroyed || state(2) != fsm.Enabled {
		t.Fatalf("states %v, %v", state(1), state(2))
	}
	l.refused(fsm.Exists, a, a, l.keyCreate("k"))
}

func TestDestroyExceptAndRemovedNodes(t *testing.T) {
	l := ready(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	var refs []fsm.VersionRef
	for _, name := range []string{"waived", "removed"} {
		key := l.createKey(name)
		l.self(a, &fsm.KeyDelete{Name: name, After: 1})
		refs = append(refs, fsm.VersionRef{Key: key.ID, N: 1})
	}
	l.now += 10
	l.self(a, &fsm.Destroy{Items: refs})
	for _, p := range []person{a, b} {
		l.self(p, &fsm.DestroyConfirm{Node: p.id, Serial: p.name + "-device", Items: refs})
	}
	l.refused(fsm.NotAllowed, a, a, &fsm.DestroyExcept{Items: refs[:1], Nodes: []dkek.NodeID{c.id}})
	l.refused(fsm.WrongState, l.alice, a, &fsm.DestroyExcept{Items: refs[:1], Nodes: []dkek.NodeID{b.id}})
	l.must(l.alice, a, &fsm.DestroyExcept{Items: refs[:1], Nodes: []dkek.NodeID{c.id}, Reason: "stolen"})
	l.must(l.alice, a, &fsm.MemberRemove{Node: c.id})
	v, _ := l.machine.State().Version(refs[0].Key, 1)
	if v.State != fsm.DestroyedExcept {
		t.Errorf("waived: %v", v.State)
	}
	if v, _ = l.machine.State().Version(refs[1].Key, 1); v.State != fsm.Destroyed {
		t.Errorf("removed: %v", v.State)
	}
}

// Exactly one of a key and its abort wins, whichever comes first.
func TestAbortOrKey(t *testing.T) {
	l := ready(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	create := l.as(a, a, l.keyCreate("first"))
	l.apply(create)
	l.refused(fsm.Exists, a, a, &fsm.Abort{Request: create.Request, Incarnation: 1, Index: 1, Node: a.id})

	late := l.as(a, a, l.keyCreate("late"))
	abort := &fsm.Abort{Request: late.Request, Incarnation: 1, Index: l.index, Node: a.id}
	l.refused(fsm.Conflict, a, a, &fsm.Abort{Request: late.Request, Incarnation: 1, Index: l.index + 100, Node: a.id})
	l.refused(fsm.Conflict, a, a, &fsm.Abort{Request: late.Request, Incarnation: 2, Index: 1, Node: a.id})
	l.self(a, abort)
	l.self(a, abort) // once more is no change
	// Not for good, as the two above: the other node's comes first.
	l.refused(fsm.WrongState, b, b, &fsm.Abort{Request: late.Request, Incarnation: 1, Index: 1, Node: b.id})
	if r := l.apply(late); r.Err == nil || r.Err.Code != fsm.Conflict {
		t.Fatalf("a key came after its abort: %+v", r)
	}
	l.refused(fsm.NotAllowed, b, b, &fsm.AbortConfirm{Request: late.Request, Node: b.id})
	l.self(a, &fsm.AbortConfirm{Request: late.Request, Node: a.id})
	if r := l.apply(late); r.Err == nil || r.Err.Code != fsm.Conflict {
		t.Fatalf("a key came after its object was deleted: %+v", r)
	}
	if _, ok := l.machine.State().Key("late"); ok {
		t.Fatal("the aborted key exists")
	}
}
