package node_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/node"
)

// A program that embeds a custodian opens a device and a node, once, and then has
// keys that it can hand to anything that takes a crypto.Signer.
func Example() {
	ctx := context.Background()
	seal := func(context.Context) (*hsm.Secret, error) { return hsm.NewSecret(readSealSecret()), nil }
	device, err := drivers.Open(ctx, "soft:/var/lib/app/device?seal-source=credential:seal")
	if err != nil {
		log.Fatal(err)
	}
	n, err := node.Open(ctx, node.Config{Dir: "/var/lib/app/keys", Name: "a", Listen: "10.0.0.1:7400", Device: device, Seal: seal})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close(ctx)
	key, err := n.CreateKey(ctx, node.KeySpec{Name: "tables-2026", Type: hsm.ECDSAP256})
	if err != nil {
		log.Fatal(err)
	}
	digest := sha256.Sum256([]byte("checkpoint 1"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	fmt.Printf("%x %v", signature, err)
}

func readSealSecret() []byte { return make([]byte, 32) }
