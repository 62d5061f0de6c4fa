package node

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// signWith signs the inputs of one request, all by one version, whatever is
// rotated meanwhile: the first use says which.
func signWith(ctx context.Context, a *asked, q *api.SignRequest) (api.SignResponse, error) {
	hash, err := hashNamed(q.Hash)
	if err != nil {
		return api.SignResponse{}, err
	}
	if len(q.Inputs) == 0 || len(q.Inputs) > api.MaxInputs {
		return api.SignResponse{}, malformed("%d inputs: want 1 to %d", len(q.Inputs), api.MaxInputs)
	}
	name, _, err := splitVersion(q.Key)
	if err != nil {
		return api.SignResponse{}, err
	}
	use := KeyUse{Key: q.Key, Verb: fsm.Sign, Input: q.Inputs[0], Hash: hash, Scheme: hsm.Scheme(q.Scheme)}
	first, err := a.use(ctx, use)
	if err != nil {
		return api.SignResponse{}, err
	}
	answer := api.SignResponse{Key: name, Version: uint32(first.Version), Signatures: make([][]byte, len(q.Inputs))}
	answer.Signatures[0] = first.Output
	use.Key = versionRef(name, answer.Version)
	return answer, a.signAll(ctx, use, q.Inputs[1:], answer.Signatures[1:])
}

// signAll signs as many inputs at a time as there are processors. A device that
// does one after the other has them wait their turn.
func (a *asked) signAll(ctx context.Context, use KeyUse, inputs, signatures [][]byte) error {
	if len(inputs) == 0 {
		return nil
	}
	used := make([]KeyUsed, len(inputs))
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(inputs)) {
		group.Go(func() (err error) {
			one := use
			for i := next.Add(1) - 1; i < int64(len(inputs)); i = next.Add(1) - 1 {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				one.Input = inputs[i]
				if used[i], err = a.useOne(ctx, one); err != nil {
					return err
				}
				signatures[i] = used[i].Output
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, u := range used {
		a.tookAge(u)
	}
	return nil
}
