package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// tendKeyEvery is how often a rotation that is under way is looked at, beside
// every change of the table of members.
const tendKeyEvery = time.Second

const methodKnownKey = "member.known-key"

// knownKey is the caller's key as the answering node has it written down.
type knownKey struct {
	Fingerprint dkek.Fingerprint `cbor:"1,keyasint"`
}

// RotateNodeKey gives this node a new key pair and returns its fingerprint. When it
// returns nil the others let in the new key alone, each from when it has applied
// the change; the former one stays here until every member has written the new one
// down, for those who were away. It is refused while a ceremony involves this node
// and while the rotation before is not known to everybody. After an error that
// wraps [ErrOutcomeUnknown], and after a crash, the node finishes it by itself;
// after any other, nothing has changed.
func (n *Node) RotateNodeKey(ctx context.Context) (dkek.Fingerprint, error) {
	if err := n.Sealed(); err != nil {
		return dkek.Fingerprint{}, err
	}
	if n.cluster.Load() == nil {
		return dkek.Fingerprint{}, ErrNoCluster
	}
	n.rotating.Lock()
	defer n.rotating.Unlock()
	if who := n.identityNow(); who.former != nil {
		if err := n.forgetFormer(ctx); err != nil {
			return dkek.Fingerprint{}, &fsm.Error{Code: fsm.WrongState, Message: "the key was rotated, and not every member knows it yet: bring it back or remove it: " + err.Error()}
		}
	}
	fresh := n.identityNow().next == nil
	if fresh {
		next, err := drawKey()
		if err != nil {
			return dkek.Fingerprint{}, err
		}
		if err := n.changeIdentity(func(who *identity) bool { who.next = next; return true }); err != nil {
			return dkek.Fingerprint{}, fmt.Errorf("node: rotate key: nothing was changed: %w", err)
		}
	}
	if err := n.ceremonies.at(ctx, "next key written"); err != nil {
		return dkek.Fingerprint{}, err
	}
	err := n.finishRotation(ctx)
	if err != nil && fresh && !errors.Is(err, ErrOutcomeUnknown) && ctx.Err() == nil {
		err = errors.Join(err, n.changeIdentity(func(who *identity) bool { who.next = nil; return true }))
	}
	if err != nil {
		return dkek.Fingerprint{}, fmt.Errorf("node: rotate key: %w", err)
	}
	return n.Fingerprint(), nil
}

// finishRotation commits the change to the next key, unless that has happened,
// and takes it on. The caller holds rotating.
func (n *Node) finishRotation(ctx context.Context) error {
	view, err := n.consistent(ctx)
	if err != nil {
		return err
	}
	if err := n.adoptKey(view); err != nil || n.identityNow().next == nil {
		return err
	}
	who := n.identityNow()
	signed, err := fsm.SignStatement(who.key.signer, fsm.DomainRotate, &fsm.RotateStatement{
		Cluster: n.Cluster(), Node: n.id, Old: who.key.fingerprint, Public: who.next.spki,
	})
	if err != nil {
		return err
	}
	possession, err := fsm.SignMessage(who.next.signer, fsm.DomainRotate, signed.Statement)
	if err != nil {
		return err
	}
	if _, err := n.do(ctx, &fsm.MemberRotateKey{Signed: signed, Possession: possession}); err != nil {
		return err
	}
	if err := n.ceremonies.at(ctx, "rotation committed"); err != nil {
		return errors.Join(ErrOutcomeUnknown, err)
	}
	return n.adoptKey(n.view())
}

// adoptKey takes the next key on where the table of members names it: the table
// decides which of its keys is the node's.
func (n *Node) adoptKey(view *fsm.View) error {
	row, ok := view.Member(n.id)
	if !ok {
		return nil
	}
	return n.changeIdentity(func(who *identity) bool {
		if who.next == nil || who.next.fingerprint != row.Fingerprint {
			return false
		}
		who.past = append(who.past[:len(who.past):len(who.past)], who.key.spki)
		who.former, who.key, who.next = who.key, who.next, nil
		n.logger.Info("the node's key is rotated", "fingerprint", who.key.fingerprint)
		return true
	})
}

// forgetFormer drops the former key once every member has the present one written
// down; it says who has not.
func (n *Node) forgetFormer(ctx context.Context) error {
	view, err := n.consistent(ctx) // a state that was just started knows of nobody who is missing
	if err != nil {
		return err
	}
	own := n.own.Load().fingerprint
	var missing []string
	for m := range view.Members() {
		if m.ID == n.id {
			continue
		}
		var known knownKey
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := n.call(call, m.ID, methodKnownKey, nothing{}, &known)
		cancel()
		if err != nil || known.Fingerprint != own {
			missing = append(missing, m.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not known by %s", strings.Join(missing, ", "))
	}
	return n.changeIdentity(func(who *identity) bool {
		changed := who.former != nil
		who.former = nil
		return changed
	})
}

// startKey finishes the rotation that a process before this one began, takes on
// what the table says, and drops the former key when it may go.
func (n *Node) startKey() {
	handle(n, methodKnownKey, func(_ context.Context, from *fsm.Member, _ nothing) (knownKey, error) {
		return knownKey{n.directory.writtenKey(from.ID)}, nil
	})
	changed := n.watch(fsm.TableMembers)
	n.run(func(ctx context.Context) {
		ticker := time.NewTicker(tendKeyEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-ticker.C:
			}
			if err := n.tendKey(ctx); err != nil && ctx.Err() == nil {
				n.logger.Debug("the rotation of the node's key is not finished yet", "reason", err)
			}
		}
	})
}

func (n *Node) tendKey(ctx context.Context) error {
	if who := n.identityNow(); who.next == nil && who.former == nil {
		return nil
	}
	if err := n.adoptKey(n.view()); err != nil {
		return err
	}
	if !n.rotating.TryLock() {
		return nil // RotateNodeKey is at it
	}
	defer n.rotating.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	if n.identityNow().next != nil {
		return n.finishRotation(ctx)
	}
	return n.forgetFormer(ctx)
}

// rotated tells whether a node's key became another one by rotations each of which
// the key before signed. The state is no authority for that; the signatures are.
func rotated(view *fsm.View, id dkek.NodeID, from, to dkek.Fingerprint) bool {
	publics := map[dkek.Fingerprint][]byte{}
	for c := range view.MemberChanges(0) {
		if from == to {
			break
		}
		if c.Node != id {
			continue
		}
		if c.Action == fsm.ChangeRotate && c.Signed != nil {
			s, err := fsm.VerifyRotation(publics[from], *c.Signed)
			if err == nil && s.Old == from && s.Node == id && bytes.Equal(s.Public, c.Public) {
				from = fsm.FingerprintOf(s.Public)
			}
		}
		publics[c.Fingerprint] = c.Public
	}
	return from == to
}
