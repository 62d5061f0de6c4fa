package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// What a connection speaks, as ALPN names it. The API's are the registered
// names of HTTP.
const (
	protocolRaft   = "kc-raft/1"
	protocolPeer   = "kc-peer/1"
	protocolGossip = "kc-gossip/1"
	protocolJoin   = "kc-join/1"
	protocolHTTP2  = "h2"
	protocolHTTP1  = "http/1.1"
)

// serverTLS makes the configuration of a listener. Certificates are asked for
// and never verified by crypto/tls: x509 would ask about names, dates and
// authorities, and none of them decides here. Possession of the key is proven
// by the handshake itself.
func (s *Server) serverTLS(peers, api bool) *tls.Config {
	base := tls.Config{
		MinVersion: tls.VersionTLS13,
		// A resumed session would skip what is decided at a handshake.
		SessionTicketsDisabled: true,
	}
	forPeers := base.Clone()
	forPeers.GetCertificate = s.peerCertificate
	forPeers.NextProtos = []string{protocolRaft, protocolPeer, protocolGossip, protocolJoin}
	forPeers.ClientAuth = tls.RequireAnyClientCert
	forPeers.VerifyConnection = s.verifyCaller
	forAPI := base.Clone()
	forAPI.NextProtos = []string{protocolHTTP2, protocolHTTP1}
	forAPI.ClientAuth = tls.RequestClientCert
	forAPI.GetCertificate = s.apiCertificate

	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		wantsPeer := slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return strings.HasPrefix(p, "kc-") })
		switch {
		case wantsPeer && peers:
			return forPeers, nil
		case !wantsPeer && api:
			return forAPI, nil
		}
		return nil, fmt.Errorf("transport: %q is not spoken at this address", hello.SupportedProtos)
	}
	return &base
}

// verifyCaller turns strangers away inside the handshake, so that they are told
// by an alert; admit tells those who were members. It decides nothing for good: the caller's signature is checked
// after it, and admit asks the Directory again once the connection is tracked.
func (s *Server) verifyCaller(state tls.ConnectionState) error {
	if state.NegotiatedProtocol == protocolJoin {
		return nil
	}
	caller, ok := PeerFingerprint(state)
	if !ok || !s.config.Directory.IsMember(caller) && !s.config.Directory.WasMember(caller) {
		return fmt.Errorf("transport: %s from %s: %w", state.NegotiatedProtocol, caller, ErrNotMember)
	}
	return nil
}

// peerCertificate answers with the key that the caller expects.
func (s *Server) peerCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &s.keys.Load().called(hello.ServerName).certificate, nil
}

// apiCertificate answers with the ordinary certificate to those who ask for a
// name that it is for, and with the node's own to everybody else: whoever pins
// fingerprints asks for no name.
func (s *Server) apiCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.config.APICertificate; c != nil && hello.ServerName != "" {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return &s.keys.Load().current.certificate, nil
}

// clientTLS makes the configuration of a dial that must end at peer.
func clientTLS(identity *Identity, peer Peer, protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{identity.certificate},
		NextProtos:             []string{protocol},
		ServerName:             peer.Fingerprint.name(),
		SessionTicketsDisabled: true,
		// Not the absence of verification but its replacement: the key is
		// compared in VerifyConnection, which runs at every handshake.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			got, _ := PeerFingerprint(state)
			if got != peer.Fingerprint || got.IsZero() {
				return &FingerprintError{Addr: peer.Addr, Want: peer.Fingerprint, Got: got}
			}
			if state.NegotiatedProtocol != protocol {
				return fmt.Errorf("transport: %s does not speak %s", peer.Addr, protocol)
			}
			return nil
		},
	}
}

// dial connects to a member as a member, and returns once that has let it in. While
// this node's key changes, peers are met that know only one of its two.
func (s *Server) dial(ctx context.Context, peer Peer, protocol string) (*tls.Conn, error) {
	if !s.config.Directory.IsMember(peer.Fingerprint) {
		return nil, fmt.Errorf("transport: dial %s %s: %w", peer.Addr, peer.Fingerprint, ErrNotMember)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	keys := s.keys.Load()
	conn, err := s.dialAs(ctx, keys.current, peer, protocol)
	if keys.other != nil && errors.Is(err, ErrNotAdmitted) && ctx.Err() == nil {
		conn, err = s.dialAs(ctx, keys.other, peer, protocol)
	}
	return conn, err
}

func (s *Server) dialAs(ctx context.Context, identity *Identity, peer Peer, protocol string) (*tls.Conn, error) {
	raw, err := s.config.Network.Dial(ctx, peer.Addr)
	if err != nil {
		return nil, fmt.Errorf("transport: dial %s: %w", peer.Addr, err)
	}
	conn, ok := s.tracker.add(raw)
	if !ok {
		return nil, fmt.Errorf("transport: dial %s: %w", peer.Addr, ErrClosed)
	}
	secured := tls.Client(conn, clientTLS(identity, peer, protocol))
	err = secured.HandshakeContext(ctx)
	if err == nil {
		err = awaitWelcome(ctx, secured)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("transport: dial %s: %w", peer.Addr, err)
	}
	if !s.tracker.own(conn, peer.Fingerprint, member) {
		conn.Close()
		return nil, fmt.Errorf("transport: dial %s: too many connections to this peer", peer.Addr)
	}
	// Asked again after own: a removal in between has cut what it found.
	if !s.config.Directory.IsMember(peer.Fingerprint) {
		conn.Close()
		return nil, fmt.Errorf("transport: dial %s %s: %w", peer.Addr, peer.Fingerprint, ErrNotMember)
	}
	s.budget.hosts.add(hostOf(raw.RemoteAddr()))
	return secured, nil
}

// peerConn is a member's connection with TLS out of sight, so that net/http
// treats it as a plain stream and speaks what we say, not what ALPN says.
type peerConn struct {
	net.Conn
	peer Fingerprint
}
