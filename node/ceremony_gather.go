package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// gathering is what this node has gathered for a device: releases, each checked
// and sealed again.
type gathering struct {
	*dkek.Gather
	sharing *dkek.Sharing
	own     *dkek.Bundle // wiped with the gathering
	liars   []string     // who sent what is not its share, and why it was refused
}

func (g *gathering) wipe() {
	if g.own != nil {
		g.own.Wipe()
	}
}

// gather brings in the releases of exactly these holders, or with nil of any t.
// It returns the quorum when all of it is good.
func (r *runner) gather(ctx context.Context, view *fsm.View, a *approved, sharing *dkek.Sharing, wanted []dkek.NodeID) ([]dkek.NodeID, error) {
	key := r.room.key(r.id)
	if key == nil {
		return nil, ErrLost
	}
	if r.gathered == nil {
		g, err := dkek.NewGather(sharing, key)
		if err != nil {
			return nil, err
		}
		r.gathered = &gathering{Gather: g, sharing: sharing}
	}
	free := wanted == nil
	if free {
		wanted = r.candidates(&sharing.Plan)
	}
	var errs []error
	for i, holder := range wanted {
		good := r.gathered.Good()
		if free && len(good) >= sharing.Plan.Threshold {
			break
		}
		if slices.Contains(good, holder) {
			continue
		}
		r.say(fmt.Sprintf("gathering shares: %d of %d", min(i, sharing.Plan.Threshold), sharing.Plan.Threshold))
		if err := r.gatherOne(ctx, view, a, sharing, holder); err != nil {
			errs = append(errs, fmt.Errorf("share of %s: %w", r.node.nameOf(view, holder), err))
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	if free {
		quorum, err := r.gathered.Quorum()
		if err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		return sorted(quorum), nil
	}
	if len(errs) > 0 {
		return nil, r.giveUp(errors.Join(errs...))
	}
	return sorted(wanted), nil
}

// giveUp ends the ceremony where somebody has sent, under its signature, what is
// not what it committed to: asking again would bring the same.
func (r *runner) giveUp(err error) error {
	var refused *dkek.ShareError
	if errors.As(err, &refused) {
		return &failure{err.Error()}
	}
	return fmt.Errorf("node: %w", err)
}

// candidates are the holders, this node first: its own share need not travel.
func (r *runner) candidates(plan *dkek.Plan) []dkek.NodeID {
	var ids []dkek.NodeID
	if plan.HolderIndex(r.node.id) >= 0 {
		ids = append(ids, r.node.id)
	}
	for _, h := range plan.Holders {
		if h.Node != r.node.id {
			ids = append(ids, h.Node)
		}
	}
	return ids
}

func (r *runner) gatherOne(ctx context.Context, view *fsm.View, a *approved, sharing *dkek.Sharing, holder dkek.NodeID) error {
	if holder == r.node.id {
		bundle, _, err := r.node.shares.bundle(nameOf(&sharing.Plan), sharing.Hash())
		if err != nil {
			return err
		}
		if err := r.gathered.AddOwn(bundle); err != nil {
			bundle.Wipe()
			return err
		}
		r.gathered.own = bundle
		return nil
	}
	info, err := a.transcript(fsm.ReleaseGather, holder, r.node.id, sharing.Hash())
	if err != nil {
		return err
	}
	sealed, err := r.node.askForShare(ctx, view, methodRelease, a, sharing.Plan.Holders[sharing.Plan.HolderIndex(holder)], info)
	if err != nil {
		return err
	}
	if err := r.gathered.Add(holder, *sealed, info); err != nil {
		if liar := fmt.Sprintf("%s: %v", r.node.nameOf(view, holder), err); !slices.Contains(r.gathered.liars, liar) {
			r.gathered.liars = append(r.gathered.liars, liar)
		}
		return err
	}
	return nil
}

func sorted(ids []dkek.NodeID) []dkek.NodeID {
	out := slices.Clone(ids)
	slices.SortFunc(out, func(a, b dkek.NodeID) int { return bytes.Compare(a[:], b[:]) })
	return out
}
