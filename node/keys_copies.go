package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// copiesTime bounds how long a creation that is committed waits for other devices,
// whose nodes may stand still: whoever asked can ask again under the same request ID.
const copiesTime = 30 * time.Second

// copiesOf is how many devices are to hold a key's versions.
func copiesOf(view *fsm.View, key *fsm.Key) int {
	if key.Policy.Copies > 0 {
		return key.Policy.Copies
	}
	if cluster, ok := view.Cluster(); ok {
		return cluster.Policy.CopiesOrDefault()
	}
	return fsm.DefaultCopies
}

// enoughDevices refuses copies that no set of devices could ever hold.
func (r *keyRoom) enoughDevices(view *fsm.View, keyType hsm.KeyType, copies int) error {
	if copies <= 1 {
		return nil
	}
	able := 0
	for m := range view.Members() {
		if m.Device != nil && slices.Contains(m.Device.Types, keyType) {
			able++
		}
	}
	if able < copies {
		return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("%d copies are wanted and %d devices can hold a key of type %s", copies, able, keyType)}
	}
	return nil
}

// awaitCopies returns when as many devices hold the version as its policy wants.
func (r *keyRoom) awaitCopies(ctx context.Context, m *making, version *fsm.Version) error {
	ctx, cancel := context.WithTimeout(ctx, copiesTime)
	defer cancel()
	for {
		changed := r.node.cluster.Load().state.Changed()
		view := r.node.view()
		key, ok := view.KeyByID(version.Key)
		if !ok || key.Name != m.key.Name {
			return &fsm.Error{Code: fsm.Conflict, Message: fmt.Sprintf("request %s made another key", m.request)}
		}
		want, have := copiesOf(view, key), len(view.Coverage(version.Key, version.N))
		if have >= want || want <= 1 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &OutcomeUnknownError{m.request, fmt.Errorf("the key is committed, and %d of %d devices hold it, not yet %s: %w", have, want, strings.Join(notHolding(view, key, version), ", "), context.Cause(ctx))}
		}
	}
}

// notHolding names the members whose devices could hold a version and do not.
func notHolding(view *fsm.View, key *fsm.Key, version *fsm.Version) []string {
	var names []string
	holders := view.Coverage(version.Key, version.N)
	for _, m := range byName(view) {
		if m.Device != nil && slices.Contains(m.Device.Types, key.Type) && !slices.Contains(holders, m.ID) {
			names = append(names, m.Name)
		}
	}
	return names
}
