package node

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

func keyEndpoints() map[string]endpoint {
	return map[string]endpoint{
		api.KeyList:   ask(listKeys),
		api.KeyShow:   ask(showKey),
		api.KeyPublic: ask(publicKey),
		api.KeyCreate: ask(createKey),
		api.KeyRotate: ask(rotateKey),
		api.KeyEnable: ask(func(ctx context.Context, a *asked, q *api.KeyRequest) (api.Key, error) {
			return changeKey(ctx, a, q.Key, func(name string, n uint64) fsm.Body { return &fsm.KeyState{Name: name, Version: n} })
		}),
		api.KeyDisable: ask(func(ctx context.Context, a *asked, q *api.KeyRequest) (api.Key, error) {
			return changeKey(ctx, a, q.Key, func(name string, n uint64) fsm.Body {
				return &fsm.KeyState{Name: name, Version: n, Disable: true}
			})
		}),
		api.KeyDelete: ask(deleteKey),
		api.KeyUndelete: ask(func(ctx context.Context, a *asked, q *api.KeyRequest) (api.Key, error) {
			return changeKey(ctx, a, q.Key, func(name string, n uint64) fsm.Body { return &fsm.KeyUndelete{Name: name, Version: n} })
		}),
		api.KeyLabels:        ask(labelKey),
		api.KeyDestroyExcept: ask(destroyExcept),
	}
}

// caller is the visitor as the rooms of keys and ceremonies know it.
func (a *asked) caller() Caller {
	c := Caller{Kind: CallerClient, Fingerprint: a.visitor.fingerprint, Name: a.visitor.name}
	switch a.visitor.role {
	case api.Operator:
		c.Kind = CallerOperator
	case api.Socket:
		c.Kind = CallerSocket
	}
	return c
}

// prefixesOf are the beginnings of the names under which a visitor can see keys
// at all, of those that begin with prefix, in order and none within another. A
// user with few keys must not cost a walk through all.
func (a *asked) prefixesOf(prefix string) []string {
	if a.visitor.client == nil || a.visitor.role != api.User {
		return []string{prefix}
	}
	var all []string
	for _, own := range a.visitor.client.Prefixes {
		switch {
		case strings.HasPrefix(own, prefix):
			all = append(all, own)
		case strings.HasPrefix(prefix, own):
			return []string{prefix}
		}
	}
	slices.Sort(all)
	return slices.CompactFunc(all, func(outer, inner string) bool { return strings.HasPrefix(inner, outer) })
}

func listKeys(ctx context.Context, a *asked, q *api.KeyListQuery) (api.Keys, error) {
	limit, err := pageLimit(q.Limit)
	if err != nil {
		return api.Keys{}, err
	}
	if err := a.look(ctx); err != nil {
		return api.Keys{}, err
	}
	page := api.Keys{Keys: []api.Key{}}
	for _, prefix := range a.prefixesOf(q.Prefix) {
		for key := range a.view.Keys(prefix, q.After) {
			if a.mayUse(fsm.List, key.Name) != nil || !labelled(key, q.Label) || key.Name <= q.After {
				continue
			}
			if len(page.Keys) == limit {
				page.Next = page.Keys[limit-1].Name
				return page, nil
			}
			page.Keys = append(page.Keys, a.keyToWire(key))
		}
	}
	return page, nil
}

// labelled tells whether a key has a label NAME, or NAME=VALUE.
func labelled(key *fsm.Key, want string) bool {
	name, value, exact := strings.Cut(want, "=")
	return want == "" || slices.ContainsFunc(key.Labels, func(l fsm.Label) bool { return l.Key == name && (!exact || l.Value == value) })
}

func (a *asked) keyToWire(key *fsm.Key) api.Key {
	info := keyInfo(a.view, key)
	wire := api.Key{
		Name: info.Name, Type: string(info.Type), Usage: verbsToWire(info.Usage), Labels: info.Labels, Copies: info.Copies,
		Legacy: info.Legacy, CreatedAt: logTime(key.Created), Newest: uint32(info.Newest), Versions: []api.KeyVersion{},
	}
	for _, client := range info.Clients {
		wire.Clients = append(wire.Clients, client.String())
	}
	for _, v := range info.Versions {
		wire.Versions = append(wire.Versions, a.versionToWire(v))
	}
	return wire
}

func (a *asked) versionToWire(v VersionInfo) api.KeyVersion {
	wire := api.KeyVersion{Number: uint32(v.Number), State: versionState(v.State), Public: v.Public, CreatedAt: v.Created.UTC(), KCV: v.KCV.String(), HeldBy: []string{}}
	if !v.DeleteAfter.IsZero() {
		due := v.DeleteAfter.UTC()
		wire.DeleteAt = &due
	}
	for _, id := range v.HeldBy {
		wire.HeldBy = append(wire.HeldBy, memberName(a.view, id))
	}
	for _, id := range v.Awaiting {
		wire.Awaiting = append(wire.Awaiting, memberName(a.view, id))
	}
	for _, id := range v.Except {
		wire.Except = append(wire.Except, memberName(a.view, id))
	}
	return wire
}

// versionState is a state under the API's name for it.
func versionState(s fsm.VersionState) string {
	switch s {
	case fsm.Enabled:
		return api.VersionEnabled
	case fsm.Disabled:
		return api.VersionDisabled
	case fsm.Pending:
		return api.VersionPending
	case fsm.Destroyed:
		return api.VersionDestroyed
	case fsm.DestroyedExcept:
		return api.VersionDestroyedExcept
	}
	return api.VersionDestroying // which claims the least
}

