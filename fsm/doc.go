// Package fsm is what a cluster of custodians replicates: a pure function
// apply(state, command) -> state, result.
//
// It has no clock, disk, network, device, randomness or logger. Times and IDs
// are in the commands; side effects (deleting from a device, sending a share)
// follow from committed state and are done by the node concerned, which
// [Result.Changes] tells what to look at.
//
// Start with [New]; every member feeds the same commands in the same order to
// [Machine.Apply] and has the same [Machine.Digest] after each. Reading is
// [Machine.State], a cheap consistent [View]. [Encode] makes a command, [Stamp]
// gives it the leader's time and [Validate] says beforehand what Apply would
// answer.
//
//	machine := fsm.New()
//	command, err := fsm.Encode(fsm.Command{Header: header, Body: &fsm.KeyLabels{Name: "tables"}})
//	command, err = fsm.Stamp(command, now)
//	result := machine.Apply(index, command) // result.Fatal: stop the node
//
// Guaranteed: a repeated request changes nothing; time never runs backwards,
// but at a [Recover]; an entry that is no command of the cluster's command version
// is passed over by every build alike, and a build that does not read that version
// stops; nothing in a command or in state can hold a private key, a share, a
// PIN or the DKEK.
//
// Not guaranteed: that a member told the truth. Who asked is what the proposing
// member says. What makes shares move is therefore signed end to end by the
// node or operator concerned, and everyone who gives a share checks those
// signatures against its own pins ([VerifyGovern], [VerifyApprovals]).
package fsm
