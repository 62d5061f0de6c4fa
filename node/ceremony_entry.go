package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

const (
	methodPrepare    = "ceremony.prepare"
	methodShareState = "share.state"
)

// prepareRequest asks a recipient for its entry in an Open.
type prepareRequest struct {
	Ceremony    fsm.CeremonyID `cbor:"1,keyasint"`
	Incarnation uint64         `cbor:"2,keyasint"`
	Epoch       uint64         `cbor:"3,keyasint"`
	Attempt     uint64         `cbor:"4,keyasint"`
	Scratch     bool           `cbor:"5,keyasint,omitempty"` // a scratch device, not the node's own
}

type prepareAnswer struct {
	Entry fsm.Signed `cbor:"1,keyasint"` // an fsm.RecipientStatement
}

// answerPrepare makes a key pair for one ceremony and signs its public half with
// the node's own key. Asked again, it answers the same.
func (c *ceremonyRoom) answerPrepare(ctx context.Context, _ *fsm.Member, q prepareRequest) (prepareAnswer, error) {
	entry, err := c.prepare(ctx, q)
	return prepareAnswer{entry}, err
}

func (c *ceremonyRoom) prepare(ctx context.Context, q prepareRequest) (fsm.Signed, error) {
	statement := fsm.RecipientStatement{
		Cluster: c.node.Cluster(), Incarnation: q.Incarnation, Ceremony: q.Ceremony, Epoch: q.Epoch, Attempt: q.Attempt,
		Node: dkek.Holder{Node: c.node.id, Fingerprint: c.node.fingerprint}, Public: c.node.spki,
		DeviceKind: "soft", DeviceSerial: "scratch",
	}
	if !q.Scratch {
		info, err := c.node.config.Device.Info(ctx)
		if err != nil {
			return fsm.Signed{}, fmt.Errorf("node: the device of %s does not answer: %w", c.node.config.Name, err)
		}
		statement.DeviceKind, statement.DeviceSerial = info.Kind, info.Serial
		if len(info.Certificate) <= fsm.MaxCertificate {
			statement.Certificate = info.Certificate
		}
	}
	c.forgetUnopened(c.node.view())
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.keys[q.Ceremony]; k != nil {
		return k.entry, nil
	}
	if _, exists := c.node.view().Ceremony(q.Ceremony); exists {
		return fsm.Signed{}, &fsm.Error{Code: fsm.Exists, Message: "this ceremony is open already"}
	}
	if len(c.keys) >= maxPrepared {
		return fsm.Signed{}, &fsm.Error{Code: fsm.TooMany, Message: "too many ceremonies are being prepared: try again in ten minutes"}
	}
	key, err := dkek.NewRecipientKey(dkek.Hybrid())
	if err != nil {
		return fsm.Signed{}, err
	}
	statement.Key = key.Public()
	entry, err := fsm.SignStatement(c.node.key, fsm.DomainRecipient, &statement)
	if err != nil {
		key.Wipe()
		return fsm.Signed{}, err
	}
	c.keys[q.Ceremony] = &recipientKey{key: key, entry: entry, made: c.node.now()}
	return entry, nil
}

// entries asks every recipient for its entry, in the order given.
func (c *ceremonyRoom) entries(ctx context.Context, q prepareRequest, recipients []dkek.NodeID) ([]fsm.Signed, error) {
	var entries []fsm.Signed
	for _, id := range recipients {
		var answer prepareAnswer
		var err error
		if id == c.node.id {
			answer.Entry, err = c.prepare(ctx, q)
		} else {
			err = c.ask(ctx, id, methodPrepare, q, &answer)
		}
		if err != nil {
			return nil, fmt.Errorf("node: open ceremony: %s cannot take part: %w", c.node.nameOf(c.node.view(), id), err)
		}
		entries = append(entries, answer.Entry)
	}
	return entries, nil
}

// ask is one question with the patience of a step.
func (c *ceremonyRoom) ask(ctx context.Context, id dkek.NodeID, method string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	return c.node.call(ctx, id, method, question, answer)
}

// shareStateRequest asks a holder whether it can give its share now.
type shareStateRequest struct {
	Epoch   uint64    `cbor:"1,keyasint"`
	Attempt uint64    `cbor:"2,keyasint"`
	Sharing dkek.Hash `cbor:"3,keyasint"`
}

type shareStateAnswer struct {
	OK bool `cbor:"1,keyasint"`
}

// answerShareState unseals the share to see how it is.
func (c *ceremonyRoom) answerShareState(_ context.Context, _ *fsm.Member, q shareStateRequest) (shareStateAnswer, error) {
	return shareStateAnswer{OK: c.shareState(q)}, nil
}

func (c *ceremonyRoom) shareState(q shareStateRequest) bool {
	bundle, _, err := c.node.shares.bundle(sharingName{q.Epoch, q.Attempt}, q.Sharing)
	if err != nil {
		return false
	}
	bundle.Wipe()
	return true
}

// healthy returns the holders of a sharing that can give their share now.
func (c *ceremonyRoom) healthy(ctx context.Context, sharing *fsm.SharingRow) []dkek.Holder {
	q := shareStateRequest{sharing.Plan.Epoch, sharing.Plan.Attempt, sharing.Hash}
	good := make([]bool, len(sharing.Plan.Holders))
	done := make(chan struct{})
	for i, h := range sharing.Plan.Holders {
		go func() {
			defer func() { done <- struct{}{} }()
			if h.Node == c.node.id {
				good[i] = c.shareState(q)
				return
			}
			var answer shareStateAnswer
			good[i] = c.ask(ctx, h.Node, methodShareState, q, &answer) == nil && answer.OK
		}()
	}
	for range sharing.Plan.Holders {
		<-done
	}
	var holders []dkek.Holder
	for i, h := range sharing.Plan.Holders {
		if good[i] {
			holders = append(holders, h)
		}
	}
	return holders
}
