package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// joinRequest is what a joiner asks over the join protocol.
type joinRequest struct {
	Cluster dkek.ClusterID `cbor:"1,keyasint"`
	Member  fsm.NewMember  `cbor:"2,keyasint"`
	Signed  fsm.Signed     `cbor:"3,keyasint"` // the joiner's fsm.JoinStatement
	// Govern is the number of the operator set that the token names: earlier
	// ones are of no use to the joiner, and all together can be too many.
	Govern uint64 `cbor:"4,keyasint"`
}

// joinAnswer is what the member answers.
type joinAnswer struct {
	Sponsors []sponsor          `cbor:"1,keyasint"`
	Chain    []fsm.GovernRecord `cbor:"2,keyasint"` // from number Govern to the newest
}

// Join makes this node a member of the cluster that the token names. It returns
// when the node is let in as a non-voter; it catches up and becomes a voter in
// its own time. A token is for one node. After an interruption, a node that was let in goes on by itself
// when it is opened again.
func (n *Node) Join(ctx context.Context, token *api.JoinToken) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ready(); err != nil {
		return err
	}
	cluster := dkek.ClusterID(token.Cluster)
	answer, err := n.askToJoin(ctx, cluster, token)
	if err != nil {
		return err
	}
	// The token's digest came from the operator's own pin: only a chain that
	// ends there is believed, whatever the member says.
	if err := n.pins.adopt(cluster, answer.Chain, token.Govern, dkek.Hash(token.Operators)); err != nil {
		return fmt.Errorf("node: join: %w", err)
	}
	if err := n.directory.sponsor(answer.Sponsors); err != nil {
		return err
	}
	if err := n.belongTo(cluster); err != nil {
		return err
	}
	return n.enter(ctx, cluster)
}

func (n *Node) askToJoin(ctx context.Context, cluster dkek.ClusterID, token *api.JoinToken) (joinAnswer, error) {
	member := n.newMember()
	signed, err := fsm.SignStatement(n.own.Load().signer, fsm.DomainJoin, &fsm.JoinStatement{
		Cluster: cluster, Token: tokenFingerprint(token), Member: member,
	})
	if err != nil {
		return joinAnswer{}, err
	}
	body, err := wireEncoder.Marshal(joinRequest{Cluster: cluster, Member: member, Signed: signed, Govern: token.Govern})
	if err != nil {
		return joinAnswer{}, err
	}
	body, err = transport.Join(ctx, transport.JoinAttempt{
		Network: n.config.Network, Identity: n.own.Load().tls, Secret: token.Secret[:], Body: body,
		Server: transport.Peer{Fingerprint: transport.Fingerprint(token.Fingerprint), Addr: token.Address},
	})
	if err != nil {
		return joinAnswer{}, fmt.Errorf("node: join: %w", fromWire(err))
	}
	var answer joinAnswer
	if err := wireDecoder.Unmarshal(body, &answer); err != nil {
		return joinAnswer{}, fmt.Errorf("node: join: the answer cannot be read: %w", err)
	}
	return answer, nil
}

func tokenFingerprint(token *api.JoinToken) dkek.Fingerprint {
	f, err := transport.TokenFingerprint(token.Secret[:])
	if err != nil {
		return dkek.Fingerprint{} // cannot be: the secret has its length
	}
	return dkek.Fingerprint(f)
}

// answerJoin lets a joiner in, at any member.
func (n *Node) answerJoin(ctx context.Context, request transport.JoinRequest) ([]byte, error) {
	answer, err := n.letIn(ctx, request)
	if err != nil {
		return nil, toWire(err)
	}
	return wireEncoder.Marshal(answer)
}

func (n *Node) letIn(ctx context.Context, request transport.JoinRequest) (joinAnswer, error) {
	var asked joinRequest
	if err := wireDecoder.Unmarshal(request.Body, &asked); err != nil {
		return joinAnswer{}, &transport.RemoteError{Code: transport.CodeMalformed, Message: "the join request cannot be read"}
	}
	if asked.Cluster != n.Cluster() {
		return joinAnswer{}, &fsm.Error{Code: fsm.NotFound, Message: fmt.Sprintf("this is a member of cluster %s, the token is for %s", n.Cluster(), asked.Cluster)}
	}
	if fsm.FingerprintOf(asked.Member.Public) != dkek.Fingerprint(request.Peer) {
		return joinAnswer{}, &fsm.Error{Code: fsm.NotAllowed, Message: "the joiner names another key than its own"}
	}
	// A joiner that never got its answer asks again: it is a member already.
	if member, ok := n.view().Member(asked.Member.ID); !ok || member.Fingerprint != dkek.Fingerprint(request.Peer) {
		if err := n.tokenIsKnown(ctx, dkek.Fingerprint(request.Token)); err != nil {
			return joinAnswer{}, err
		}
		if _, err := n.do(ctx, &fsm.MemberAdd{Member: asked.Member, Token: dkek.Fingerprint(request.Token), Signed: asked.Signed}); err != nil {
			return joinAnswer{}, err
		}
	}
	view := n.view()
	var answer joinAnswer
	for m := range view.Members() {
		if m.ID != asked.Member.ID {
			answer.Sponsors = append(answer.Sponsors, sponsor{Node: m.ID.String(), Fingerprint: m.Fingerprint.String(), Addr: m.Addr})
		}
	}
	for record := range view.Governs(asked.Govern) {
		answer.Chain = append(answer.Chain, *record)
	}
	return answer, nil
}

