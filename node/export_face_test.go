package node

import (
	"fmt"

	"github.com/keycustodian/keycustodian/node/api"
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
