package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/transport"
)

const (
	identityFile = "identity"
	nodeKeyBox   = "node key" // purpose of the box that seals the node's key
)

// ownKey is a key pair of this node, with what is made of it.
type ownKey struct {
	signer      ed25519.PrivateKey
	spki        []byte // DER SubjectPublicKeyInfo
	fingerprint dkek.Fingerprint
	tls         *transport.Identity
}

func newOwnKey(signer ed25519.PrivateKey) (*ownKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("node: identity: %w", err)
	}
	tls, err := transport.NewIdentity(signer)
	if err != nil {
		return nil, fmt.Errorf("node: identity: %w", err)
	}
	return &ownKey{signer, spki, fsm.FingerprintOf(spki), tls}, nil
}

func drawKey() (*ownKey, error) {
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return newOwnKey(signer)
}

// identity is who this node is: an ID for ever, and an Ed25519 key that signs
// its TLS handshakes, recipient entries, releases and reports.
type identity struct {
	node    dkek.NodeID
	cluster dkek.ClusterID // zero until init or join
	key     *ownKey
	next    *ownKey  // drawn for a rotation that is not known to be committed
	former  *ownKey  // the one before, until every member knows key
	past    [][]byte // SubjectPublicKeyInfo of all before key, oldest first
}

// identityRecord is the identity file, JSON. Each sealed key is a 32-byte Ed25519
// seed in a box of purpose "node key" with the node ID as context.
type identityRecord struct {
	Format       int      `json:"format"` // 1
	Node         string   `json:"node"`
	Cluster      string   `json:"cluster,omitempty"`
	SealedKey    []byte   `json:"sealed_key"`
	SealedNext   []byte   `json:"sealed_next,omitempty"`
	SealedFormer []byte   `json:"sealed_former,omitempty"`
	Past         [][]byte `json:"past,omitempty"`
}

// sealed are the boxes in a record, those that are there.
func (r *identityRecord) sealed() []*[]byte {
	var all []*[]byte
	for _, box := range []*[]byte{&r.SealedKey, &r.SealedNext, &r.SealedFormer} {
		if box == &r.SealedKey || len(*box) > 0 {
			all = append(all, box)
		}
	}
	return all
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
	who := identity{past: record.Past}
	if !decodeID(who.node[:], record.Node) || record.Cluster != "" && !decodeID(who.cluster[:], record.Cluster) {
		return identity{}, fmt.Errorf("node: identity: the file %q is damaged: remove this node and join anew with an empty data folder", identityFile)
	}
	if who.key, err = openKey(box, record.SealedKey, who.node); err != nil {
		return identity{}, err
	}
	if len(record.SealedNext) > 0 {
		if who.next, err = openKey(box, record.SealedNext, who.node); err != nil {
			return identity{}, err
		}
	}
	if len(record.SealedFormer) > 0 {
		if who.former, err = openKey(box, record.SealedFormer, who.node); err != nil {
			return identity{}, err
		}
	}
	return who, nil
}

func openKey(box *secret.Box, sealed []byte, node dkek.NodeID) (*ownKey, error) {
	seed, err := box.Open(sealed, node[:])
	if err != nil {
		return nil, fmt.Errorf("%w: the node key does not open: this is not the seal secret that it was sealed under, or the file %q was changed", ErrSealed, identityFile)
	}
	defer secret.Wipe(seed)
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("node: identity: the node key is damaged")
	}
	return newOwnKey(ed25519.NewKeyFromSeed(seed))
}

// newIdentity draws an identity and writes it.
func newIdentity(f files, box *secret.Box) (identity, error) {
	var who identity
	rand.Read(who.node[:])
	var err error
	if who.key, err = drawKey(); err != nil {
		return identity{}, err
	}
	// From here on a missing record of releases is one that was lost.
	if err := f.append(releaseFile, nil); err != nil {
		return identity{}, fmt.Errorf("node: identity: %w", err)
	}
	return who, who.save(f, box)
}

// save writes the identity; joining a cluster and rotating the key change it.
func (who identity) save(f files, box *secret.Box) error {
	record := identityRecord{Format: 1, Node: who.node.String(), Past: who.past}
	if who.cluster != (dkek.ClusterID{}) {
		record.Cluster = who.cluster.String()
	}
	seal := func(key *ownKey) []byte {
		if key == nil {
			return nil
		}
		seed := key.signer.Seed()
		defer secret.Wipe(seed)
		return box.Seal(seed, who.node[:])
	}
	record.SealedKey, record.SealedNext, record.SealedFormer = seal(who.key), seal(who.next), seal(who.former)
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	if err := f.write(identityFile, append(content, '\n')); err != nil {
		return fmt.Errorf("node: identity: %w", err)
	}
	return nil
}

// changeIdentity writes a change of this node's identity, and has it act by it.
// Where change says no, nothing happens.
func (n *Node) changeIdentity(change func(who *identity) bool) error {
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	who := n.identity
	if !change(&who) {
		return nil
	}
	box, err := n.box(nodeKeyBox)
	if err != nil {
		return err
	}
	if err := who.save(n.files, box); err != nil {
		return err
	}
	n.takeOn(who)
	return nil
}

// takeOn makes this node act under an identity; under identityMu.
func (n *Node) takeOn(who identity) {
	n.identity = who
	n.own.Store(who.key)
	other := who.next
	if other == nil {
		other = who.former
	}
	switch {
	case n.server == nil:
	case other == nil:
		n.server.Identify(who.key.tls, nil)
	default:
		n.server.Identify(who.key.tls, other.tls)
	}
}

// identityNow is the identity as it is now.
func (n *Node) identityNow() identity {
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	return n.identity
}

// hadKey tells whether a key is, or was, this node's.
func (n *Node) hadKey(f dkek.Fingerprint) bool {
	who := n.identityNow()
	return f == who.key.fingerprint || slices.ContainsFunc(who.past, func(public []byte) bool { return fsm.FingerprintOf(public) == f })
}

// holder is this node as sharings and ceremonies name it.
func (k *ownKey) holder(node dkek.NodeID) dkek.Holder {
	return dkek.Holder{Node: node, Fingerprint: k.fingerprint}
}

func decodeID(id []byte, text string) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && copy(id, decoded) == len(decoded) && len(decoded) == len(id)
}
