package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// Served says what is answered, by route name: request, response and number of
// secrets.
func Served() map[string]string {
	served := map[string]string{}
	for name, e := range endpoints() {
		served[name] = fmt.Sprintf("%T %T %d", e.request, e.response, e.secrets)
	}
	return served
}

// WrittenAudit reads audit records from the node's files.
func (n *Node) WrittenAudit(oldest, after uint64, limit int) []api.AuditRecord {
	return n.writtenAudit(oldest, after, limit)
}

// StatusOnSocket is what the node answers about itself and its cluster to whoever
// asks on its socket.
func (n *Node) StatusOnSocket(ctx context.Context) api.Status { return n.face.status(ctx) }

// Told is what a caller of the API is told of an error that another node gave this
// one.
func (n *Node) Told(err error) *api.Error {
	remote := &transport.RemoteError{Code: "internal", Message: err.Error()}
	if coded, ok := toWire(err).(interface{ ErrorCode() string }); ok {
		remote.Code = coded.ErrorCode()
	}
	return n.face.explain(fromWire(remote))
}

// HealthForTest is what the node says about itself to anybody.
func (n *Node) HealthForTest() api.Health { return n.health() }
