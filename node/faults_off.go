//go:build !faults

package node

// What a build with the tag "faults" does otherwise, for tests that need a
// process which dies or lies at one instant: see faults.go. Here it is nothing.

func reach(string) {}

func (n *Node) patch() {}

func (c *raftConfig) patch(*raftStores) {}

func (c *ceremonyRoom) patch() {}
