package node_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
)

// A program that embeds a custodian opens a node, once, and then has keys that it
// can hand to anything that takes a crypto.Signer.
func Example() {
	ctx := context.Background()
	seal, err := hsm.ParseSource("credential:seal", "seal secret")
	if err != nil {
		log.Fatal(err)
	}
	n, err := node.Open(ctx, node.Config{
		Dir: "/var/lib/app/keys", Name: "a", Listen: "10.0.0.1:7400", Socket: "/run/app/keys.socket", Seal: seal,
		OpenDevice: func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error) {
			return drivers.OpenWith(ctx, "soft:/var/lib/app/keys/device", seal)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close(ctx)
	key, err := n.Key(ctx, "tables-2026")
	if errors.Is(err, fsm.NotFound) {
		key, err = n.CreateKey(ctx, node.KeySpec{Name: "tables-2026", Type: hsm.ECDSAP256})
	}
	if err != nil {
		log.Fatal(err) // node.ErrNoCluster, until the node has joined one; node.ErrNoDKEK, until that is dealt
	}
	digest := sha256.Sum256([]byte("checkpoint 1"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	fmt.Printf("%x %v", signature, err)
}

// The first node begins the cluster, once, with its operators' public keys as
// nodectl operator new writes them.
func ExampleNode_Init() {
	var n *node.Node // opened
	content, err := os.ReadFile("alice.pem.pub")
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		log.Fatal("no PEM file")
	}
	alice := fsm.Operator{Name: "alice", Public: block.Bytes}
	cluster, err := n.Init(context.Background(), node.InitOptions{Operators: []fsm.Operator{alice}})
	fmt.Println(cluster, err)
}

// Every other node joins it, once, with a token of its own that an operator made
// with nodectl cluster token.
func ExampleNode_Join() {
	var n *node.Node // opened
	content, err := os.ReadFile("token-b")
	if err != nil {
		log.Fatal(err)
	}
	token, err := api.ParseJoinToken(string(content))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n.Join(context.Background(), token))
}
