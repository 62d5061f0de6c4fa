package node_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A joiner wants the operators from those on that its token names. All that there
// ever were grow beyond what an answer may hold, and nobody could join any more.
func TestJoinAfterManyGoverns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m := c.Members[0]
		operators := []fsm.Operator{c.Operators[0].Public()}
		for i := range fsm.MaxOperators - 1 {
			name := fmt.Sprintf("operator-%d-", i) + strings.Repeat("x", fsm.MaxMemberName)
			operators = append(operators, nodetest.NewOperator(name[:fsm.MaxMemberName]).Public())
		}
		records := func() (size int) {
			for r := range m.View().Governs(1) {
				size += len(r.Open) + len(r.Set.Operators)*100
			}
			return size
		}
		for i := 0; records() < 1<<20; i++ {
			opened, err := m.OpenGovern(t.Context(), fsm.Proposal{Operators: operators, Approvals: 1}, node.CeremonyOptions{Reason: strings.Repeat("r", fsm.MaxReason)})
			if err != nil {
				t.Fatal(err)
			}
			c.Approve(opened.ID, 1)
		}
		c.Add()
	})
}
