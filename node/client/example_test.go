package client_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log"
	"os"

	"github.com/keycustodian/keycustodian/node/client"
)

// A program that only uses keys has a key of its own (nodectl operator new, let
// in by nodectl client add) and a copy of the cluster file. It hands out signers
// whose private half stays with the custodians.
func Example() {
	ctx := context.Background()
	own, err := readKey("app.pem")
	if err != nil {
		log.Fatal(err)
	}
	file, err := client.ReadClusterFile("cluster.json")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Config{Addresses: file.Addresses(), Members: file.Fingerprints(), Cluster: file.Cluster.ID, Key: own})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	key, err := c.Key(ctx, "db/tables-2026")
	if err != nil {
		log.Fatal(err)
	}
	digest := sha256.Sum256([]byte("checkpoint 1"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	fmt.Printf("%x %v", signature, err)
}

// readKey reads the PKCS #8 PEM that nodectl operator new writes.
func readKey(path string) (crypto.Signer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}
