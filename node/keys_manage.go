package node

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// EnableKey lets a version, or with NAME all versions, be used again.
func (n *Node) EnableKey(ctx context.Context, ref string) error {
	return n.keys.setState(ctx, n.Self(), fsm.RequestID{}, ref, false)
}

// DisableKey forbids the use of a version, or with NAME of all, until it is
// enabled again.
func (n *Node) DisableKey(ctx context.Context, ref string) error {
	return n.keys.setState(ctx, n.Self(), fsm.RequestID{}, ref, true)
}

// DeleteKey has a version, or with NAME all versions, destroyed after a while; 0
// is the policy's, 7 days unless said otherwise. Until then it cannot be used,
// and UndeleteKey takes it back. What was destroyed does not come back, except
// from a cluster restored from before.
func (n *Node) DeleteKey(ctx context.Context, ref string, after time.Duration) error {
	return n.keys.remove(ctx, n.Self(), fsm.RequestID{}, ref, after)
}

// UndeleteKey takes back a deletion that is not done yet.
func (n *Node) UndeleteKey(ctx context.Context, ref string) error {
	return n.keys.undelete(ctx, n.Self(), fsm.RequestID{}, ref)
}

// LabelKey replaces a key's labels.
func (n *Node) LabelKey(ctx context.Context, name string, labels map[string]string) error {
	return n.keys.label(ctx, n.Self(), fsm.RequestID{}, name, labels)
}

func (r *keyRoom) setState(ctx context.Context, caller Caller, request fsm.RequestID, ref string, disable bool) error {
	return r.change(ctx, caller, request, ref, func(name string, version uint64) fsm.Body {
		return &fsm.KeyState{Name: name, Version: version, Disable: disable}
	})
}

func (r *keyRoom) remove(ctx context.Context, caller Caller, request fsm.RequestID, ref string, after time.Duration) error {
	if after < 0 || after > 0 && after < time.Millisecond {
		return badRequest("delete after %v: want a millisecond or more, or 0 for the policy's wait", after)
	}
	return r.change(ctx, caller, request, ref, func(name string, version uint64) fsm.Body {
		return &fsm.KeyDelete{Name: name, Version: version, After: after.Milliseconds()}
	})
}

func (r *keyRoom) undelete(ctx context.Context, caller Caller, request fsm.RequestID, ref string) error {
	return r.change(ctx, caller, request, ref, func(name string, version uint64) fsm.Body {
		return &fsm.KeyUndelete{Name: name, Version: version}
	})
}

func (r *keyRoom) label(ctx context.Context, caller Caller, request fsm.RequestID, name string, labels map[string]string) error {
	body := &fsm.KeyLabels{Name: name}
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		body.Labels = append(body.Labels, fsm.Label{Key: label, Value: labels[label]})
	}
	return r.change(ctx, caller, request, name, func(string, uint64) fsm.Body { return body })
}

// change proposes a change that needs no device.
func (r *keyRoom) change(ctx context.Context, caller Caller, request fsm.RequestID, ref string, body func(name string, version uint64) fsm.Body) error {
	if err := r.ready(); err != nil {
		return err
	}
	name, version, err := splitVersion(ref)
	if err != nil {
		return err
	}
	if caller.Kind == CallerSocket {
		return r.node.authorise(r.node.view(), caller, fsm.Manage, name)
	}
	ctx, cancel := withProposeTime(ctx)
	defer cancel()
	_, err = r.node.propose(ctx, r.node.command(caller, request, body(name, version)))
	return err
}

// destroyExcept calls versions destroyed although some devices have not
// confirmed it, at an operator's word.
func (r *keyRoom) destroyExcept(ctx context.Context, caller Caller, request fsm.RequestID, ref string, nodes []dkek.NodeID, reason string) error {
	if err := r.ready(); err != nil {
		return err
	}
	key, version, err := findVersion(r.node.view(), ref)
	if err != nil {
		return err
	}
	ctx, cancel := withProposeTime(ctx)
	defer cancel()
	_, err = r.node.propose(ctx, r.node.command(caller, request, &fsm.DestroyExcept{
		Items: []fsm.VersionRef{{Key: key.ID, N: version.N}}, Nodes: nodes, Reason: reason,
	}))
	return err
}

// KeyFilter asks for a page of keys.
type KeyFilter struct {
	Prefix string // of the names
	After  string // the last name of the page before
	Limit  int    // up to 1000; 0 is 100
	Label  string // NAME or NAME=VALUE
}

// KeyPage is a page of keys, by name.
type KeyPage struct {
	Keys []KeyInfo
	Next string        // After of the next page; empty at the end
	Age  time.Duration // how old the state that it shows may be
}

// ListKeys returns a page of keys, destroyed ones too, from the local state.
func (n *Node) ListKeys(ctx context.Context, filter KeyFilter) (KeyPage, error) {
	if err := n.keys.ready(); err != nil {
		return KeyPage{}, err
	}
	return n.keys.list(n.Self(), filter)
}

func (r *keyRoom) list(caller Caller, filter KeyFilter) (KeyPage, error) {
	if filter.Limit == 0 {
		filter.Limit = 100
	}
	if filter.Limit < 0 || filter.Limit > maxKeyPage {
		return KeyPage{}, badRequest("limit %d: want 1 to %d", filter.Limit, maxKeyPage)
	}
	if caller.Kind == CallerSocket {
		return KeyPage{}, r.node.authorise(r.node.view(), caller, fsm.List, "")
	}
	view := r.node.view()
	page := KeyPage{Age: r.age(view)}
	label, value, wantValue := strings.Cut(filter.Label, "=")
	for key := range view.Keys(filter.Prefix, filter.After) {
		if r.node.authorise(view, caller, fsm.List, key.Name) != nil {
			continue
		}
		if filter.Label != "" && !slices.ContainsFunc(key.Labels, func(l fsm.Label) bool { return l.Key == label && (!wantValue || l.Value == value) }) {
			continue
		}
		if len(page.Keys) == filter.Limit {
			page.Next = page.Keys[filter.Limit-1].Name
			break
		}
		page.Keys = append(page.Keys, keyInfo(view, key))
	}
	return page, nil
}

// show returns one key, for NAME or NAME@VERSION.
func (r *keyRoom) show(caller Caller, ref string) (KeyInfo, error) {
	if err := r.ready(); err != nil {
		return KeyInfo{}, err
	}
	name, _, err := splitVersion(ref)
	if err != nil {
		return KeyInfo{}, err
	}
	view := r.node.view()
	if err := r.node.authorise(view, caller, fsm.List, name); err != nil {
		return KeyInfo{}, err
	}
	key, _, err := findVersion(view, ref)
	if err != nil {
		return KeyInfo{}, doing(err, "show key")
	}
	return keyInfo(view, key), nil
}
