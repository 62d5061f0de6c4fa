package node

import (
	"context"
	"strings"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// Reached sets what is told at the instants of the crash table.
func (n *Node) Reached(f func(ctx context.Context, point string) error) {
	n.ceremonies.reached.Store(&f)
}

// Ask asks another node for a share of a ceremony, as this node.
func (n *Node) Ask(ctx context.Context, holder dkek.NodeID, method string, id fsm.CeremonyID) (sealed []byte, err error) {
	var answer shareAnswer
	err = n.call(ctx, holder, method, shareRequest{Ceremony: id}, &answer)
	return answer.Sealed, err
}

// Pinned is the operator set that the node believes.
func (n *Node) Pinned() fsm.OperatorSet { return n.pins.set() }

// Propose commits on the node's own behalf.
func (n *Node) Propose(ctx context.Context, body fsm.Body) error {
	_, err := n.do(ctx, body)
	return err
}

// Files lists the names of the files in memory that begin with a prefix.
func (m *Memory) Files(prefix string) []string {
	var names []string
	for _, name := range m.files.names() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// Content returns a file; nil for none.
func (m *Memory) Content(name string) []byte {
	content, _ := m.files.read(name)
	return content
}

// SetContent replaces a file.
func (m *Memory) SetContent(name string, content []byte) { m.files.write(name, content) }

func (m *memoryFiles) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.content {
		names = append(names, name)
	}
	return names
}

// ApprovedFor runs a holder's whole check on a state of the test's making.
func (n *Node) ApprovedFor(view *fsm.View, from *fsm.Member, id fsm.CeremonyID, purpose fsm.ReleasePurpose) error {
	_, _, err := n.ceremonies.mayRelease(view, from, id, purpose)
	return err
}

// ShareFile is the name of a share's file.
func ShareFile(epoch, attempt uint64) string { return sharingName{epoch, attempt}.file() }
