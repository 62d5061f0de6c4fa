package nodetest_test

import (
	"crypto"
	"crypto/sha256"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// What a program that embeds a node can test: its keys outlive a leader, and a
// device.
func TestAKeyOutlivesItsMaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := nodetest.Start(t, 3)
		maker := cluster.Leader()
		if _, err := maker.CreateKey(t.Context(), node.KeySpec{Name: "k", Type: hsm.ECDSAP256}); err != nil {
			t.Fatal(err)
		}
		maker.Crash()
		key, err := cluster.Leader().Key(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("checkpoint 1"))
		signature, err := key.SignContext(t.Context(), digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(t.Context(), digest[:], signature, crypto.SHA256); err != nil {
			t.Error(err)
		}
	})
}
