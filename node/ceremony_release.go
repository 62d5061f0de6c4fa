package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

const (
	methodDeal    = "share.deal"
	methodRelease = "share.release"
)

// shareRequest is what a recipient asks a dealer or a holder.
type shareRequest struct {
	Ceremony fsm.CeremonyID `cbor:"1,keyasint"`
	Index    uint64         `cbor:"2,keyasint"` // applied at the recipient: the holder may lag
}

// shareAnswer is a share on its way: sealed to the recipient's key of this
// ceremony, and signed by the holder.
type shareAnswer struct {
	Sealed    []byte `cbor:"1,keyasint"` // dkek.Sealed.Encode
	Signature []byte `cbor:"2,keyasint"` // domain release, over SHA-256 of the transcript || Sealed
}

// transcript is what a share is sealed with: everything that makes this release
// what it is. Both sides build it from what each has checked itself.
func (a *approved) transcript(purpose fsm.ReleasePurpose, holder, recipient dkek.NodeID, about dkek.Hash) ([]byte, error) {
	return wireEncoder.Marshal(struct {
		Format      string             `cbor:"1,keyasint"`
		Cluster     dkek.ClusterID     `cbor:"2,keyasint"`
		Incarnation uint64             `cbor:"3,keyasint"`
		Ceremony    fsm.CeremonyID     `cbor:"4,keyasint"`
		Open        dkek.Hash          `cbor:"5,keyasint"`
		Approvals   dkek.Hash          `cbor:"6,keyasint"`
		Purpose     fsm.ReleasePurpose `cbor:"7,keyasint"`
		Holder      dkek.NodeID        `cbor:"8,keyasint"`
		Recipient   dkek.NodeID        `cbor:"9,keyasint"`
		Sharing     dkek.Hash          `cbor:"10,keyasint"` // the plan's, for a sub-share
	}{"keycustodian v1 release", a.open.Cluster, a.open.Incarnation, a.open.Ceremony, a.hash, a.by, purpose, holder, recipient, about})
}

func signedRelease(transcript, sealed []byte) []byte {
	hash := hashOf("keycustodian v1 transcript", transcript)
	return append(hash[:], sealed...)
}

// answerDeal hands a dealer's sub-share to a new holder.
func (c *ceremonyRoom) answerDeal(ctx context.Context, from *fsm.Member, request shareRequest) (shareAnswer, error) {
	return c.release(ctx, from, request, fsm.ReleaseDeal, func(a *approved, key dkek.PublicKey, info []byte) (dkek.Sealed, error) {
		dealt, err := c.hasDealt(c.node.view(), a)
		if err != nil {
			return dkek.Sealed{}, err
		}
		return dealt.SealFor(from.ID, key, info)
	})
}

// answerRelease hands this node's share to whoever puts it into a device.
func (c *ceremonyRoom) answerRelease(ctx context.Context, from *fsm.Member, request shareRequest) (shareAnswer, error) {
	return c.release(ctx, from, request, fsm.ReleaseGather, func(a *approved, key dkek.PublicKey, info []byte) (dkek.Sealed, error) {
		bundle, sharing, err := c.sourceShare(c.node.view(), a)
		if err != nil {
			return dkek.Sealed{}, err
		}
		defer bundle.Wipe()
		return bundle.SealRelease(sharing, key, info)
	})
}

