package node

import (
	"context"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
)

// LoadAgainForTest brings a key that is in the device into another slot, as a
// load that meets its creation does.
func (n *Node) LoadAgainForTest(ctx context.Context, name string) error {
	key, version, err := findVersion(n.view(), name)
	if err != nil {
		return err
	}
	slots, tag := n.device.slots, objectTag{}
	slots.mu.Lock()
	tag = slots.held[fsm.VersionRef{Key: version.Key, N: version.N}].tag
	slots.mu.Unlock()
	slot, err := slots.unwrap(ctx, key, version, tag, false)
	if err != nil {
		return err
	}
	public, err := publicOf(version)
	if err != nil {
		return err
	}
	residence, err := slots.settle(slot, version.Ref(), tag, public)
	if err == nil {
		slots.release(residence)
	}
	return err
}

// WakesUnderLocksForTest tells whether upkeep can be woken by somebody who holds
// its lock and the slots'.
func (n *Node) WakesUnderLocksForTest() bool {
	n.upkeep.mu.Lock()
	defer n.upkeep.mu.Unlock()
	n.device.slots.mu.Lock()
	defer n.device.slots.mu.Unlock()
	woken := make(chan struct{})
	go func() {
		n.upkeep.wakeUp()
		close(woken)
	}()
	select {
	case <-woken:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}
