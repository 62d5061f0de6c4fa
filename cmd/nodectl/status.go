package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) clusterStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "say how the cluster is, what can still be lost and whether a restore would work", Args: cobra.NoArgs,
		Long: `Says what the node that answers knows: members, leader, the DKEK and its shares,
what can still be lost, whether a blank device could be filled now and who is
needed for it. Exits 0 and says it, also where there is no quorum.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var st api.Status
			if err := a.ask(ctx, api.ClusterStatus, nil, &st); err != nil {
				return err
			}
			return a.show(st, func(w io.Writer) { showStatus(w, st) })
		},
	}
}

func showStatus(w io.Writer, st api.Status) {
	row(w, "cluster", st.Cluster.ID+" "+st.Cluster.Name)
	row(w, "answered by", fmt.Sprintf("%s, %s %s", st.Node.Name, st.Node.State, st.Node.Missing))
	quorum := "yes"
	if !st.Quorum {
		quorum = "NO: changes are refused"
		if st.StateAgeSeconds >= 0 {
			quorum += fmt.Sprintf(", last heard %.0f s ago", st.StateAgeSeconds)
		}
	}
	row(w, "quorum", quorum)
	leader := "none known"
	for _, m := range st.Members {
		if m.ID == st.Leader {
			leader = m.Name
		}
	}
	row(w, "leader", leader)
	row(w, "operators", fmt.Sprintf("%d of %d must approve", st.Approvals, st.Operators))
	row(w, "keys", fmt.Sprintf("%d, %d versions, %d pending deletion, %d on fewer devices than wanted",
		st.Keys.Keys, st.Keys.Versions, st.Keys.Pending, st.Keys.Short))
	showDKEK(w, st.DKEK)
	row(w, "can still be lost", fmt.Sprintf("%d nodes (%d voters, %d shares), %d operators' keys",
		st.CanLose.Nodes, st.CanLose.Voters, st.CanLose.Shares, st.CanLose.Operators))
	restore := "works now"
	if !st.Restore.Possible {
		restore = "WOULD NOT WORK: " + st.Restore.Why
	}
	row(w, "a restore", restore)
	if st.Restore.Needed > 0 {
		row(w, "  needs", fmt.Sprintf("%d of %s, and %d operators", st.Restore.Needed, strings.Join(st.Restore.Holders, ", "), st.Restore.Approvals))
	}
	for _, c := range st.Ceremonies {
		row(w, "open ceremony", fmt.Sprintf("%s %s, %d of %d approvals", c.ID, c.Kind, len(c.Approvals), c.Needed))
	}
	for _, warning := range st.Warnings {
		row(w, "warning", warning)
	}
	fmt.Fprintln(w)
	showMembers(w, st.Members)
	fmt.Fprintln(w)
	showDevices(w, st.Devices)
}