// tokenIsKnown turns strangers away before anything is proposed for them: whoever
// has a key can sign with it.
func (n *Node) tokenIsKnown(ctx context.Context, token dkek.Fingerprint) error {
	if _, ok := n.view().Token(token); ok {
		return nil
	}
	view, err := n.consistent(ctx) // it may be newer than this node's state
	if err != nil {
		return err
	}
	if _, ok := view.Token(token); !ok {
		return &fsm.Error{Code: fsm.NotFound, Message: "the token is not known, was used, or has expired: make another with nodectl cluster token"}
	}
	return nil
}

// newMember is this node as it introduces itself.
func (n *Node) newMember() fsm.NewMember {
	return fsm.NewMember{ID: n.id, Name: n.config.Name, Public: n.own.Load().spki, Addr: n.config.Advertise, ReadsTo: n.readsTo.Load()}
}

// ready tells whether this node can enter a cluster.
func (n *Node) ready() error {
	if err := n.ctx.Err(); err != nil {
		return ErrClosed
	}
	if err := n.Sealed(); err != nil {
		return err
	}
	if n.cluster.Load() != nil {
		return ErrHasCluster
	}
	return nil
}

// belongTo writes down which cluster this node is in.
func (n *Node) belongTo(cluster dkek.ClusterID) error {
	return n.changeIdentity(func(who *identity) bool {
		who.cluster = cluster
		return true
	})
}

// InitOptions say what cluster to begin.
type InitOptions struct {
	Name string // [a-z0-9][a-z0-9-]{0,62}; "" is "custodian"
	// Operators are who approves ceremonies, at least one: their public keys, as
	// in the PEM files of nodectl operator new. Their private keys belong on no
	// node.
	Operators []fsm.Operator
	Approvals int        // how many operators must approve a ceremony; 0 is 1
	Policy    fsm.Policy // the zero value is right for most
}

// Init begins a cluster with this node as its only member, and pins its first
// operators. Call it on one node only, once: [ErrHasCluster] later. An interrupted
// Init is finished by calling it again with the same operators.
func (n *Node) Init(ctx context.Context, options InitOptions) (dkek.ClusterID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	again := n.begun()
	if err := n.ready(); err != nil && !again {
		return dkek.ClusterID{}, err
	}
	command, err := n.initCommand(options, again)
	if err != nil {
		return dkek.ClusterID{}, err
	}
	if !again {
		set := fsm.OperatorSet{Cluster: command.Cluster, Number: 1, Approvals: command.Approvals, Operators: command.Operators}
		if err := n.pins.begin(set); err != nil {
			return dkek.ClusterID{}, err
		}
		if err := n.belongTo(command.Cluster); err != nil {
			return dkek.ClusterID{}, err
		}
		if err := n.enter(ctx, command.Cluster); err != nil {
			return dkek.ClusterID{}, err
		}
	}
	if err := n.raft().Bootstrap(ctx); err != nil && !errors.Is(err, ErrInitialised) {
		return dkek.ClusterID{}, fmt.Errorf("node: init: %w", err)
	}
	if _, err := n.do(ctx, command); err != nil && !errors.Is(err, fsm.Exists) {
		return dkek.ClusterID{}, fmt.Errorf("node: init: %w", err)
	}
	return command.Cluster, nil
}

// begun tells whether an Init was interrupted: the operators are pinned, and the
// cluster they belong to does not exist yet.
func (n *Node) begun() bool {
	if n.cluster.Load() == nil || n.directory.sponsors.Load() != nil {
		return false
	}
	_, exists := n.view().Cluster()
	return !exists
}

// initCommand checks the options by the state's own rules before anything is
// written.
func (n *Node) initCommand(options InitOptions, again bool) (*fsm.Init, error) {
	command := &fsm.Init{
		Name: options.Name, Member: n.newMember(), Operators: slices.Clone(options.Operators),
		Approvals: max(options.Approvals, 1), Policy: options.Policy,
	}
	if command.Name == "" {
		command.Name = "custodian"
	}
	rand.Read(command.Cluster[:])
	if again {
		command.Cluster = n.Cluster()
	}
	slices.SortFunc(command.Operators, func(a, b fsm.Operator) int {
		x, y := a.Fingerprint(), b.Fingerprint()
		return bytes.Compare(x[:], y[:])
	})
	trial := fsm.Command{Header: fsm.Header{Request: newRequest(), Time: n.now().UnixMilli(), Actor: n.self()}, Body: command}
	if err := fsm.Validate(fsm.New().State(), trial); err != nil {
		return nil, fmt.Errorf("node: init: %w", err)
	}
	if set := (fsm.OperatorSet{Cluster: command.Cluster, Number: 1, Approvals: command.Approvals, Operators: command.Operators}); again && n.pins.set().Digest() != set.Digest() {
		return nil, fmt.Errorf("node: init: this node began a cluster with other operators: give the same, or begin with an empty data folder")
	}
	return command, nil
}