// key finds the key that a reference names, which the visitor may see, and its
// version.
func (a *asked) key(ctx context.Context, ref string) (*fsm.Key, *fsm.Version, error) {
	if err := a.look(ctx); err != nil {
		return nil, nil, err
	}
	name, _, err := splitVersion(ref)
	if err != nil {
		return nil, nil, err
	}
	// Rights before existence: who may not see a name learns nothing of it.
	if err := a.mayUse(fsm.List, name); err != nil {
		return nil, nil, err
	}
	return findVersion(a.view, ref)
}

func showKey(ctx context.Context, a *asked, q *api.KeyQuery) (api.Key, error) {
	key, _, err := a.key(ctx, q.Key)
	if err != nil {
		return api.Key{}, err
	}
	return a.keyToWire(key), nil
}

func publicKey(ctx context.Context, a *asked, q *api.KeyQuery) (api.PublicKey, error) {
	key, version, err := a.key(ctx, q.Key)
	if err != nil {
		return api.PublicKey{}, err
	}
	if key.Type.Symmetric() {
		return api.PublicKey{}, &api.Error{Code: api.CodeNotAllowed, Message: fmt.Sprintf("key %s is of type %s: it has no public half", key.Name, key.Type),
			Hint: "only an RSA, EC or Ed25519 key has one; an AES key is used with encrypt, decrypt and mac"}
	}
	return api.PublicKey{Key: key.Name, Version: uint32(version.N), Type: string(key.Type), Public: version.Material.Public}, nil
}

func createKey(ctx context.Context, a *asked, q *api.KeyCreateRequest) (api.Key, error) {
	usage, err := verbsFromWire(q.Usage)
	if err != nil {
		return api.Key{}, err
	}
	spec := KeySpec{
		Name: q.Name, Type: hsm.KeyType(q.Type), Usage: usage, Labels: q.Labels, Copies: q.Copies, Legacy: q.Legacy, RequestID: a.request,
	}
	for _, text := range q.Clients {
		f, err := parseFingerprint(text)
		if err != nil {
			return api.Key{}, err
		}
		spec.Clients = append(spec.Clients, f)
	}
	if err := a.node.keys.ready(); err != nil {
		return api.Key{}, err
	}
	if _, err := a.node.keys.create(ctx, a.caller(), spec); err != nil {
		return api.Key{}, err
	}
	return a.changed(q.Name)
}

func rotateKey(ctx context.Context, a *asked, q *api.KeyRequest) (api.Key, error) {
	if err := a.node.keys.ready(); err != nil {
		return api.Key{}, err
	}
	if _, err := a.node.keys.rotate(ctx, a.caller(), q.Key, a.request); err != nil {
		return api.Key{}, err
	}
	return a.changed(q.Key)
}

// changeKey proposes a change that needs no device.
func changeKey(ctx context.Context, a *asked, ref string, body func(name string, version uint64) fsm.Body) (api.Key, error) {
	name, version, err := splitVersion(ref)
	if err != nil {
		return api.Key{}, err
	}
	if _, err := a.change(ctx, body(name, version)); err != nil {
		return api.Key{}, err
	}
	return a.changed(name)
}

// changed is a key after a change of it.
func (a *asked) changed(name string) (api.Key, error) {
	a.view, a.fresh = a.node.view(), true
	key, ok := a.view.Key(name)
	if !ok {
		return api.Key{}, notFound("there is no key %.128s", name)
	}
	return a.keyToWire(key), nil
}

func deleteKey(ctx context.Context, a *asked, q *api.KeyDeleteRequest) (api.Key, error) {
	after := int64(0)
	if q.AfterSeconds != nil {
		if *q.AfterSeconds < 0 || *q.AfterSeconds > math.MaxInt64/1000 {
			return api.Key{}, malformed("after_seconds: want 0 or more")
		}
		after = max(1, *q.AfterSeconds*1000) // 0 is the policy's, to the state
	}
	return changeKey(ctx, a, q.Key, func(name string, n uint64) fsm.Body { return &fsm.KeyDelete{Name: name, Version: n, After: after} })
}

func labelKey(ctx context.Context, a *asked, q *api.KeyLabelsRequest) (api.Key, error) {
	if err := a.node.keys.ready(); err != nil {
		return api.Key{}, err
	}
	if err := a.node.keys.label(ctx, a.caller(), a.request, q.Key, q.Labels); err != nil {
		return api.Key{}, err
	}
	return a.changed(q.Key)
}

func destroyExcept(ctx context.Context, a *asked, q *api.DestroyExceptRequest) (api.Key, error) {
	key, _, err := a.key(ctx, q.Key)
	if err != nil {
		return api.Key{}, err
	}
	var nodes []dkek.NodeID
	for _, text := range q.Nodes {
		m, err := memberCalled(a.view, text)
		if err != nil {
			return api.Key{}, err
		}
		nodes = append(nodes, m.ID)
	}
	slices.SortFunc(nodes, func(x, y dkek.NodeID) int { return slices.Compare(x[:], y[:]) })
	err = a.node.keys.destroyExcept(ctx, a.caller(), a.request, q.Key, nodes, "waived by "+a.visitor.name)
	if err != nil {
		return api.Key{}, err
	}
	return a.changed(key.Name)
}

func versionRef(name string, version uint32) string { return fmt.Sprintf("%s@%d", name, version) }
