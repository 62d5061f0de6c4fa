package node

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// RecoveryPlan is what a stopped node says is to be done, for operators to sign.
// The statement alone is signed: what else is in it is for people to read.
type RecoveryPlan struct {
	Format    int      `json:"format"`    // 1
	Kind      string   `json:"kind"`      // PlanRecover or PlanRestore
	Statement []byte   `json:"statement"` // an fsm.RecoverStatement in the bytes that are signed
	Notes     []string `json:"notes"`     // what was found
	// Sharing, in a plan to restore, is the one that goes on where it is not the
	// backup's: dkek.Sharing.Encode. The statement has its hash.
	Sharing []byte `json:"sharing,omitempty"`
}

// Kinds of plans.
const (
	PlanRecover = "recover" // go on without members that are lost
	PlanRestore = "restore" // begin anew from a backup
)

const planFormat = 1

// ParseRecoveryPlan reads a plan file, and the statement in it.
func ParseRecoveryPlan(content []byte) (*RecoveryPlan, *fsm.RecoverStatement, error) {
	var plan RecoveryPlan
	if err := json.Unmarshal(content, &plan); err != nil || plan.Format != planFormat {
		return nil, nil, errors.New("node: recovery plan: not a plan of this version")
	}
	var statement fsm.RecoverStatement
	if err := (fsm.Signed{Statement: plan.Statement}).Peek(&statement); err != nil {
		return nil, nil, fmt.Errorf("node: recovery plan: %w", err)
	}
	if want := kindOf(&statement); plan.Kind != want {
		return nil, nil, fmt.Errorf("node: recovery plan: it says %q, and its statement is one to %s", plan.Kind, want)
	}
	return &plan, &statement, nil
}

// Encode returns the plan's file.
func (p *RecoveryPlan) Encode() ([]byte, error) {
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(content, '\n'), nil
}

func kindOf(statement *fsm.RecoverStatement) string {
	if statement.Restore != nil {
		return PlanRestore
	}
	return PlanRecover
}

func newRecoveryPlan(statement *fsm.RecoverStatement, notes []string) (*RecoveryPlan, error) {
	encoded, err := fsm.EncodeRecover(statement)
	if err != nil {
		return nil, fmt.Errorf("node: recovery plan: %w", err)
	}
	return &RecoveryPlan{Format: planFormat, Kind: kindOf(statement), Statement: encoded, Notes: notes}, nil
}

// sharing is the one that goes on where it is not the backup's, else nil: the one
// that operators signed the hash of.
func (p *RecoveryPlan) sharing(terms *fsm.RestoreTerms) (*dkek.Sharing, error) {
	if terms.Sharing == nil {
		return nil, nil
	}
	sharing, err := dkek.ParseSharing(p.Sharing)
	if err != nil {
		return nil, err
	}
	if sharing.Hash() != *terms.Sharing {
		return nil, errors.New("the plan has another sharing than the one that operators signed for")
	}
	return sharing, nil
}
