package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/transport"
)

// nodeKey opens the key that a node has in its data folder, as whoever has the
// folder and the seal secret can.
func (n *process) nodeKey() (id dkek.NodeID, key ed25519.PrivateKey) {
	n.t.Helper()
	var record struct {
		Node   string `json:"node"`
		Sealed []byte `json:"sealed_key"`
	}
	content, err := os.ReadFile(filepath.Join(n.dir, "data", "identity"))
	if err == nil {
		err = json.Unmarshal(content, &record)
	}
	if err == nil {
		_, err = hex.Decode(id[:], []byte(record.Node))
	}
	seal, sealErr := os.ReadFile(n.seal)
	if err := errors.Join(err, sealErr); err != nil {
		n.t.Fatal(err)
	}
	opened := secret.Take(seal)
	defer opened.Wipe()
	box, err := secret.NewBox(opened, "node key")
	if err != nil {
		n.t.Fatal(err)
	}
	seed, err := box.Open(record.Sealed, id[:])
	if err != nil {
		n.t.Fatal(err)
	}
	return id, ed25519.NewKeyFromSeed(seed)
}

// certificate is a self-signed one around a key, which is all that TLS wants here.
func certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// knock opens a connection to a node as somebody, nobody with a nil key, that asks
// to speak a protocol of members. It returns the byte with which the node greets:
// 1 for a member, 2 for a former one. An error is a refusal, in the handshake or
// after it.
func knock(ctx context.Context, address, protocol string, key ed25519.PrivateKey) (*tls.Conn, byte, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, InsecureSkipVerify: true}
	if key != nil {
		own, err := certificate(key)
		if err != nil {
			return nil, 0, err
		}
		settings.Certificates = []tls.Certificate{own}
	}
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: settleTime}, Config: settings}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, 0, err
	}
	conn.SetDeadline(time.Now().Add(settleTime))
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		conn.Close()
		return nil, 0, fmt.Errorf("no greeting: %w", err)
	}
	return conn.(*tls.Conn), first[0], nil
}

// impostor has a node's key and speaks to the others what it likes. It keeps no
// state and obeys no rule.
type impostor struct {
	t       testing.TB
	id      dkek.NodeID
	key     ed25519.PrivateKey
	server  *transport.Server
	members acquaintances
}

// acquaintances are the members that an impostor calls, by address. Nobody calls it.
type acquaintances map[string]transport.Fingerprint

func (acquaintances) IsMember(transport.Fingerprint) bool  { return true }
func (acquaintances) IsClient(transport.Fingerprint) bool  { return false }
func (acquaintances) WasMember(transport.Fingerprint) bool { return false }

func (a acquaintances) MemberAt(addr string) (transport.Fingerprint, bool) {
	f, ok := a[addr]
	return f, ok
}

// impersonate takes a node's key, and an address.
func (p *processes) impersonate(n *process, listen string) *impostor {
	p.t.Helper()
	i := &impostor{t: p.t, members: acquaintances{}}
	i.id, i.key = n.nodeKey()
	for _, other := range p.nodes {
		_, key := other.nodeKey()
		f, err := transport.FingerprintOf(key.Public())
		if err != nil {
			p.t.Fatal(err)
		}
		i.members[other.addr] = f
	}
	own, err := transport.NewIdentity(i.key)
	if err == nil {
		i.server, err = transport.Listen(transport.Config{Identity: own, Listen: listen, Directory: i.members})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { i.server.Close() })
	return i
}

// call asks a node as a member. A request is a struct of docs/format.md's fields.
func (i *impostor) call(ctx context.Context, to *process, method string, request, answer any) error {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return err
	}
	body, err := mode.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	body, err = i.server.Peers().Call(ctx, transport.Peer{Fingerprint: i.members[to.addr], Addr: to.addr}, method, body)
	if err != nil {
		return err
	}
	return cbor.Unmarshal(body, answer)
}

// propose has a command written at somebody's word, which the proposing member is
// believed to pass on. It asks one node after the other until one that leads has
// answered, and returns a refusal.
func (i *impostor) propose(nodes []*process, who dkek.Fingerprint, body fsm.Body) (refusal error) {
	i.t.Helper()
	command := fsm.Command{Header: fsm.Header{Actor: fsm.Actor{Who: who, Node: i.id}}, Body: body}
	rand.Read(command.Request[:])
	encoded, err := fsm.Encode(command)
	if err != nil {
		i.t.Fatal(err)
	}
	question := struct {
		Command []byte `cbor:"1,keyasint"`
	}{encoded}
	eventually(i.t, "a leader takes the command", func(ctx context.Context) error {
		var tries []error
		for _, n := range nodes {
			var answer struct {
				Err *fsm.Error `cbor:"2,keyasint,omitempty"`
			}
			err := i.call(ctx, n, "log.propose", question, &answer)
			var said *transport.RemoteError
			switch {
			case err == nil && answer.Err != nil:
				refusal = answer.Err
				return nil
			case err == nil:
				return nil
			case errors.As(err, &said) && slices.Contains(fsm.Codes(), fsm.Code(said.Code)):
				refusal = &fsm.Error{Code: fsm.Code(said.Code), Message: said.Message}
				return nil
			}
			tries = append(tries, fmt.Errorf("%s: %w", n.name, err))
		}
		return errors.Join(tries...)
	})
	return refusal
}
