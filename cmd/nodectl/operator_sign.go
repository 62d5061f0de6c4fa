package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

// signatureFile is an operator's signature over the statement of a plan.
type signatureFile struct {
	Operator  string `json:"operator"` // fingerprint
	Signature []byte `json:"signature"`
}

func (a *app) operatorSign() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "sign PLAN --out FILE", Short: "sign a plan to recover or restore the cluster, offline",
		Long: `Shows what a plan of nodectl cluster recover or restore stands for, and signs it
with the caller's key. Nothing is connected to: the plan and the signature can be carried to
and from a machine without a network. Who is lost is shown by the names in the
cluster file: make sure that each of them never comes back. What the plan notes
beside that is the word of the node that made it.`,
		Example: `  nodectl operator sign plan.json --out alice.sig`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			plan, statement, err := a.readPlan(args[0])
			if err != nil {
				return err
			}
			file, err := client.ReadClusterFile(a.clusterPath())
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if file != nil && file.Cluster.ID != statement.Cluster.String() {
				return hint("name the cluster file of that cluster", fmt.Errorf("the plan is for cluster %s, and the cluster file is of %s", statement.Cluster, file.Cluster.ID))
			}
			nameOf := func(id string) string {
				if file != nil {
					for _, m := range file.Cluster.Members {
						if m.ID == id {
							return m.Name
						}
					}
				}
				return id
			}
			for _, note := range plan.Notes {
				a.say("the node's word: %s", note)
			}
			a.say("reason: %s", statement.Reason)
			if err := a.confirm(a.describePlan(statement, nameOf) + "; those are removed for ever"); err != nil {
				return err
			}
			key, err := a.loadKey(c.Context())
			if err != nil {
				return err
			}
			var signed signatureFile
			if signed.Operator, err = signerFingerprint(key); err != nil {
				return err
			}
			if signed.Signature, err = fsm.SignMessage(key, fsm.DomainRecover, plan.Statement); err != nil {
				return err
			}
			content, err := json.MarshalIndent(signed, "", "  ")
			if err != nil {
				return err
			}
			if err := writeNew(out, append(content, '\n'), 0o644); err != nil {
				return err
			}
			return a.done(signed, "signed; wrote %s: take it to the node", out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "`FILE` for the signature; it must not be there yet")
	c.MarkFlagRequired("out")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

// readSignatures reads files of operator sign. The node checks them.
func (a *app) readSignatures(paths []string) ([]fsm.Approval, error) {
	var approvals []fsm.Approval
	for _, path := range paths {
		content, err := a.readIn(path, maxKeyFile, "that is no signature: give a file that nodectl operator sign wrote")
		if err != nil {
			return nil, err
		}
		approval, err := parseSignature(content)
		if err != nil {
			return nil, hint("it is what nodectl operator sign writes", fmt.Errorf("%s is no signature: %w", path, err))
		}
		approvals = append(approvals, approval)
	}
	return approvals, nil
}

func parseSignature(content []byte) (fsm.Approval, error) {
	var signed signatureFile
	if err := json.Unmarshal(content, &signed); err != nil {
		return fsm.Approval{}, err
	}
	operator, err := client.ParseFingerprint(signed.Operator)
	return fsm.Approval{Operator: dkek.Fingerprint(operator), Signature: signed.Signature}, err
}
