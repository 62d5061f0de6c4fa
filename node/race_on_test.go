//go:build race

package node_test

// underRace: the race detector watches. Tests that forge what a node's state says
// write into the rows of running nodes, as no command can, and are right to be
// called racy; they run without it.
const underRace = true
