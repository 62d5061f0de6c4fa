package node

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

const (
	identityFile = "identity"
	nodeKeyBox   = "node key" // purpose of the box that seals the node's key
)

// identity is who this node is: an ID for ever, and an Ed25519 key that signs
// its TLS handshakes, recipient entries, releases and reports.
type identity struct {
	node    dkek.NodeID
	cluster dkek.ClusterID // zero until init or join
	key     crypto.Signer
}

// identityRecord is the identity file, JSON. SealedKey is the 32-byte Ed25519
// seed in a box of purpose "node key" with the node ID as context.
type identityRecord struct {
	Format    int    `json:"format"` // 1
	Node      string `json:"node"`
	Cluster   string `json:"cluster,omitempty"`
	SealedKey []byte `json:"sealed_key"`
}

// readIdentity reads the identity; a missing file is fs.ErrNotExist.
func readIdentity(f files, box *secret.Box) (identity, error) {
	content, err := f.read(identityFile)
	if err != nil {
		return identity{}, fmt.Errorf("node: identity: %w", err)
	}
	var record identityRecord
	if err := json.Unmarshal(content, &record); err != nil || record.Format != 1 {
		return identity{}, fmt.Errorf("node: identity: the file %q is damaged or of another version: restore it, or remove this node and join anew with an empty data folder", identityFile)
	}
	var who identity
	if !decodeID(who.node[:], record.Node) || record.Cluster != "" && !decodeID(who.cluster[:], record.Cluster) {
		return identity{}, fmt.Errorf("node: identity: the file %q is damaged: remove this node and join anew with an empty data folder", identityFile)
	}
	seed, err := box.Open(record.SealedKey, who.node[:])
	if err != nil {
		return identity{}, fmt.Errorf("%w: the node key does not open: this is not the seal secret that it was sealed under, or the file %q was changed", ErrSealed, identityFile)
	}
	defer secret.Wipe(seed)
	if len(seed) != ed25519.SeedSize {
		return identity{}, fmt.Errorf("node: identity: the node key is damaged")
	}
	who.key = ed25519.NewKeyFromSeed(seed)
	return who, nil
}

// newIdentity draws an identity and writes it.
func newIdentity(f files, box *secret.Box) (identity, error) {
	var who identity
	rand.Read(who.node[:])
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return identity{}, err
	}
	who.key = key
	return who, who.save(f, box)
}

// save writes the identity; joining a cluster and rotating the key change it.
func (who identity) save(f files, box *secret.Box) error {
	key := who.key.(ed25519.PrivateKey)
	seed := key.Seed()
	defer secret.Wipe(seed)
	record := identityRecord{Format: 1, Node: who.node.String(), SealedKey: box.Seal(seed, who.node[:])}
	if who.cluster != (dkek.ClusterID{}) {
		record.Cluster = who.cluster.String()
	}
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	if err := f.write(identityFile, append(content, '\n')); err != nil {
		return fmt.Errorf("node: identity: %w", err)
	}
	return nil
}

func decodeID(id []byte, text string) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && copy(id, decoded) == len(decoded) && len(decoded) == len(id)
}