// release is the one way in which anything secret leaves this node. The order is
// the promise: check, commit, record on disk, and only then seal.
func (c *ceremonyRoom) release(ctx context.Context, from *fsm.Member, request shareRequest, purpose fsm.ReleasePurpose, seal func(*approved, dkek.PublicKey, []byte) (dkek.Sealed, error)) (shareAnswer, error) {
	id := request.Ceremony
	c.catchUp(ctx, request.Index)
	a, to, err := c.mayRelease(c.node.view(), from, id, purpose)
	if err != nil {
		return shareAnswer{}, c.refused(from, id, err)
	}
	about, err := c.about(c.node.view(), a, purpose)
	if err != nil {
		return shareAnswer{}, c.refused(from, id, err)
	}
	note := ReleaseNote{
		Ceremony: id, Open: a.hash, Recipient: to.Node, Purpose: purpose, Key: to.KeyHash(),
		Epoch: a.open.Source.Epoch, Attempt: a.open.Source.Attempt, Time: c.node.now().UnixMilli(),
	}
	if a.open.Plan != nil {
		note.Epoch, note.Attempt = a.open.Plan.Epoch, a.open.Plan.Attempt
	}
	if a.open.Cites != nil {
		note.Cites = a.open.Cites.Ceremony
	}
	if note.Index, err = c.commitRelease(ctx, from, a, &note); err != nil {
		return shareAnswer{}, err
	}
	if err := c.at(ctx, "release committed"); err != nil {
		return shareAnswer{}, err
	}
	if err := c.node.cluster.Load().log.SyncMark(note.Index); err != nil {
		return shareAnswer{}, err
	}
	if err := c.node.shares.releases.record(note); err != nil {
		return shareAnswer{}, err
	}
	if err := c.at(ctx, "release recorded"); err != nil {
		return shareAnswer{}, err
	}
	info, err := a.transcript(purpose, c.node.id, to.Node.Node, about)
	if err != nil {
		return shareAnswer{}, err
	}
	sealed, err := seal(a, to.Key, info)
	if err != nil {
		return shareAnswer{}, err
	}
	encoded, err := sealed.Encode()
	if err != nil {
		return shareAnswer{}, err
	}
	signature, err := fsm.SignMessage(c.node.own.Load().signer, fsm.DomainRelease, signedRelease(info, encoded))
	c.node.logger.Info("ceremony: share released", "ceremony", id, "to", from.Name, "purpose", string(purpose))
	return shareAnswer{Sealed: encoded, Signature: signature}, err
}

// catchUp waits a moment for what the recipient has seen already. Whether it has
// come is not asked: the check that follows looks at what is here.
func (c *ceremonyRoom) catchUp(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	_ = c.node.cluster.Load().log.WaitApplied(ctx, index)
}

func (c *ceremonyRoom) refused(from *fsm.Member, id fsm.CeremonyID, err error) error {
	c.node.logger.Warn("ceremony: release refused", "ceremony", id, "asked by", from.Name, "reason", err)
	return err
}

// commitRelease has the release recorded by the cluster, and looks in this
// node's own state whether it was legal where it landed.
func (c *ceremonyRoom) commitRelease(ctx context.Context, from *fsm.Member, a *approved, note *ReleaseNote) (uint64, error) {
	_, err := c.node.do(ctx, &fsm.Release{
		Ceremony: note.Ceremony, Holder: c.node.id, Recipient: note.Recipient.Node, Purpose: note.Purpose, Key: note.Key,
	})
	if err != nil {
		return 0, err
	}
	view := c.node.view()
	row, ok := view.Ceremony(note.Ceremony)
	if !ok || row.Hash != a.hash || row.Outcome != fsm.OutcomeOpen {
		return 0, fmt.Errorf("node: ceremony %v is over", note.Ceremony)
	}
	for _, r := range row.Releases {
		if r.Holder == c.node.id && r.Recipient == note.Recipient.Node && r.Purpose == note.Purpose && r.Key == note.Key {
			return r.Index, nil
		}
	}
	return 0, fmt.Errorf("node: ceremony %v: the release is not recorded in this node's own state: %w", note.Ceremony, ErrOutcomeUnknown)
}

