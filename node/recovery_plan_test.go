package node_test

import (
	"bytes"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
)

// A plan file comes from a machine that may not be trusted: whatever reads as one
// is written again as the same.
func FuzzParseRecoveryPlan(f *testing.F) {
	for kind, statement := range map[string]*fsm.RecoverStatement{
		node.PlanRecover: {Incarnation: 2, Lost: []dkek.NodeID{{1}}},
		node.PlanRestore: {Incarnation: 2, Restore: &fsm.RestoreTerms{Loses: 3, Sharing: &dkek.Hash{4}}},
	} {
		encoded, err := fsm.EncodeRecover(statement)
		if err != nil {
			f.Fatal(err)
		}
		plan := node.RecoveryPlan{Format: 1, Kind: kind, Statement: encoded, Notes: []string{"n"}}
		content, err := plan.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
		plan.Kind = map[string]string{node.PlanRecover: node.PlanRestore, node.PlanRestore: node.PlanRecover}[kind]
		if content, err = plan.Encode(); err != nil {
			f.Fatal(err)
		}
		if _, _, err := node.ParseRecoveryPlan(content); err == nil {
			f.Errorf("a plan to %s passes for one to %s", kind, plan.Kind)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		plan, statement, err := node.ParseRecoveryPlan(content)
		if err != nil {
			return
		}
		again, err := fsm.EncodeRecover(statement)
		if err != nil || !bytes.Equal(again, plan.Statement) {
			t.Errorf("%x is read as %x, %v", plan.Statement, again, err)
		}
	})
}
