package node

import (
	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Changing has f told of every change to a file, which it may refuse.
func (m *Memory) Changing(f func(name string) error) {
	m.files.mu.Lock()
	defer m.files.mu.Unlock()
	m.files.changing = f
}

// OpensUnder names the files of a node that open under a seal secret.
func (m *Memory) OpensUnder(id dkek.NodeID, seal *secret.Bytes) map[string]bool {
	box := func(purpose string) *secret.Box {
		b, err := secret.NewBox(seal, purpose)
		if err != nil {
			panic(err)
		}
		return b
	}
	opens := map[string]bool{}
	note := func(name string, is bool) {
		if is {
			opens[name] = true
		}
	}
	_, err := readIdentity(&m.files, box(nodeKeyBox))
	note(identityFile, err == nil)
	_, err = (&pinRoom{node: &Node{id: id}, box: box(pinPurpose)}).open(m.Content(pinFile))
	note(pinFile, err == nil)
	notes, whole, _ := parseReleases(box(releasePurpose), id, m.Content(releaseFile))
	note(releaseFile, len(notes) > 0 && whole == len(m.Content(releaseFile)))
	for _, name := range m.Files(shareFolder) {
		file, err := dkek.ParseShareFile(m.Content(name))
		if err == nil {
			_, err = file.Open(box(dkek.SealPurpose))
		}
		note(name, err == nil)
	}
	record, err := parseRejected(m.Content(rejectedFile))
	if err == nil {
		_, err = box(rejectedPurpose).Open(record.SealedKey, id[:])
	}
	note(rejectedFile, err == nil)
	former, err := formerSeal(&m.files, seal)
	note(resealFile, err == nil && former != nil)
	return opens
}

// ShareTrouble is what is wrong with a share of this node.
func (n *Node) ShareTrouble() error {
	if err := n.shares.check(); err != nil {
		return err
	}
	for _, held := range n.shares.shares() {
		if held.err != nil {
			return held.err
		}
	}
	return nil
}
