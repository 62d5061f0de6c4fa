package node

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

const (
	// catchUpTime is how long a join's answer waits for the cluster's state.
	catchUpTime = 10 * time.Second
	// defaultTokenTime is how long a join token works unless said otherwise.
	defaultTokenTime = time.Hour
)

func clusterEndpoints() map[string]endpoint {
	return map[string]endpoint{
		api.ClusterShow:   look(showCluster),
		api.ClusterStatus: look(func(ctx context.Context, a *asked) (api.Status, error) { return a.face.status(ctx), nil }),
		api.ClusterInit:   ask(initCluster),
		api.ClusterJoin:   ask(joinCluster),
		api.ClusterRotate: ask(rotateNodeKey),
		api.ClusterBackup: text(giveBackup),
		api.MemberList:    look(showMembers),
		api.MemberRemove:  ask(removeMember),
		api.MemberLeave:   ask(leaveCluster),
		api.TokenList:     look(listTokens),
		api.TokenCreate:   ask(createToken),
		api.TokenRemove:   ask(removeToken),
		api.SecretSeal:    enter(1, enterSeal),
	}
}

func showCluster(ctx context.Context, a *asked) (api.Cluster, error) {
	if err := a.look(ctx); err != nil {
		return api.Cluster{}, err
	}
	a.face.askMembers(ctx, a.view)
	return a.face.cluster(a.view), nil
}

func initCluster(ctx context.Context, a *asked, q *api.InitRequest) (api.InitResponse, error) {
	options := InitOptions{Name: q.Name, Approvals: q.Approvals}
	for _, o := range q.Operators {
		options.Operators = append(options.Operators, fsm.Operator{Name: o.Name, Public: o.Public})
	}
	if _, err := a.node.Init(ctx, options); err != nil && !(errors.Is(err, ErrHasCluster) && a.begunSo(options)) {
		return api.InitResponse{}, err
	}
	a.view = a.node.view()
	return api.InitResponse{Cluster: a.face.cluster(a.view), Operators: a.pinned()}, nil
}

// begunSo tells whether this node's cluster is the one that was asked for: the
// same request once more.
func (a *asked) begunSo(options InitOptions) bool {
	cluster, ok := a.node.view().Cluster()
	if !ok || cluster.Operators.Number != 1 || cluster.Name != options.Name || cluster.Operators.Approvals != max(options.Approvals, 1) ||
		len(cluster.Operators.Operators) != len(options.Operators) {
		return false
	}
	for _, o := range options.Operators {
		known, ok := cluster.Operators.Find(o.Fingerprint())
		if !ok || known.Name != o.Name {
			return false
		}
	}
	return true
}

func joinCluster(ctx context.Context, a *asked, q *api.JoinRequest) (api.JoinResponse, error) {
	token, err := api.ParseJoinToken(q.Token)
	if err != nil {
		return api.JoinResponse{}, malformed("%v", err)
	}
	defer clear(token.Secret[:])
	err = a.node.Join(ctx, token)
	before := errors.Is(err, ErrHasCluster) && a.node.Cluster() == token.Cluster
	var other *transport.FingerprintError
	if errors.As(err, &other) {
		return api.JoinResponse{}, &api.Error{Code: api.CodeExpired, Message: "the token is stale: " + err.Error(),
			Hint: "the member's key was rotated after the token was made, or another node has its address: make another with nodectl cluster token"}
	}
	if err != nil && !before {
		return api.JoinResponse{}, err
	}
	a.catchUp(ctx)
	answer := api.JoinResponse{Cluster: a.face.cluster(a.view), Node: a.node.id.String(), Before: before}
	answer.Cluster.ID = a.node.Cluster().String()
	return answer, nil
}

