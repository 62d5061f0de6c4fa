package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/spf13/cobra"
)

func (a *app) clusterRestore() *cobra.Command {
	var o offline
	var back []string
	var known uint64
	c := &cobra.Command{
		Use: "restore BACKUP --plan FILE", Short: "begin anew from a backup when all logs are lost or unusable",
		Long: `Makes a backup the state of its cluster, where no member can go on from its own log
any more: all logs are lost, damaged, or hold an entry that stops every node. What
it takes are the data folders of its members, all but their logs, and their seal
secrets: as many as the threshold says with their shares, or no device can be
filled again. All members are stopped. Three steps:

1. on each of them, --plan names the file that is written. Refused where the backup
   is damaged, of another cluster, or from before the last change of operators,
   where this node is no member in it as it is now, and where anybody answers. It is
   refused too where this node knows of log entries that the backup lacks, unless
   --accept-loss gives them up: the plan says how many.
2. as many operators as must approve sign one plan, wherever their keys are (nodectl
   operator sign PLAN --out SIGNATURE): the one that gives up most. A member that
   knows of more refuses it in step 3 and says what to give as --known; plan again
   then, at a node that has begun if there is one.
3. the plan is carried out with the same backup and --signature, once for each, on
   every member that goes on. Then start them: nothing works before a majority runs.

Keys made after the backup are gone from the cluster; what devices have of them is
kept aside (nodectl device info). Keys that were deleted since are back, as are
clients, rights and policies of that time: look through them. Join tokens and open
ceremonies are void. Where shares were dealt anew since, they stay in force. The
former log stays beside the new one, as raft-before-INCARNATION in the data folder.`,
		Example: `  nodectl cluster restore custodians.backup --config /etc/keycustodian/config.yaml --accept-loss --reason "all logs lost" --plan plan.json
  nodectl operator sign plan.json --out alice.sig
  nodectl cluster restore custodians.backup --config /etc/keycustodian/config.yaml --plan plan.json --signature alice.sig`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			b, err := a.readBackup(args[0], nil)
			if err != nil {
				return err
			}
			if len(o.signatures) == 0 {
				options := node.RestoreOptions{Lost: o.lost, Back: back, Reason: o.reason, AcceptLoss: o.acceptLoss, Known: known}
				return a.planRestore(ctx, c, &o, b, options)
			}
			if len(o.lost)+len(back) > 0 || o.reason != "" || o.acceptLoss || known > 0 {
				return usage("what is lost, and why, is in the plan that was signed: give --signature alone")
			}
			return a.carryRestoreOut(ctx, c, &o, b)
		},
	}
	o.add(c)
	c.Flags().StringSliceVar(&back, "back", nil, "`MEMBER` that was removed after the backup, and is one again; again for more")
	c.Flags().Uint64Var(&known, "known", 0, "log `ENTRY` that another member knows of, as it said")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) planRestore(ctx context.Context, c *cobra.Command, o *offline, b *fsm.Backup, options node.RestoreOptions) error {
	if _, err := os.Lstat(o.plan); !errors.Is(err, fs.ErrNotExist) {
		return hint("name another file, or carry it out with --signature", fmt.Errorf("%s is there already", o.plan))
	}
	s, err := a.openStopped(ctx, c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	defer a.busy("asking the other members")()
	plan, err := s.PlanRestore(ctx, b, options)
	if err != nil {
		return hint("nothing was changed", err)
	}
	return a.givePlan(plan, o.plan)
}

func (a *app) carryRestoreOut(ctx context.Context, c *cobra.Command, o *offline, b *fsm.Backup) error {
	plan, statement, approvals, err := a.signedPlan(o)
	if err != nil {
		return err
	}
	if err := a.confirm(fmt.Sprintf("this node begins incarnation %d with the backup in the place of its log, without %d members, which are removed for ever", statement.Incarnation, len(statement.Lost))); err != nil {
		return err
	}
	s, err := a.openStopped(ctx, c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	defer a.busy("asking the other members")()
	if err := s.Restore(ctx, plan, approvals, b); err != nil {
		return hint("nothing was changed that a start would see: mend it, and run this again", err)
	}
	return a.done(plan, "incarnation %d begins here: do the same on every member that goes on, start them, then run nodectl cluster refresh and look at nodectl cluster status", statement.Incarnation)
}

// describeRestore says in words what a signature would stand for.
func describeRestore(statement *fsm.RecoverStatement, nameOf func(id string) string, lost []string) string {
	terms := statement.Restore
	text := fmt.Sprintf("cluster %s begins incarnation %d from the backup with the digest %s, gives up %d entries of its log, and goes on without %s",
		statement.Cluster, statement.Incarnation, statement.State, terms.Loses, strings.Join(lost, ", "))
	var back []string
	for _, id := range terms.Back {
		back = append(back, nameOf(id.String()))
	}
	if back != nil {
		text += ", with " + strings.Join(back, ", ") + " again, who had been removed"
	}
	return text
}
