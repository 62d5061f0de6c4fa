package main

import (
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// Status says nothing twice, and nothing that is not so: who leads without a quorum
// did so before, and where nobody answers nobody is named.
func TestStatusOfANodeThatIsAlone(t *testing.T) {
	st := api.Status{
		Node: api.NodeStatus{Name: "node-1", State: api.StateSealed, Missing: "sealed: its seal secret is missing"}, Leader: "id",
		Members: []api.Member{{ID: "id", Name: "node-3"}}, Restore: api.Restore{Needed: 2, Approvals: 1, Why: "nobody answers"},
	}
	var text strings.Builder
	showStatus(&text, st)
	for _, line := range []string{
		"answered by\tnode-1, sealed: its seal secret is missing\n", "leader\twas node-3\n",
		"  needs\t2 of the holders, of whom none answers, and 1 operators\n",
	} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("lacks %q:\n%s", line, text.String())
		}
	}
	st.Node.State, st.Node.Missing, st.Quorum, st.Restore.Holders = api.StateUnready, "the log cannot be written", true, []string{"node-1", "node-2"}
	text.Reset()
	showStatus(&text, st)
	for _, line := range []string{"node-1, unready: the log cannot be written\n", "leader\tnode-3\n", "2 of node-1, node-2, and"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("lacks %q:\n%s", line, text.String())
		}
	}
}