// catchUp waits a moment for the cluster's state to arrive.
func (a *asked) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	for {
		changed := a.node.cluster.Load().log.AppliedChanged()
		a.view = a.node.view()
		if _, ok := a.view.Member(a.node.id); ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func showMembers(ctx context.Context, a *asked) (api.Members, error) {
	if err := a.look(ctx); err != nil {
		return api.Members{}, err
	}
	a.face.askMembers(ctx, a.view)
	return api.Members{Members: a.face.members(a.view, newTimes(a.view))}, nil
}

func removeMember(ctx context.Context, a *asked, q *api.MemberRemoveRequest) (api.Ack, error) {
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	// A repeated request finds the member gone already.
	if id, err := parseNodeID(q.Node); err == nil {
		if gone, ok := a.view.Removed(id); ok {
			return api.Ack{Index: gone.Index}, nil
		}
	}
	m, err := memberCalled(a.view, q.Node)
	if err != nil {
		return api.Ack{}, err
	}
	if err := a.face.canSpare(ctx, a.view, m.ID); err != nil {
		return api.Ack{}, err
	}
	if _, err := a.change(ctx, &fsm.MemberRemove{Node: m.ID, Reason: "removed by " + a.visitor.name}); err != nil {
		return api.Ack{}, err
	}
	return api.Ack{Index: a.view.Index()}, nil
}

func rotateNodeKey(ctx context.Context, a *asked, q *api.RotateNodeKeyRequest) (api.RotateNodeKeyResponse, error) {
	if q.Node != "" && q.Node != a.node.config.Name && q.Node != a.node.id.String() {
		return api.RotateNodeKeyResponse{}, malformed("this is node %s (%s), not %.64s: nothing was changed", a.node.config.Name, a.node.id, q.Node)
	}
	f, err := a.node.RotateNodeKey(ctx)
	if err != nil {
		return api.RotateNodeKeyResponse{}, err
	}
	return api.RotateNodeKeyResponse{Fingerprint: f.String()}, nil
}

func leaveCluster(ctx context.Context, a *asked, q *api.MemberLeaveRequest) (api.Ack, error) {
	if q.Node != a.node.id.String() {
		return api.Ack{}, malformed("this is node %s, not %.64s: nothing was changed", a.node.id, q.Node)
	}
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	if err := a.face.canSpare(ctx, a.view, a.node.id); err != nil {
		return api.Ack{}, err
	}
	if _, err := a.change(ctx, &fsm.MemberRemove{Node: a.node.id, Reason: "left at the word of " + a.visitor.name}); err != nil {
		return api.Ack{}, err
	}
	return api.Ack{Index: a.view.Index()}, nil
}

func listTokens(ctx context.Context, a *asked) (api.Tokens, error) {
	if err := a.look(ctx); err != nil {
		return api.Tokens{}, err
	}
	tokens := []api.Token{}
	for t := range a.view.Tokens() {
		tokens = append(tokens, tokenToWire(t))
	}
	return api.Tokens{Tokens: tokens}, nil
}

func tokenToWire(t *fsm.Token) api.Token {
	return api.Token{Fingerprint: t.Fingerprint.String(), Name: t.Name, ExpiresAt: logTime(t.Expires)}
}

func createToken(ctx context.Context, a *asked, q *api.TokenCreateRequest) (api.Token, error) {
	fingerprint, err := parseFingerprint(q.Fingerprint)
	if err != nil {
		return api.Token{}, err
	}
	wait := time.Duration(q.ExpiresSeconds) * time.Second
	switch {
	case q.ExpiresSeconds == 0:
		wait = defaultTokenTime
	case q.ExpiresSeconds < 60 || q.ExpiresSeconds > int64(fsm.MaxTokenTime/time.Second):
		return api.Token{}, malformed("expires_seconds: want 60 to %d", int64(fsm.MaxTokenTime/time.Second))
	}
	if q.Name == "" {
		q.Name = "token-" + q.Fingerprint[:8]
	}
	if err := a.look(ctx); err != nil {
		return api.Token{}, err
	}
	// The time of expiry is another one at every try, so that a repeated
	// request would be another command.
	token, ok := a.view.Token(fingerprint)
	if !ok || token.Name != q.Name {
		body := &fsm.TokenCreate{Fingerprint: fingerprint, Name: q.Name, Expires: a.node.expiryOf(a.view, wait, fsm.MaxTokenTime)}
		if _, err := a.change(ctx, body); err != nil {
			return api.Token{}, err
		}
		token, ok = a.view.Token(fingerprint)
	}
	if !ok {
		return api.Token{}, &fsm.Error{Code: fsm.NotFound, Message: "the token was used or removed meanwhile"}
	}
	return tokenToWire(token), nil
}

func removeToken(ctx context.Context, a *asked, q *api.TokenRemoveRequest) (api.Ack, error) {
	if err := a.look(ctx); err != nil {
		return api.Ack{}, err
	}
	var found []*fsm.Token
	for t := range a.view.Tokens() {
		if q.Fingerprint != "" && strings.HasPrefix(t.Fingerprint.String(), q.Fingerprint) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return api.Ack{}, &fsm.Error{Code: fsm.NotFound, Message: "no join token begins with that: it was used, has expired or was removed"}
	case 1:
	default:
		return api.Ack{}, malformed("%d join tokens begin with %.64s: give the whole fingerprint", len(found), q.Fingerprint)
	}
	if _, err := a.change(ctx, &fsm.TokenRemove{Fingerprint: found[0].Fingerprint}); err != nil {
		return api.Ack{}, err
	}
	return api.Ack{Index: a.view.Index()}, nil
}

func enterSeal(ctx context.Context, a *asked, secrets []*secret.Bytes) (api.Health, error) {
	seal, err := secret.Key(ctx, secret.Fixed(secrets[0]), "seal secret")
	if err != nil {
		return api.Health{}, malformed("%v", err)
	}
	defer seal.Wipe()
	if held := a.node.seal.Load(); a.node.Sealed() == nil && held != nil && !held.Equal(seal) {
		return api.Health{}, &api.Error{Code: api.CodeWrongState, Message: "the node is not sealed, and runs under another seal secret than this one: nothing was changed",
			Hint: "to seal it under a new one: nodectl device reseal"}
	}
	if err := a.node.Unseal(ctx, seal); err != nil {
		return api.Health{}, err
	}
	return a.node.health(), nil
}

// memberCalled finds a member by name, ID or unique prefix of either, of an ID not
// too short a one.
func memberCalled(view *fsm.View, text string) (*fsm.Member, error) {
	var found []*fsm.Member
	for m := range view.Members() {
		if m.Name == text || m.ID.String() == text {
			return m, nil
		}
		if text != "" && (strings.HasPrefix(m.Name, text) || len(text) >= api.ShortestID && strings.HasPrefix(m.ID.String(), text)) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &api.Error{Code: api.CodeNotFound, Message: "no member is called " + quoted(text), Hint: "see nodectl cluster members"}
	}
	return nil, &api.Error{Code: api.CodeBadRequest, Message: quoted(text) + " fits several members", Hint: "give the whole name or ID"}
}

func parseNodeID(text string) (dkek.NodeID, error) {
	var id dkek.NodeID
	if !decodeID(id[:], text) {
		return id, malformed("%.64q is no node ID: want 32 hexadecimal digits", text)
	}
	return id, nil
}

func parseFingerprint(text string) (dkek.Fingerprint, error) {
	var f dkek.Fingerprint
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(f) {
		return f, malformed("%.80q is no fingerprint: want 64 hexadecimal digits", text)
	}
	copy(f[:], raw)
	return f, nil
}
