package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// TokenSecretSize is the length of a join token's secret in bytes.
	TokenSecretSize = 32

	tokenInfo    = "keycustodian join token v1"
	joinExporter = "EXPORTER-keycustodian-join"
	joinDomain   = "keycustodian join proof v1\x00"
)

// TokenKey derives a join token's signing key from its 32-byte secret. The log
// keeps only the TokenFingerprint, so whoever reads the log cannot join.
func TokenKey(secret []byte) (ed25519.PrivateKey, error) {
	if len(secret) != TokenSecretSize {
		return nil, fmt.Errorf("transport: token: secret of %d bytes, want %d", len(secret), TokenSecretSize)
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, tokenInfo, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("transport: token: %w", err)
	}
	defer clear(seed)
	return ed25519.NewKeyFromSeed(seed), nil
}

// TokenFingerprint returns what stands for a token in the log: the fingerprint
// of its public key.
func TokenFingerprint(secret []byte) (Fingerprint, error) {
	key, err := TokenKey(secret)
	if err != nil {
		return Fingerprint{}, err
	}
	defer clear(key)
	return FingerprintOf(key.Public())
}

// JoinRequest is a joiner's request after its proof was verified: Peer holds
// the private key of PeerPublicKey, and holds the token's. That the token
// exists, is unused and has not expired is for the handler to check.
type JoinRequest struct {
	Peer          Fingerprint
	PeerPublicKey []byte // DER SubjectPublicKeyInfo
	Token         Fingerprint
	Body          []byte // the joiner's, at most MaxBody bytes
}

// JoinHandler answers a joiner with at most MaxBody bytes.
type JoinHandler func(ctx context.Context, request JoinRequest) ([]byte, error)

// HandleJoin sets who answers joiners; nil, as at the start, refuses them.
func (s *Server) HandleJoin(handler JoinHandler) {
	if handler == nil {
		s.join.Store(nil)
		return
	}
	s.join.Store(&handler)
}

// JoinAttempt is one try of a node that is no member yet.
type JoinAttempt struct {
	Network  Network   // nil means TCP()
	Identity *Identity // the joiner's, under which it will be a member
	Server   Peer      // a member, as the token names it
	Secret   []byte    // the token's, TokenSecretSize bytes
	Body     []byte    // the request, at most MaxBody bytes
}

// joinRequest and joinAnswer are the two frames of a join.
type joinRequest struct {
	Token     []byte `cbor:"1,keyasint"` // Ed25519 public key, 32 bytes
	Signature []byte `cbor:"2,keyasint"` // 64 bytes over joinProof
	Body      []byte `cbor:"3,keyasint"`
}

type joinAnswer struct {
	Code    string `cbor:"1,keyasint"` // empty: it went well
	Message string `cbor:"2,keyasint"`
	Body    []byte `cbor:"3,keyasint"`
}

// joinProof is what the token's key signs. exported, 32 bytes of the TLS
// exporter, binds it to this session, so it is worth nothing on another; the
// exporter does not cover the client's certificate, so the joiner's fingerprint
// is added.
func joinProof(exported []byte, joiner Fingerprint, body []byte) []byte {
	digest := sha256.Sum256(body)
	return slices.Concat([]byte(joinDomain), exported, joiner[:], digest[:])
}

func exportJoin(conn *tls.Conn) ([]byte, error) {
	state := conn.ConnectionState()
	return state.ExportKeyingMaterial(joinExporter, nil, 32)
}

// Join asks a member for admission and returns its answer. The server's key is
// checked before anything is sent, and the secret is never sent. A
// *RemoteError is the member's refusal, a *FingerprintError a wrong server.
func Join(ctx context.Context, attempt JoinAttempt) ([]byte, error) {
	answer, err := join(ctx, attempt)
	var remote *RemoteError
	if err != nil && !errors.As(err, &remote) {
		return nil, fmt.Errorf("transport: join at %s: %w", attempt.Server.Addr, err)
	}
	return answer, err
}

