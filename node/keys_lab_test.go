package node_test

import (
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// keyLab is a cluster with a DKEK, for tests of keys.
type keyLab struct {
	*nodetest.Cluster
	t testing.TB
}

func startKeys(t testing.TB, n int, options nodetest.Options) *keyLab {
	t.Helper()
	l := &keyLab{Cluster: nodetest.StartWith(t, n, options), t: t}
	for _, m := range l.Members {
		l.ready(m)
	}
	return l
}

// provision opens and approves the ceremony that puts the DKEK into a member's
// blank device.
func (l *keyLab) provision(m *nodetest.Member) {
	l.t.Helper()
	opened, err := m.OpenProvision(l.t.Context(), node.CeremonyOptions{})
	if err != nil {
		l.t.Fatalf("open provision: %v", err)
	}
	l.Approve(opened.ID, 1)
	l.Done(opened.ID)
}

// ready waits until a member's device can be used.
func (l *keyLab) ready(m *nodetest.Member) {
	l.t.Helper()
	l.Eventually(m.Name+"'s device is ready", func() bool {
		row, ok := m.View().Member(m.ID())
		return ok && row.Device != nil && row.Device.State == string(hsm.Ready) && m.ObjectsForTest().Slots > 0
	})
}

// create makes a key on a member.
func (l *keyLab) create(m *nodetest.Member, name string, keyType hsm.KeyType) *node.Key {
	l.t.Helper()
	key, err := m.CreateKey(l.t.Context(), node.KeySpec{Name: name, Type: keyType})
	if err != nil {
		l.t.Fatalf("create %s: %v", name, err)
	}
	return key
}

// objects lists what is really in a member's device.
func (l *keyLab) objects(m *nodetest.Member) []hsm.Object {
	l.t.Helper()
	pin := hsm.NewSecret([]byte(nodetest.PIN))
	if err := m.Device.Unwrapped().Login(l.t.Context(), pin); err != nil {
		l.t.Fatal(err)
	}
	objects, err := m.Device.Unwrapped().List(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return objects
}
