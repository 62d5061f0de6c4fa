package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
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
	own := c.node.own.Load()
	statement := fsm.RecipientStatement{
		Cluster: c.node.Cluster(), Incarnation: q.Incarnation, Ceremony: q.Ceremony, Epoch: q.Epoch, Attempt: q.Attempt,
		Node: own.holder(c.node.id), Public: own.spki,
		DeviceKind: "soft", DeviceSerial: "scratch",
	}
	if !q.Scratch {
		info, err := c.node.config.Device.Info(ctx)
		if err != nil {
			return fsm.Signed{}, fmt.Errorf("node: the device of %s does not answer: %w", c.node.config.Name, err)
		}
		if err := c.wantsDKEK(ctx); err != nil {
			return fsm.Signed{}, err
		}
		statement.DeviceKind, statement.DeviceSerial = info.Kind, info.Serial
		if len(info.Certificate) <= fsm.MaxCertificate {
			statement.Certificate = info.Certificate
		}
	}
	c.forgetUnopened(c.node.view())
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.keys[q.Ceremony]; k != nil && k.node == own.holder(c.node.id) {
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
	entry, err := fsm.SignStatement(own.signer, fsm.DomainRecipient, &statement)
	if err != nil {
		key.Wipe()
		return fsm.Signed{}, err
	}
	if k := c.keys[q.Ceremony]; k != nil { // signed before this node's key was rotated, and never opened
		k.key.Wipe()
	}
	c.keys[q.Ceremony] = &recipientKey{key: key, entry: entry, node: own.holder(c.node.id), made: c.node.now()}
	return entry, nil
}

// wantsDKEK refuses shares for a device that has the cluster's DKEK: each one
// that travels is a risk, and here there would be nothing to gain. One in which
// nobody can log in is refused too: it may have the DKEK and every key, and could
// not be initialised, as nobody can look into it. An open provision whose device
// has been filled meanwhile does not come here: its runner goes on by itself.
func (c *ceremonyRoom) wantsDKEK(ctx context.Context) error {
	proven, ok := c.node.view().Proven()
	if !ok {
		return nil
	}
	if err := c.node.locked(ctx); err != nil {
		return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf(
			"the device of %s is locked, and may hold all that it held: on that node, nodectl device enter pin, or device pin unblock; only where PIN and SO-PIN are lost: stop the node, "+
				"erase the device by hand (delete a software device's file, reset a token with its own tool), start, and replace again (%.200s)", c.node.config.Name, api.Plain(err.Error()))}
	}
	if !c.node.hasDKEK(ctx, proven.KCV) {
		return nil
	}
	return &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf(
		"the device of %s has the DKEK already: there is nothing to do; to start it afresh, wipe it first: nodectl device wipe --node %[1]s; to drop a lost node's share: nodectl dkek reshare", c.node.config.Name)}
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
