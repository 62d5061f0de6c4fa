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
// why this node's device could not.
func (r *keyRoom) forward(ctx context.Context, caller Caller, a *allowed, use KeyUse, local error) (KeyUsed, error) {
	request := forwardedUse{Who: caller.Fingerprint, Verb: uint32(use.Verb), Index: a.view.Index()}
	var used KeyUsed
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
			return used, &hsm.Error{Op: use.Verb.String(), Device: printable(answer.Device), Err: fault}
		}
		if err == nil && use.Verb == fsm.Sign && !verifySignature(public, use.Input, answer.Output, hsm.SignOptions{Scheme: use.Scheme, Hash: use.Hash}) {
			err = errors.New("its signature does not verify")
		}
		if err == nil {
			used.Output, used.Age, used.Node = answer.Output, time.Duration(answer.Age)*time.Millisecond, to.ID
			used.Version = request.Version
			return used, nil
		}
		if errors.As(err, &refused) || ctx.Err() != nil {
			return used, err
		}
		failed = append(failed, fmt.Errorf("node %s: %w", to.Name, err))
	}
	return used, errors.Join(failed...)
}

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

// answerUse does what another member forwards: in this device or not at all. The
// member vouches for who asked; what that one may do is looked up here.
func (r *keyRoom) answerUse(ctx context.Context, from *fsm.Member, q forwardedUse) (forwardedAnswer, error) {
	var answer forwardedAnswer
	ctx, cancel := context.WithTimeout(ctx, hopTime)
	defer cancel()
	if err := r.node.cluster.Load().log.WaitApplied(ctx, q.Index); err != nil {
		return answer, err
	}
	caller, err := callerIn(r.node.view(), q.Who)
	if err != nil {
		return answer, err
	}
	if caller.Kind == CallerMember && q.Who != from.Fingerprint {
		return answer, fmt.Errorf("%w: a member asks for itself or for a client", ErrForbidden)
	}
	if fsm.Verbs(q.Verb) == fsm.Random {
		return r.answerRandom(ctx, caller, q.Count)
	}
	use := KeyUse{
		Key: q.Key, Verb: fsm.Verbs(q.Verb), Input: q.Input, Additional: q.Additional,
		Hash: crypto.Hash(min(q.Hash, 1<<16)), Scheme: hsm.Scheme(q.Scheme),
	}
	allowed, used, err := r.allow(ctx, caller, &use, q.Version)
	if err == nil && allowed != nil {
		err = r.useHere(ctx, allowed, &use, &used)
	}
	for name, fault := range useFaults {
		if errors.Is(err, fault) {
			return forwardedAnswer{Fault: name, Device: r.node.device.serial()}, nil
		}
	}
	return forwardedAnswer{Output: used.Output, Age: used.Age.Milliseconds()}, err
}

func (r *keyRoom) answerRandom(ctx context.Context, caller Caller, count int) (answer forwardedAnswer, err error) {
	if count < 1 || count > hsm.MaxRandom {
		return answer, badRequest("random: want 1 to %d bytes", hsm.MaxRandom)
	}
	view, _, err := r.fresh(ctx)
	if err == nil {
		err = authorise(view, caller, fsm.Random, "")
	}
	if err == nil {
		answer.Output, err = r.randomHere(ctx, count)
	}
	return answer, err
}
