package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node"
	"github.com/spf13/cobra"
)

// maxPlan bounds a plan file, in bytes.
const maxPlan = 1 << 20

// offline are the flags of what is done to a node that does not run.
type offline struct {
	config           config
	path, plan       string // --config, --plan
	reason           string
	lost, signatures []string
	acceptLoss       bool
}

func (o *offline) add(c *cobra.Command) {
	c.Flags().StringVar(&o.path, "config", "", "YAML `FILE` of the node, which must not be running")
	c.Flags().StringVar(&o.plan, "plan", "", "`FILE` of the plan: written, or with --signature carried out")
	c.Flags().StringSliceVar(&o.lost, "lost", nil, "`MEMBER` that never comes back, by name or ID; again for more")
	c.Flags().StringVar(&o.reason, "reason", "", "`TEXT` for the record")
	c.Flags().BoolVar(&o.acceptLoss, "accept-loss", false, "go on although something is known to be lost: the refusal without it says what")
	c.Flags().StringArrayVar(&o.signatures, "signature", nil, "`FILE` of nodectl operator sign; again for more")
	c.MarkFlagRequired("plan")
	o.config.add(c)
}

// open opens the data folder of the node that the flags name.
func (a *app) openStopped(ctx context.Context, c *cobra.Command, o *offline) (*node.Stopped, error) {
	if err := o.config.load(c, a.getenv, o.path); err != nil {
		return nil, err
	}
	config, err := o.config.node(nil)
	if err != nil {
		return nil, err
	}
	if o.config.SealSource == "prompt" { // a person is here, other than at a daemon
		if config.Seal, err = secret.ParseSource("prompt", "seal secret"); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(o.config.Dir); err != nil {
		return nil, hint("name the node's data folder: --config FILE or --dir FOLDER", err)
	}
	s, err := node.OpenStopped(ctx, config)
	switch {
	case errors.Is(err, node.ErrInUse):
		return nil, hint("stop the node first: systemctl stop keycustodian", err)
	case errors.Is(err, node.ErrSealed):
		return nil, hint("give the node's seal secret: --seal-source file:PATH or prompt", err)
	}
	return s, err
}

func (a *app) clusterRecover() *cobra.Command {
	var o offline
	c := &cobra.Command{
		Use: "recover --plan FILE", Short: "go on at a survivor when the quorum is lost for ever",
		Long: `Goes on without members that are lost for ever, where those that are left are too
few to go on by themselves. Run it on the survivor that has come furthest, whose
node is stopped; the other survivors run. Three steps:

1. --lost names the members that never come back, and --plan the file that is
   written. Refused where one of them answers, where another survivor does not, or
   has come further, and where enough voters are left. A lost one that is merely
   cut off or sealed does not answer either: make sure that it never comes back.
2. as many operators as must approve sign the plan, wherever their keys are:
   nodectl operator sign FILE --out SIGNATURE.
3. the plan is carried out with --signature, once for each. Start the node.

Lost members are removed for ever, with their shares; the cluster begins a new
incarnation, and what ceremonies were open is void. What only lost members had
acknowledged to each other is lost: the survivor has all but that. The former log
stays beside the new one, as raft-before-INCARNATION in the data folder.`,
		Example: `  nodectl cluster recover --config /etc/keycustodian/config.yaml --lost b --lost c --reason "burnt" --plan plan.json
  nodectl operator sign plan.json --out alice.sig
  nodectl cluster recover --config /etc/keycustodian/config.yaml --plan plan.json --signature alice.sig`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if len(o.signatures) == 0 {
				return a.planRecovery(ctx, c, &o)
			}
			if len(o.lost) > 0 || o.reason != "" || o.acceptLoss {
				return usage("what is lost, and why, is in the plan that was signed: give --signature or --lost")
			}
			return a.carryOut(ctx, c, &o)
		},
	}
	o.add(c)
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) planRecovery(ctx context.Context, c *cobra.Command, o *offline) error {
	if _, err := os.Lstat(o.plan); !errors.Is(err, fs.ErrNotExist) {
		return hint("name another file, or carry it out with --signature", fmt.Errorf("%s is there already", o.plan))
	}
	s, err := a.openStopped(ctx, c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	done := a.busy("asking the other members")
	plan, err := s.PlanRecovery(ctx, node.RecoverOptions{Lost: o.lost, Reason: o.reason, AcceptLoss: o.acceptLoss})
	done()
	if err != nil {
		return hint("nothing was changed", err)
	}
	return a.givePlan(plan, o.plan)
}

// givePlan writes a plan and says what is in it.
func (a *app) givePlan(plan *node.RecoveryPlan, path string) error {
	content, err := plan.Encode()
	if err != nil {
		return err
	}
	if err := writeNew(path, content, 0o644); err != nil {
		return err
	}
	for _, note := range plan.Notes {
		a.say("%s", note)
	}
	return a.done(plan, "wrote %s; nothing is changed yet. next: as many operators as must approve run nodectl operator sign, then this again with --plan and --signature", path)
}

func (a *app) readPlan(path string) (*node.RecoveryPlan, *fsm.RecoverStatement, error) {
	content, err := a.readIn(path, maxPlan, "that is no plan: give the file that nodectl cluster recover or restore wrote")
	if err != nil {
		return nil, nil, err
	}
	plan, statement, err := node.ParseRecoveryPlan(content)
	if err != nil {
		return nil, nil, hint("make the plan anew: nodectl cluster recover or restore", fmt.Errorf("%s: %w", path, err))
	}
	return plan, statement, nil
}

func (a *app) carryOut(ctx context.Context, c *cobra.Command, o *offline) error {
	plan, statement, approvals, err := a.signedPlan(o)
	if err != nil {
		return err
	}
	if err := a.confirm(fmt.Sprintf("the cluster begins incarnation %d without %d members, which are removed for ever with their shares and whatever they alone had", statement.Incarnation, len(statement.Lost))); err != nil {
		return err
	}
	s, err := a.openStopped(ctx, c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	done := a.busy("asking the other members")
	err = s.Recover(ctx, plan, approvals)
	done()
	if err != nil {
		return hint("nothing was changed that a start would see: mend it, and run this again", err)
	}
	return a.done(plan, "incarnation %d begins here: start the node, then run nodectl cluster refresh and look at nodectl cluster status", statement.Incarnation)
}

// signedPlan reads a plan with its signatures, and says what is in it.
func (a *app) signedPlan(o *offline) (*node.RecoveryPlan, *fsm.RecoverStatement, []fsm.Approval, error) {
	plan, statement, err := a.readPlan(o.plan)
	if err != nil {
		return nil, nil, nil, err
	}
	approvals, err := a.readSignatures(o.signatures)
	for _, note := range plan.Notes {
		a.say("%s", note)
	}
	return plan, statement, approvals, err
}

// describePlan says in words what a signature would stand for.
func (a *app) describePlan(statement *fsm.RecoverStatement, nameOf func(id string) string) string {
	var lost []string
	for _, id := range statement.Lost {
		lost = append(lost, nameOf(id.String()))
	}
	if lost == nil {
		lost = []string{"nobody"}
	}
	if statement.Restore != nil {
		return describeRestore(statement, nameOf, lost)
	}
	return fmt.Sprintf("cluster %s goes on at %s as incarnation %d, with the state %s, without %s", statement.Cluster, nameOf(statement.Node.String()),
		statement.Incarnation, short(statement.State.String()), strings.Join(lost, ", "))
}
