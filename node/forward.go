package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

const (
	methodUse = "key.use"
	// hopTime bounds one forwarded hop.
	hopTime = 10 * time.Second
	// maxHops is how many nodes are asked, one after the other. Each does it
	// itself or says no: nothing is forwarded twice.
	maxHops = 4
)

// forwardedUse is a use on its way to another node. Who asked goes with it, and
// is checked there again.
type forwardedUse struct {
	Who        dkek.Fingerprint `cbor:"1,keyasint"`
	Key        string           `cbor:"2,keyasint,omitempty"`
	Version    uint64           `cbor:"3,keyasint,omitempty"`
	Verb       uint32           `cbor:"4,keyasint"`
	Input      []byte           `cbor:"5,keyasint,omitempty"`
	Additional []byte           `cbor:"6,keyasint,omitempty"`
	Hash       uint64           `cbor:"7,keyasint,omitempty"` // number of crypto.Hash
	Scheme     string           `cbor:"8,keyasint,omitempty"`
	Count      int              `cbor:"9,keyasint,omitempty"` // of random bytes
	// Index is of the state that allowed it: the other node waits until it has
	// that too.
	Index uint64 `cbor:"10,keyasint,omitempty"`
}

type forwardedAnswer struct {
	Output []byte `cbor:"1,keyasint,omitempty"`
	Age    int64  `cbor:"2,keyasint,omitempty"` // milliseconds
	// Fault names what is wrong with the request itself, see useFaults: no
	// other device would do it either.
	Fault  string `cbor:"3,keyasint,omitempty"`
	Device string `cbor:"4,keyasint,omitempty"` // that said so
}

// useFaults are the device errors that are the request's fault.
var useFaults = map[string]error{"input": hsm.ErrBadInput, "size": hsm.ErrTooLarge, "decryption": hsm.ErrDecryption}

// forward asks other nodes, first those whose devices hold the key. local is
// why this node's device could not. KeyUsed.Node is the one that answered for good,
// also where it refused.
func (r *keyRoom) forward(ctx context.Context, caller Caller, a *allowed, use KeyUse, local error) (KeyUsed, error) {
	request := forwardedUse{Verb: uint32(use.Verb), Index: a.view.Index()}
	if caller.Kind != CallerSelf {
		request.Who = caller.Fingerprint
	}
	var used KeyUsed
	if a.version != nil {
		used.Version = a.version.N
	}
	if caller.Kind != CallerSelf && namesClients(a.key) {
		return used, fmt.Errorf("%w: here: %w: key %s names its clients, and no other node would take this one's word for who asks: ask a node whose device works", ErrNotHere, local, a.key.Name)
	}
	var public crypto.PublicKey
	if use.Verb == fsm.Random {
		request.Count = len(use.Input)
	} else {
		var err error
		if public, err = publicOf(a.version); err != nil {
			return used, err
		}
		request.Key, request.Version = a.key.Name, a.version.N
		request.Input, request.Additional = use.Input, use.Additional
		request.Hash, request.Scheme = uint64(use.Hash), string(use.Scheme)
	}
	failed := []error{fmt.Errorf("%w: here: %w", ErrNotHere, local)}
	for _, to := range r.candidates(a) {
		hop, cancel := context.WithTimeout(ctx, hopTime)
		var answer forwardedAnswer
		err := r.node.call(hop, to.ID, methodUse, request, &answer)
		cancel()
		var refused *fsm.Error
		if fault, ok := useFaults[answer.Fault]; err == nil && ok {
			used.Node = to.ID
			return used, &hsm.Error{Op: use.Verb.String(), Device: printable(answer.Device), Err: fault}
		}
		if err == nil && use.Verb == fsm.Sign && !verifySignature(public, use.Input, answer.Output, hsm.SignOptions{Scheme: use.Scheme, Hash: use.Hash}) {
			err = errors.New("its signature does not verify")
		}
		if err == nil {
			used.Output, used.Age, used.Node = answer.Output, time.Duration(answer.Age)*time.Millisecond, to.ID
			return used, nil
		}
		if errors.As(err, &refused) {
			used.Node = to.ID
			return used, err
		}
		if ctx.Err() != nil {
			return used, err
		}
		failed = append(failed, fmt.Errorf("node %s: %w", to.Name, err))
	}
	return used, errors.Join(failed...)
}