func join(ctx context.Context, attempt JoinAttempt) ([]byte, error) {
	if len(attempt.Body) > MaxBody {
		return nil, ErrTooLarge
	}
	key, err := TokenKey(attempt.Secret)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	network := attempt.Network
	if network == nil {
		network = TCP()
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := network.Dial(dialing, attempt.Server.Addr)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn := tls.Client(raw, clientTLS(attempt.Identity, attempt.Server, protocolJoin))
	if err := conn.HandshakeContext(dialing); err != nil {
		return nil, err
	}
	exported, err := exportJoin(conn)
	if err != nil {
		return nil, err
	}
	proof := joinProof(exported, attempt.Identity.fingerprint, attempt.Body)
	request, err := encode(joinRequest{
		Token: key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(key, proof), Body: attempt.Body,
	})
	if err != nil {
		return nil, err
	}
	if err := writeFrame(conn, request); err != nil {
		return nil, err
	}
	frame, err := readFrame(conn, maxJoinFrame+maxErrorFrame)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return parseJoinAnswer(frame)
}

func parseJoinAnswer(frame []byte) ([]byte, error) {
	var answer joinAnswer
	if err := strict().Unmarshal(frame, &answer); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	switch {
	case len(answer.Body) > MaxBody || len(answer.Message) > maxErrorMessage:
		return nil, errors.New("decode answer: out of bounds")
	case answer.Code == "":
		return answer.Body, nil
	case !validName(answer.Code, maxErrorCode):
		return nil, errors.New("decode answer: no error code")
	}
	return nil, &RemoteError{answer.Code, answer.Message}
}

// serveJoin reads one request, answers it and closes.
func (s *Server) serveJoin(raw *tracked, conn *tls.Conn, joiner Fingerprint) {
	defer conn.Close()
	// Until its proof verified a joiner is anybody: few at a time, and the
	// oldest makes room.
	leave := s.joins.enter(raw, hostOf(raw.RemoteAddr()))
	conn.SetDeadline(time.Now().Add(joinTimeout))
	request, err := readJoinRequest(conn, joiner)
	leave()
	var body []byte
	if err == nil {
		body, err = s.answerJoin(request)
	}
	answer := joinAnswer{Body: body}
	if err != nil {
		remote := remoteError(err)
		answer = joinAnswer{Code: remote.Code, Message: remote.Message}
		s.config.Logger.Info("join refused", "peer", joiner.String(), "from", raw.RemoteAddr().String(), "error", err)
	}
	data, err := encode(answer)
	if err != nil {
		return
	}
	conn.SetDeadline(time.Now().Add(joinTimeout))
	writeFrame(conn, data)
}

func readJoinRequest(conn *tls.Conn, joiner Fingerprint) (JoinRequest, error) {
	frame, err := readFrame(conn, maxJoinFrame)
	switch {
	case errors.Is(err, errFrameSize):
		return JoinRequest{}, &RemoteError{CodeTooLarge, "the join request is larger than 1 MiB"}
	case err != nil:
		return JoinRequest{}, &RemoteError{CodeMalformed, "the join request ended early"}
	}
	exported, err := exportJoin(conn)
	if err != nil {
		return JoinRequest{}, err
	}
	request, err := parseJoinRequest(frame, exported, joiner)
	request.PeerPublicKey = conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo
	return request, err
}

// parseJoinRequest decodes a joiner's frame and verifies its proof.
func parseJoinRequest(frame, exported []byte, joiner Fingerprint) (JoinRequest, error) {
	var request joinRequest
	if err := strict().Unmarshal(frame, &request); err != nil {
		return JoinRequest{}, &RemoteError{CodeMalformed, "the join request cannot be read"}
	}
	if len(request.Token) != ed25519.PublicKeySize || len(request.Signature) != ed25519.SignatureSize || len(request.Body) > MaxBody {
		return JoinRequest{}, &RemoteError{CodeMalformed, "the join request is out of bounds"}
	}
	if !ed25519.Verify(request.Token, joinProof(exported, joiner, request.Body), request.Signature) {
		return JoinRequest{}, &RemoteError{CodeBadProof, "the join token is not proven on this connection"}
	}
	token, err := FingerprintOf(ed25519.PublicKey(request.Token))
	if err != nil {
		return JoinRequest{}, err
	}
	return JoinRequest{Peer: joiner, Token: token, Body: request.Body}, nil
}

func (s *Server) answerJoin(request JoinRequest) ([]byte, error) {
	handler := s.join.Load()
	if handler == nil {
		return nil, &RemoteError{CodeNoJoin, "this node takes no joiners now"}
	}
	select {
	case s.joining <- struct{}{}:
		defer func() { <-s.joining }()
	default:
		return nil, &RemoteError{CodeBusy, "too many nodes join at once: try again"}
	}
	ctx, cancel := context.WithTimeout(s.ctx, handlerTimeout)
	defer cancel()
	body, err := (*handler)(ctx, request)
	if err == nil && len(body) > MaxBody {
		err = &RemoteError{CodeTooLarge, "the answer is larger than 1 MiB"}
	}
	return body, err
}
