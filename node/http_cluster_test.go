package node_test

import (
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A node is named by so much of its ID that nobody can have meant another one's
// name: b, of which nobody knows that it was removed, is not the node whose ID begins
// with b.
func TestAMemberIsNotNamedByTooLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m, b := c.Members[0], browse(t, c, c.Operators[0].Key)
		id := m.ID().String()
		for _, text := range []string{m.Name, "no", id, id[:api.ShortestID]} {
			if d := read[api.DeviceDetails](t, b.get(m, "/v1/device?node="+text)); d.Name != m.Name {
				t.Errorf("%s: %+v", text, d)
			}
		}
		for _, text := range []string{id[:1], id[:api.ShortestID-1], "node-00"} {
			wantCode(t, b.get(m, "/v1/device?node="+text), api.CodeNotFound)
		}
	})
}
