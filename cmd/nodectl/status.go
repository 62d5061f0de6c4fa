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
	row(w, "answered by", st.Node.Name+", "+standing(st.Node.State, st.Node.Missing))
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
	if !st.Quorum && leader != "none known" {
		leader = "was " + leader
	}
	row(w, "leader", leader)
	row(w, "command version", versionRow(st))
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
		holders := "the holders, of whom none answers"
		if len(st.Restore.Holders) > 0 {
			holders = strings.Join(st.Restore.Holders, ", ")
		}
		row(w, "  needs", fmt.Sprintf("%d of %s, and %d operators", st.Restore.Needed, holders, st.Restore.Approvals))
	}
	for _, c := range st.Ceremonies {
		row(w, "open ceremony", fmt.Sprintf("%s %s, %d of %d approvals", c.ID, c.Kind, len(c.Approvals), c.Needed))
	}
	for _, warning := range st.Warnings {
		row(w, "warning", warning)
	}
	if len(st.Members) == 0 {
		return
	}
	fmt.Fprintln(w)
	showMembers(w, st.Members)
	fmt.Fprintln(w)
	showDevices(w, st.Devices)
}

// versionRow is the version of commands that may be written, and how far each
// member reads where that is not the same.
func versionRow(st api.Status) string {
	row, later := fmt.Sprint(st.CommandVersion), []string{}
	for _, m := range st.Members {
		if m.ReadsTo > st.CommandVersion {
			later = append(later, fmt.Sprintf("%s to %d", m.Name, m.ReadsTo))
		}
	}
	if len(later) > 0 {
		row += fmt.Sprintf(", raised when all read more: %s", strings.Join(later, ", "))
	}
	return row
}

// standing is a node's state and what it lacks, which may begin with the state.
func standing(state, missing string) string {
	switch {
	case missing == "":
		return state
	case strings.HasPrefix(missing, state):
		return missing
	}
	return state + ": " + missing
}
