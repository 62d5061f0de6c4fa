package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// wordLasts is how long what an operator signs about a device can be used: for
// the clocks of this machine and of the node, which are rarely the same.
const wordLasts = 15 * time.Minute

// device asks a node about its device, which is to be changed at the caller's
// word. Which node is meant comes from the cluster file and not from the one
// that answers, except on a node's own socket.
func (s *session) device(ctx context.Context, node string) (api.DeviceDetails, error) {
	var d api.DeviceDetails
	if s.signer == nil {
		return d, s.do(ctx, api.DeviceInfo, api.DeviceQuery{Node: node}, &d)
	}
	m, err := s.member(ctx, node)
	if err != nil {
		return d, err
	}
	if err := s.do(ctx, api.DeviceInfo, api.DeviceQuery{Node: m.ID}, &d); err != nil {
		return d, err
	}
	if d.Node != m.ID {
		return d, fmt.Errorf("asked about the device of %s, the node speaks of another's", m.Name)
	}
	return d, nil
}

// word signs what is to be done to a device with the caller's key, so that the
// node whose device it is need not believe the one that is asked. A node's own
// socket wants none.
func (s *session) word(ctx context.Context, d api.DeviceDetails, statement fsm.DeviceStatement) (api.OperatorWord, error) {
	var word api.OperatorWord
	if s.signer == nil {
		return word, nil
	}
	var err error
	if statement.Cluster, err = parseClusterID(s.file.Cluster.ID); err != nil {
		return word, err
	}
	if n, err := hex.Decode(statement.Node[:], []byte(d.Node)); err != nil || n != len(statement.Node) {
		return word, fmt.Errorf("node ID %.40q is not 32 hexadecimal digits", d.Node)
	}
	rand.Read(statement.Request[:])
	statement.Incarnation, statement.Expires = s.file.Cluster.Incarnation, s.wordStart(ctx).Add(wordLasts).UnixMilli()
	statement.DeviceKind, statement.DeviceSerial = d.Kind, d.Serial
	signed, err := fsm.SignStatement(s.signer, fsm.DomainDevice, &statement)
	if err != nil {
		return word, err
	}
	word.Statement, word.Signature = signed.Statement, signed.Signature
	word.Operator, err = signerFingerprint(s.signer)
	return word, err
}
