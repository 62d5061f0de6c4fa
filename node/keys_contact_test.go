package node_test

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A member that starts alone knows nothing of its cluster until a majority is
// there. It says so, and advises neither a join nor a deal.
func TestAMemberThatStartsAloneSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{})
		key := l.create(l.Leader(), "k", hsm.Ed25519)
		for _, m := range l.Members {
			m.Crash()
		}
		alone := l.Members[0]
		alone.Start()
		use := node.KeyUse{Key: "k", Verb: fsm.Sign, Input: []byte("text")}
		_, used := alone.UseKey(t.Context(), alone.Self(), use)
		_, created := alone.CreateKey(t.Context(), node.KeySpec{Name: "k2", Type: hsm.Ed25519})
		for what, err := range map[string]error{"use": used, "create": created} {
			if !errors.Is(err, node.ErrNoLeader) || errors.Is(err, node.ErrNoCluster) {
				t.Errorf("%s: %v", what, err)
			}
		}
		health := read[api.Health](t, browse(t, l.Cluster, nil).get(alone, "/health/state"))
		if health.Ready || !strings.Contains(health.Missing, "majority") {
			t.Errorf("%+v", health)
		}
		l.Members[1].Start()
		l.Leader()
		answer, err := alone.UseKey(t.Context(), alone.Self(), use)
		if err != nil || !ed25519.Verify(key.Public().(ed25519.PublicKey), use.Input, answer.Output) {
			t.Errorf("with a majority: %v", err)
		}
	})
}

// What is asked of a closed node is refused as such, also by the keys it gave out.
func TestAClosedNodeUsesNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		key := l.create(l.Leader(), "k", hsm.Ed25519)
		n := l.Members[0].Node
		l.Members[0].Close()
		_, signed := key.Sign(nil, []byte("text"), crypto.Hash(0))
		_, signedContext := key.SignContext(t.Context(), []byte("text"), crypto.Hash(0))
		_, found := n.Key(t.Context(), "k")
		_, created := n.CreateKey(t.Context(), node.KeySpec{Name: "k2", Type: hsm.Ed25519})
		_, random := n.Random(t.Context(), 8)
		for what, err := range map[string]error{"sign": signed, "sign with a context": signedContext, "key": found, "create": created, "random": random} {
			if !errors.Is(err, node.ErrClosed) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}
