package node

import "time"

const (
	// maxCommand is the most bytes of a command, stamped. The store's file never
	// shrinks, and a batch of 64 commands must pass within a heartbeat's time.
	maxCommand = 64 << 10

	// minTrailingLogs is the fewest entries kept behind a snapshot. With less, a
	// follower that lags a little is sent whole snapshots, and one whose log
	// differs around the snapshot restores for ever.
	minTrailingLogs = 10240

	// maxRestores is how many snapshots in a row a running node takes without one
	// entry applied in between before it stops.
	maxRestores = 3

	// storeLockTimeout bounds the wait for another process to leave the store.
	storeLockTimeout = time.Second

	// markInterval is how long an applied index may wait to be marked on disk.
	markInterval = time.Second
)
