//go:build faults

package node

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// A node of this build lies where it is told to:
//
//	KEYCUSTODIAN_LIE=FILE
//
// names a file that holds the name of the lie, as long as it is to be told:
//
//	a changed bit, another epoch,   what it answers, as a holder, in the place of
//	nothing, no signature           its share
//	another sub-share               as a dealer, hands out what its commitments are not of
//	another secret                  as a dealer of a reshare, deals what is not its share,
//	                                and reports the right check value all the same
const lieOrder = "KEYCUSTODIAN_LIE"

// told is the lie that is to be told now; "" for none.
func told() string {
	file := os.Getenv(lieOrder)
	if file == "" {
		return ""
	}
	name, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(name)
}

// patch has the room tell lies to those who ask for shares, and about its dealing.
func (c *ceremonyRoom) patch() {
	handle(c.node, methodDeal, func(ctx context.Context, from *fsm.Member, q shareRequest) (shareAnswer, error) {
		if told() != "another sub-share" {
			return c.answerDeal(ctx, from, q)
		}
		return c.release(ctx, from, q, fsm.ReleaseDeal, func(a *approved, key dkek.PublicKey, info []byte) (dkek.Sealed, error) {
			other, err := dkek.Deal(a.open.Plan, c.node.id, nil)
			if err != nil {
				return dkek.Sealed{}, err
			}
			defer other.Wipe()
			return other.SealFor(from.ID, key, info)
		})
	})
	handle(c.node, methodRelease, func(ctx context.Context, from *fsm.Member, q shareRequest) (shareAnswer, error) {
		answer, err := c.answerRelease(ctx, from, q)
		if lie := told(); err == nil && lie != "" {
			err = c.spoil(lie, from, q, &answer)
		}
		return answer, err
	})
	reached := func(ctx context.Context, point string) error {
		if told() != "another secret" {
			return nil
		}
		switch point {
		case "dealt":
			return c.dealWrongly()
		case "gathered":
			return c.reportUnseen(ctx)
		}
		return nil
	}
	c.reached.Store(&reached)
}

// spoil changes what a holder answers, and signs that.
func (c *ceremonyRoom) spoil(lie string, from *fsm.Member, q shareRequest, answer *shareAnswer) error {
	switch lie {
	case "a changed bit":
		answer.Sealed[len(answer.Sealed)-1] ^= 1
	case "another epoch":
		s, err := dkek.ParseSealed(answer.Sealed)
		if err != nil {
			return err
		}
		s.Epoch++
		if answer.Sealed, err = s.Encode(); err != nil {
			return err
		}
	case "nothing":
		answer.Sealed = nil
	case "no signature":
		answer.Signature[0] ^= 1
		return nil
	default:
		return nil
	}
	a, err := c.approved(c.node.view(), q.Ceremony)
	if err != nil {
		return err
	}
	about, err := c.about(c.node.view(), a, fsm.ReleaseGather)
	if err != nil {
		return err
	}
	info, err := a.transcript(fsm.ReleaseGather, c.node.id, from.ID, about)
	if err != nil {
		return err
	}
	answer.Signature, err = fsm.SignMessage(c.node.own.Load().signer, fsm.DomainRelease, signedRelease(info, answer.Sealed))
	return err
}

// reshares are the open ones that this node deals in.
func (c *ceremonyRoom) reshares(do func(row *fsm.Ceremony, open *fsm.Open) error) error {
	var errs []error
	for row := range c.node.view().Ceremonies() {
		open, err := fsm.ParseOpen(row.Open)
		if err == nil && row.Outcome == fsm.OutcomeOpen && row.Kind == fsm.CeremonyReshare && open.Plan.DealerIndex(c.node.id) >= 0 {
			errs = append(errs, do(row, open))
		}
	}
	return errors.Join(errs...)
}

// dealWrongly deals a random secret in the place of what was dealt.
func (c *ceremonyRoom) dealWrongly() error {
	return c.reshares(func(row *fsm.Ceremony, open *fsm.Open) error {
		wrong, err := dkek.Deal(open.Plan, c.node.id, secret.Random(dkek.Size))
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dealt[row.ID] = wrong
		return nil
	})
}

// reportUnseen reports the check value that everybody knows, from no device.
func (c *ceremonyRoom) reportUnseen(ctx context.Context) error {
	return c.reshares(func(row *fsm.Ceremony, open *fsm.Open) error {
		sharing, ok := c.node.view().Sharing(open.Plan.Epoch, open.Plan.Attempt)
		if !ok || reported(row.Reports, c.node.id) {
			return nil
		}
		quorum := slices.Clone(assigned(open.Plan, c.node.id))
		signed, err := fsm.SignStatement(c.node.own.Load().signer, fsm.DomainReport, &fsm.ReportStatement{
			Cluster: c.node.Cluster(), Ceremony: row.ID, Sharing: sharing.Hash, Node: c.node.id, Quorum: sorted(quorum), KCV: open.Plan.KCV,
			DeviceKind: "soft", DeviceSerial: "none", Scratch: true,
		})
		if err != nil {
			return err
		}
		_, err = c.node.do(ctx, &fsm.DeviceProof{Signed: signed})
		return err
	})
}
