package node

import "context"

// ReadForTest has the node say that it reads commands up to this version.
func (n *Node) ReadForTest(ctx context.Context, version uint64) error {
	n.readsTo.Store(version)
	return n.device.report(ctx)
}