// mayRelease is the whole check of a request, from this node's own pins, its own
// clock and the exact bytes that operators signed. from is who is at the other
// end of the TLS connection.
func (c *ceremonyRoom) mayRelease(view *fsm.View, from *fsm.Member, id fsm.CeremonyID, purpose fsm.ReleasePurpose) (*approved, *fsm.RecipientStatement, error) {
	a, err := c.approved(view, id)
	if err != nil {
		return nil, nil, err
	}
	if a.row.Outcome != fsm.OutcomeOpen {
		return nil, nil, &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("ceremony %v is closed: %s", id, a.row.Outcome)}
	}
	own := c.node.now().UnixMilli()
	if now := max(view.Time(), own); now > a.open.Expires {
		return nil, nil, c.node.expired(view, "ceremony "+id.String(), a.open.Expires)
	}
	to, err := a.open.Recipient(from.ID)
	if err != nil {
		return nil, nil, err
	}
	if to.Node != from.Holder() {
		return nil, nil, &fsm.Error{Code: fsm.NotAllowed, Message: "the caller's key is not the one that was approved as recipient"}
	}
	if purpose == fsm.ReleaseDeal && (a.open.Plan == nil || a.open.Plan.DealerIndex(c.node.id) < 0 || a.open.Plan.HolderIndex(from.ID) < 0) {
		return nil, nil, &fsm.Error{Code: fsm.NotAllowed, Message: "this node deals nothing to the caller in this ceremony"}
	}
	if purpose == fsm.ReleaseDeal {
		if _, err := c.hasDealt(view, a); err != nil {
			return nil, nil, err
		}
	}
	return a, to, nil
}

// about is what the released share is of: the new plan for a sub-share, else the
// sharing that this node's own share file names.
func (c *ceremonyRoom) about(view *fsm.View, a *approved, purpose fsm.ReleasePurpose) (dkek.Hash, error) {
	if purpose == fsm.ReleaseDeal {
		return a.open.Plan.Hash(), nil
	}
	bundle, sharing, err := c.sourceShare(view, a)
	if err != nil {
		return dkek.Hash{}, err
	}
	bundle.Wipe()
	return sharing.Hash(), nil
}

// sourceShare is this node's share of the sharing that an approved ceremony
// moves: the source that the Open names, or the new one of a create or reshare,
// in which case the plan in the file is the very one that was approved. The
// caller wipes the bundle.
func (c *ceremonyRoom) sourceShare(view *fsm.View, a *approved) (*dkek.Bundle, *dkek.Sharing, error) {
	if a.open.Plan == nil {
		return c.node.shares.bundle(sharingName{a.open.Source.Epoch, a.open.Source.Attempt}, a.open.Source.Hash)
	}
	name := nameOf(a.open.Plan)
	row, ok := view.Sharing(name.epoch, name.attempt)
	if !ok || !row.Dealt() {
		return nil, nil, &fsm.Error{Code: fsm.WrongState, Message: "the new sharing is not dealt yet"}
	}
	bundle, sharing, err := c.node.shares.bundle(name, row.Hash)
	if err == nil && sharing.Plan.Hash() != a.open.Plan.Hash() {
		bundle.Wipe()
		return nil, nil, &fsm.Error{Code: fsm.NotAllowed, Message: "the share here is of another plan than was approved"}
	}
	return bundle, sharing, err
}

// isAnswer tells whether an error is what the other node said.
func isAnswer(err error) bool {
	var refused *fsm.Error
	var said *peerError
	return errors.As(err, &refused) || errors.As(err, &said)
}

// askForShare asks a dealer or holder for what it is to release, and checks that
// the answer comes from the key that the plan names.
func (n *Node) askForShare(ctx context.Context, view *fsm.View, method string, a *approved, holder dkek.Holder, transcript []byte) (*dkek.Sealed, error) {
	member, ok := view.Member(holder.Node)
	if !ok || !rotated(view, holder.Node, holder.Fingerprint, fsm.FingerprintOf(member.Public)) {
		return nil, fmt.Errorf("node: holder %v is not a member with the key of the plan, or one that followed it", holder.Node)
	}
	var answer shareAnswer
	request := shareRequest{Ceremony: a.open.Ceremony, Index: view.Index()}
	err := n.ceremonies.ask(ctx, holder.Node, method, request, &answer)
	if err != nil && !isAnswer(err) {
		// A connection from before a restart: the next one is new.
		err = n.ceremonies.ask(ctx, holder.Node, method, request, &answer)
	}
	if err != nil {
		return nil, err
	}
	if err := fsm.VerifyMessage(member.Public, fsm.DomainRelease, signedRelease(transcript, answer.Sealed), answer.Signature); err != nil {
		return nil, fmt.Errorf("node: what holder %s sent is not signed for this release: %w", member.Name, err)
	}
	return dkek.ParseSealed(answer.Sealed)
}
