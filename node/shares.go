package node

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// shareFolder holds one file for each share of this node, "EPOCH-ATTEMPT" in
// decimal, in dkek's share file format.
const shareFolder = "shares"

// shareRoom keeps this node's shares on disk and knows how they are. It hands
// none out: that is the release check's.
type shareRoom struct {
	node     *Node
	box      *secret.Box
	former   *secret.Box // while shares are sealed anew: what some still open under
	releases *releaseRoom

	mu   sync.Mutex // the files, held and bad
	held map[sharingName]heldShare
	bad  map[sharingName]error // proofs that are damaged
	wake chan struct{}         // asks for a look; buffered 1

	verified sync.Map // sharingName to *dkek.Sharing: proofs that were read and verify
	reported reportedShares
}

// sharingName is a sharing's epoch and attempt.
type sharingName struct{ epoch, attempt uint64 }

func (s sharingName) String() string { return fmt.Sprintf("%d-%d", s.epoch, s.attempt) }
func (s sharingName) file() string   { return shareFolder + "/" + s.String() }

func nameOf(plan *dkek.Plan) sharingName { return sharingName{plan.Epoch, plan.Attempt} }

func parseSharingName(file string) (sharingName, bool) {
	epoch, attempt, found := strings.Cut(file[strings.LastIndexByte(file, '/')+1:], "-")
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	a, err2 := strconv.ParseUint(attempt, 10, 64)
	name := sharingName{e, a}
	return name, found && err1 == nil && err2 == nil && strings.HasSuffix(file, "/"+name.String())
}

// heldShare is what the last look at a share's file found.
type heldShare struct {
	sharing *dkek.Sharing // nil where err is not
	err     error
}

// newShareRoom unseals and checks every share.
func newShareRoom(n *Node) (*shareRoom, error) {
	box, err := n.box(dkek.SealPurpose)
	if err != nil {
		return nil, err
	}
	s := &shareRoom{node: n, box: box, wake: make(chan struct{}, 1)}
	if s.releases, err = newReleaseRoom(n); err != nil {
		return nil, err
	}
	if err := s.readReported(); err != nil {
		return nil, err
	}
	return s, s.check()
}

// check unseals every share and compares it with its commitments, and reads every
// proof. One that is bad is remembered as such and never deleted for it.
func (s *shareRoom) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkProofs(); err != nil {
		return err
	}
	files, err := s.node.files.list(shareFolder)
	if err != nil {
		return fmt.Errorf("node: shares: %w", err)
	}
	s.held = make(map[sharingName]heldShare)
	for _, file := range files {
		name, ok := parseSharingName(file)
		if !ok {
			s.node.logger.Warn("shares: a file that is no share lies among them", "file", file)
			continue
		}
		bundle, sharing, err := s.open(name)
		if err != nil {
			s.node.logger.Error("shares: a share is bad: reshare while the others are good", "share", name, "reason", err)
		} else {
			bundle.Wipe()
		}
		s.held[name] = heldShare{sharing, err}
	}
	return nil
}

// open reads and unseals a share; the caller wipes it.
func (s *shareRoom) open(name sharingName) (*dkek.Bundle, *dkek.Sharing, error) {
	content, err := s.node.files.read(name.file())
	if err != nil {
		return nil, nil, fmt.Errorf("node: share %s: %w", name, err)
	}
	file, err := dkek.ParseShareFile(content)
	if err != nil {
		return nil, nil, fmt.Errorf("node: share %s: %w", name, err)
	}
	plan := &file.Sharing.Plan
	if cluster := s.node.Cluster(); file.Holder != s.node.id || nameOf(plan) != name || cluster != (dkek.ClusterID{}) && plan.Cluster != cluster {
		return nil, nil, fmt.Errorf("node: share %s: the file is of cluster %v, holder %v, epoch %d, attempt %d: put each share back to its holder", name, plan.Cluster, file.Holder, plan.Epoch, plan.Attempt)
	}
	bundle, err := file.Open(s.box)
	if err != nil && s.former != nil {
		bundle, err = file.Open(s.former)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("node: share %s: %w", name, err)
	}
	return bundle, file.Sharing, nil
}

// bundle returns this node's share of the sharing with this hash; the caller
// wipes it.
func (s *shareRoom) bundle(name sharingName, hash dkek.Hash) (*dkek.Bundle, *dkek.Sharing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bundle, sharing, err := s.open(name)
	if err == nil && sharing.Hash() != hash {
		bundle.Wipe()
		err = &dkek.ShareError{Op: "open share file", Holder: s.node.id, Reason: dkek.WrongSharing}
	}
	if err != nil {
		s.look()
		return nil, nil, err
	}
	return bundle, sharing, nil
}

// keep stores a share. When it returns nil the file is synced and renamed, its
// folder is synced, and what was read back has been unsealed and compared.
func (s *shareRoom) keep(sharing *dkek.Sharing, bundle *dkek.Bundle) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := nameOf(&sharing.Plan)
	for other := range s.held {
		if other.epoch == name.epoch && other != name {
			return fmt.Errorf("node: share %s: share %s of the same epoch is here: a node keeps one share of an epoch", name, other)
		}
	}
	content, err := bundle.SealAtRest(s.box, sharing)
	if err != nil {
		return err
	}
	if err := s.node.files.write(name.file(), content); err != nil {
		return fmt.Errorf("node: share %s: %w", name, err)
	}
	back, err := s.node.files.read(name.file())
	if err == nil && !bytes.Equal(back, content) {
		err = errors.New("what was read back is not what was written: the disk is not to be trusted")
	}
	if err != nil {
		return fmt.Errorf("node: share %s: %w", name, err)
	}
	again, err := dkek.OpenAtRest(s.box, back, sharing, s.node.id)
	if err != nil {
		return fmt.Errorf("node: share %s: read back: %w", name, err)
	}
	again.Wipe()
	s.held[name] = heldShare{sharing: sharing}
	return nil
}

// erase deletes a share's file. Whether it may go, the caller has checked.
func (s *shareRoom) erase(name sharingName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(name)
}

// remove is erase; s.mu is held.
func (s *shareRoom) remove(name sharingName) error {
	if err := s.node.files.remove(name.file()); err != nil {
		return fmt.Errorf("node: share %s: erase: %w", name, err)
	}
	delete(s.held, name)
	return nil
}

// shares are the shares that are here and how they are.
func (s *shareRoom) shares() map[sharingName]heldShare {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[sharingName]heldShare, len(s.held))
	for name, held := range s.held {
		out[name] = held
	}
	return out
}

// look asks for a look at the shares soon.
func (s *shareRoom) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
