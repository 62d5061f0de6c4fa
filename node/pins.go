package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// The file "pins": magic (8) and, sealed in a box of purpose "pins" with magic
// and node ID as context, the deterministic CBOR of a pinRecord.
const (
	pinFile    = "pins"
	pinMagic   = "KCPINS1\n"
	pinPurpose = "pins"
)

// pinRecord is the chain of operator sets that this node has verified, the one
// in force last. It grows by one link for each govern ceremony.
type pinRecord struct {
	Sets []fsm.OperatorSet `cbor:"1,keyasint"`
}

// pinRoom keeps which operators this node believes. The replicated state says
// so too, but whoever leads the log could have written that: pins change only
// by what the operators pinned before have signed.
type pinRoom struct {
	node *Node
	box  *secret.Box

	mu      sync.Mutex // the file and sets
	sets    []fsm.OperatorSet
	trouble error // why the newest govern record was not followed
}

// newPinRoom reads the pins; there are none before init or join.
func newPinRoom(n *Node) (*pinRoom, error) {
	box, err := n.box(pinPurpose)
	if err != nil {
		return nil, err
	}
	p := &pinRoom{node: n, box: box}
	content, err := n.files.read(pinFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("node: pins: %w", err)
	}
	if p.sets, err = p.open(content); err != nil {
		return nil, fmt.Errorf("node: pins: the file %q is damaged, so this node cannot tell who may approve: restore it, or remove this node and join anew with an empty data folder: %w", pinFile, err)
	}
	return p, nil
}

// complete refuses to go on in a cluster without the pins that init and join
// write before they enter it: the node would believe nobody, and release nothing.
func (p *pinRoom) complete() error {
	if p.set().Number == 0 {
		return fmt.Errorf("node: pins: the file %q is missing, so this node cannot tell who may approve: put it back, or remove this node and join anew with an empty data folder", pinFile)
	}
	return nil
}

func (p *pinRoom) context() []byte { return append([]byte(pinMagic), p.node.id[:]...) }

func (p *pinRoom) open(content []byte) ([]fsm.OperatorSet, error) {
	if len(content) < len(pinMagic) || string(content[:len(pinMagic)]) != pinMagic {
		return nil, errors.New("not a pins file of this version")
	}
	plain, err := p.box.Open(content[len(pinMagic):], p.context())
	if err != nil {
		return nil, err
	}
	return parsePins(plain)
}

// parsePins reads a chain of operator sets: at least one, each valid, numbered
// without a gap, all of one cluster.
func parsePins(plain []byte) ([]fsm.OperatorSet, error) {
	var record pinRecord
	if err := wireDecoder.Unmarshal(plain, &record); err != nil {
		return nil, err
	}
	for i, set := range record.Sets {
		if err := set.Validate(); err != nil {
			return nil, err
		}
		if i > 0 && (set.Number != record.Sets[i-1].Number+1 || set.Cluster != record.Sets[0].Cluster) {
			return nil, errors.New("the chain of operator sets has a gap")
		}
	}
	if len(record.Sets) == 0 {
		return nil, errors.New("no operator set")
	}
	return record.Sets, nil
}

// save makes sets what this node believes, once they are on disk.
func (p *pinRoom) save(sets []fsm.OperatorSet) error {
	plain, err := wireEncoder.Marshal(pinRecord{Sets: sets})
	if err != nil {
		return err
	}
	if err := p.node.files.write(pinFile, append([]byte(pinMagic), p.box.Seal(plain, p.context())...)); err != nil {
		return fmt.Errorf("node: pins: %w", err)
	}
	p.sets = sets
	return nil
}

// begin pins the first operators of a cluster that this node initialises.
func (p *pinRoom) begin(set fsm.OperatorSet) error {
	if err := set.Validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.save([]fsm.OperatorSet{set})
}

// adopt pins what an operator's join token names. The chain comes from a member,
// who is not believed: one of its links must have the token's number and digest,
// which fix the whole set, and every later one must be signed by the one before.
func (p *pinRoom) adopt(cluster dkek.ClusterID, chain []fsm.GovernRecord, govern uint64, digest dkek.Hash) error {
	var sets []fsm.OperatorSet
	for i := range chain {
		record := &chain[i]
		if len(sets) > 0 {
			next, err := fsm.VerifyGovern(sets[len(sets)-1], record)
			if err != nil {
				return fmt.Errorf("node: pins: operator set %d is not what set %d signed: %w", record.Number, record.Number-1, err)
			}
			sets = append(sets, next)
		} else if set := record.Set; set.Number == govern && set.Cluster == cluster && set.Digest() == digest {
			if err := set.Validate(); err != nil {
				return fmt.Errorf("node: pins: %w", err)
			}
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 {
		return fmt.Errorf("node: pins: the member did not show the operators that the token names (number %d, digest %v): ask an operator for a new token, and distrust that member", govern, digest)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.save(sets)
}

// set is the operator set that this node believes; without operators before
// init or join, so that nothing is approved.
func (p *pinRoom) set() fsm.OperatorSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sets) == 0 {
		return fsm.OperatorSet{}
	}
	return p.sets[len(p.sets)-1]
}

// at is the set with a reference, among those that this node has verified.
func (p *pinRoom) at(ref fsm.GovernRef) (fsm.OperatorSet, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, set := range p.sets {
		if set.Number == ref.Number {
			return set, set.Digest() == ref.Digest
		}
	}
	return fsm.OperatorSet{}, false
}

// err says why this node does not believe the operators that the log names, or
// nil.
func (p *pinRoom) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble
}

// start follows the govern records that were committed.
func (p *pinRoom) start() {
	changed := p.node.watch(fsm.TableGoverns)
	p.node.run(func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			if p.node.ceremonies.at(ctx, "govern committed") != nil {
				return
			}
			if err := p.follow(p.node.view()); err != nil {
				p.node.logger.Error("pins: the log names operators that this node does not believe: it releases no share for them", "reason", err)
			}
		}
	})
}

// follow verifies every later link from the set that is pinned.
func (p *pinRoom) follow(view *fsm.View) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.trouble = err }()
	if len(p.sets) == 0 {
		return nil
	}
	sets := p.sets
	for record := range view.Governs(sets[len(sets)-1].Number + 1) {
		next, err := fsm.VerifyGovern(sets[len(sets)-1], record)
		if err != nil {
			return fmt.Errorf("node: pins: operator set %d: %w", record.Number, err)
		}
		sets = append(sets[:len(sets):len(sets)], next)
	}
	if len(sets) == len(p.sets) {
		return nil
	}
	return p.save(sets)
}