// namesClients tells whether a key's policy names who may use it, so that the word
// of the member that forwards a use is not enough: any member could give it.
func namesClients(key *fsm.Key) bool { return key != nil && len(key.Policy.Clients) > 0 }

// candidates are the nodes to ask: those that hold the key, then those that
// could, each group in random order.
func (r *keyRoom) candidates(a *allowed) []*fsm.Member {
	proven, ok := a.view.Proven()
	if !ok {
		return nil
	}
	var holding, able []*fsm.Member
	for m := range a.view.Members() {
		switch {
		case m.ID == r.node.id || m.Device == nil || m.Device.KCV != proven.KCV:
		case a.version != nil && slices.Contains(a.view.Coverage(a.version.Key, a.version.N), m.ID):
			holding = append(holding, m)
		case a.key == nil || slices.Contains(m.Device.Types, a.key.Type):
			able = append(able, m)
		}
	}
	for _, group := range [][]*fsm.Member{holding, able} {
		rand.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] })
	}
	all := slices.Concat(holding, able)
	return all[:min(len(all), maxHops)]
}

// answerUse does what another member forwards: in this device or not at all.
func (r *keyRoom) answerUse(ctx context.Context, from *fsm.Member, q forwardedUse) (forwardedAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, hopTime)
	defer cancel()
	if err := r.node.cluster.Load().log.WaitApplied(ctx, q.Index); err != nil {
		return forwardedAnswer{}, err
	}
	caller, err := r.forwardedCaller(from, q.Who)
	var answer forwardedAnswer
	switch {
	case err != nil:
	case fsm.Verbs(q.Verb) == fsm.Random:
		answer, err = r.answerRandom(ctx, caller, q.Count)
	default:
		answer, err = r.answerKeyUse(ctx, from, caller, q)
	}
	outcome := err
	for name, fault := range useFaults {
		if errors.Is(err, fault) {
			answer, err = forwardedAnswer{Fault: name, Device: r.node.device.serial()}, nil
		}
	}
	if settled(answer, err) {
		r.uses.note(ctx, caller, from, q.Key, q.Version, fsm.Verbs(q.Verb), outcome)
	}
	return answer, err
}

// forwardedCaller is who asked. The member vouches for that; what that one may do
// is looked up here.
func (r *keyRoom) forwardedCaller(from *fsm.Member, who dkek.Fingerprint) (Caller, error) {
	if who == (dkek.Fingerprint{}) {
		who = from.Fingerprint
	}
	caller, err := callerIn(r.node.view(), who)
	if err != nil {
		return Caller{Fingerprint: who}, err
	}
	if caller.Kind == CallerMember && who != from.Fingerprint {
		return caller, fmt.Errorf("%w: a member asks for itself or for a client", ErrForbidden)
	}
	return caller, nil
}

// answerKeyUse refuses what a member's word for who asked is not enough for: keys
// whose policy names who may use them.
func (r *keyRoom) answerKeyUse(ctx context.Context, from *fsm.Member, caller Caller, q forwardedUse) (forwardedAnswer, error) {
	use := KeyUse{
		Key: q.Key, Verb: fsm.Verbs(q.Verb), Input: q.Input, Additional: q.Additional,
		Hash: crypto.Hash(min(q.Hash, 1<<16)), Scheme: hsm.Scheme(q.Scheme),
	}
	allowed, used, err := r.allow(ctx, caller, &use, q.Version)
	if err == nil && allowed != nil && caller.Fingerprint != from.Fingerprint && namesClients(allowed.key) {
		err = fmt.Errorf("%w: key %s names its clients: they ask this node themselves", ErrForbidden, allowed.key.Name)
	}
	if err == nil && allowed != nil {
		err = r.useHere(ctx, allowed, &use, &used)
	}
	return forwardedAnswer{Output: used.Output, Age: used.Age.Milliseconds()}, err
}

func (r *keyRoom) answerRandom(ctx context.Context, caller Caller, count int) (answer forwardedAnswer, err error) {
	if count < 1 || count > hsm.MaxRandom {
		return answer, badRequest("random: want 1 to %d bytes", hsm.MaxRandom)
	}
	view, _, err := r.fresh(ctx)
	if err == nil {
		err = r.node.authorise(view, caller, fsm.Random, "")
	}
	if err == nil {
		answer.Output, err = r.randomHere(ctx, count)
	}
	return answer, err
}
