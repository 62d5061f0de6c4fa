package node

import (
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
)

// shareOf is a sharing of one holder, who is the node, and the node's share.
func shareOf(t *testing.T, n *Node, epoch, attempt uint64) (*dkek.Sharing, *dkek.Bundle) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	holder := []dkek.Holder{{Node: n.id, Fingerprint: dkek.Fingerprint{1}}}
	plan := &dkek.Plan{Cluster: dkek.ClusterID{1}, Epoch: epoch, Attempt: attempt, Origin: dkek.Single, Threshold: 1, Holders: holder, Dealers: holder}
	dealt, err := dkek.Deal(plan, n.id, nil)
	must(err)
	key, err := dkek.NewRecipientKey(dkek.Suite{})
	must(err)
	sealed, err := dealt.SealFor(n.id, key.Public(), nil)
	must(err)
	public := dealt.Public()
	sub, err := dkek.OpenSubShare(key, sealed, nil, plan, &public, n.id)
	must(err)
	sharing, err := dkek.NewSharing(plan, []dkek.Dealing{public})
	must(err)
	bundle, err := dkek.NewBundle(sharing, n.id, []*dkek.SubShare{sub})
	must(err)
	return sharing, bundle
}

// A node keeps one share of an epoch, whatever it is dealt.
func TestOneShareOfAnEpoch(t *testing.T) {
	n := recordNode(t)
	room, err := newShareRoom(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		epoch, attempt uint64
		refused        bool
	}{{1, 1, false}, {1, 2, true}, {2, 1, false}} {
		sharing, bundle := shareOf(t, n, test.epoch, test.attempt)
		if err := room.keep(sharing, bundle); (err != nil) != test.refused {
			t.Errorf("share %d-%d: %v", test.epoch, test.attempt, err)
		}
	}
}

// A share counts as kept when what was read back from the disk is what was written.
func TestAShareIsReadBack(t *testing.T) {
	n := recordNode(t)
	n.files = &forgetfulDisk{files: n.files}
	room, err := newShareRoom(n)
	if err != nil {
		t.Fatal(err)
	}
	sharing, bundle := shareOf(t, n, 1, 1)
	if err := room.keep(sharing, bundle); err == nil || !strings.Contains(err.Error(), "disk is not to be trusted") {
		t.Errorf("kept on a disk that changes what it stores: %v", err)
	}
	if held := room.shares(); len(held) != 0 {
		t.Errorf("it counts as held: %v", held)
	}
}

// forgetfulDisk says that a file is written, and keeps the last byte to itself.
type forgetfulDisk struct{ files }

func (d *forgetfulDisk) write(name string, content []byte) error {
	return d.files.write(name, content[:len(content)-1])
}
