//go:build faults

package node

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

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
//	an old release,                 what it answered in an earlier ceremony: signed for this
//	an old release as it was        one, and as somebody between the two has recorded it
//	another sub-share               as a dealer, hands out what its commitments are not of
//	an old sub-share                as a dealer, hands out one of an earlier create
//	points of no polynomial         as a dealer of a create, commits to what does not fit
//	                                together, and reports the check value that others found
//	another check value             in a create, reports before the others what no device found
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
	var old records
	handle(c.node, methodDeal, func(ctx context.Context, from *fsm.Member, q shareRequest) (answer shareAnswer, err error) {
		lie := told()
		if lie != "another sub-share" {
			answer, err = c.answerDeal(ctx, from, q)
		} else {
			answer, err = c.release(ctx, from, q, fsm.ReleaseDeal, func(a *approved, key dkek.PublicKey, info []byte) (dkek.Sealed, error) {
				other, err := dkek.Deal(a.open.Plan, c.node.id, nil)
				if err != nil {
					return dkek.Sealed{}, err
				}
				defer other.Wipe()
				return other.SealFor(from.ID, key, info)
			})
		}
		if err == nil {
			err = c.spoil(lie, fsm.ReleaseDeal, from, q, &answer, &old)
		}
		return answer, err
	})
	handle(c.node, methodRelease, func(ctx context.Context, from *fsm.Member, q shareRequest) (shareAnswer, error) {
		answer, err := c.answerRelease(ctx, from, q)
		if err == nil {
			err = c.spoil(told(), fsm.ReleaseGather, from, q, &answer, &old)
		}
		return answer, err
	})
	reached := func(ctx context.Context, point string) error {
		switch told() + ", " + point {
		case "another secret, dealt":
			return c.dealWrongly()
		case "points of no polynomial, dealt":
			return c.dealBent()
		case "another check value, acknowledged":
			return c.reportFirst(ctx)
		case "another secret, gathered", "points of no polynomial, gathered":
			return c.reportUnseen(ctx)
		case "another check value, gathered":
			return errCombinesNothing
		}
		return nil
	}
	c.reached.Store(&reached)
}

// errCombinesNothing keeps a liar from finding out itself what its device would say.
var errCombinesNothing = errors.New("node: it reports what no device has found")

// records are what was released, as whoever saw it pass can have kept it.
type records struct {
	mu   sync.Mutex
	kept []recorded
}

type recorded struct {
	ceremony  fsm.CeremonyID
	purpose   fsm.ReleasePurpose
	recipient dkek.NodeID
	answer    shareAnswer
}

// swap keeps an answer, and returns the newest one to the same recipient in an
// earlier ceremony.
func (r *records) swap(now recorded) (before shareAnswer, ok bool) {
	now.answer = shareAnswer{slices.Clone(now.answer.Sealed), slices.Clone(now.answer.Signature)}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.kept {
		if k.recipient == now.recipient && k.purpose == now.purpose && k.ceremony != now.ceremony {
			before, ok = k.answer, true
		}
	}
	r.kept = append(r.kept, now)
	return before, ok
}

// spoil changes what a holder or dealer answers, and signs that.
func (c *ceremonyRoom) spoil(lie string, purpose fsm.ReleasePurpose, from *fsm.Member, q shareRequest, answer *shareAnswer, old *records) error {
	before, ok := old.swap(recorded{q.Ceremony, purpose, from.ID, *answer})
	if (lie == "an old sub-share") != (purpose == fsm.ReleaseDeal) {
		return nil
	}
	switch lie {
	case "an old sub-share", "an old release", "an old release as it was":
		if !ok {
			return errors.New("node: nothing was released before")
		}
		if lie == "an old release as it was" {
			*answer = before
			return nil
		}
		s, err := dkek.ParseSealed(before.Sealed)
		if err != nil {
			return err
		}
		now, err := dkek.ParseSealed(answer.Sealed)
		if err != nil {
			return err
		}
		s.Epoch, s.Attempt = now.Epoch, now.Attempt // what is said in clear can be made to fit
		if answer.Sealed, err = s.Encode(); err != nil {
			return err
		}
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
	about, err := c.about(c.node.view(), a, purpose)
	if err != nil {
		return err
	}
	info, err := a.transcript(purpose, c.node.id, from.ID, about)
	if err != nil {
		return err
	}
	answer.Signature, err = fsm.SignMessage(c.node.own.Load().signer, fsm.DomainRelease, signedRelease(info, answer.Sealed))
	return err
}

// deals are the open ceremonies of a kind that this node deals in.
func (c *ceremonyRoom) deals(kind fsm.CeremonyKind, do func(row *fsm.Ceremony, open *fsm.Open) error) error {
	var errs []error
	for row := range c.node.view().Ceremonies() {
		open, err := fsm.ParseOpen(row.Open)
		if err == nil && row.Outcome == fsm.OutcomeOpen && row.Kind == kind && open.Plan.DealerIndex(c.node.id) >= 0 {
			errs = append(errs, do(row, open))
		}
	}
	return errors.Join(errs...)
}

// dealWrongly deals a random secret in the place of what was dealt.
func (c *ceremonyRoom) dealWrongly() error {
	return c.deals(fsm.CeremonyReshare, func(row *fsm.Ceremony, open *fsm.Open) error {
		wrong, err := dkek.Deal(open.Plan, c.node.id, secret.Random(dkek.Size))
		return c.dealInstead(row, wrong, err)
	})
}

// dealBent deals points that lie on a polynomial, but for that of another holder.
func (c *ceremonyRoom) dealBent() error {
	return c.deals(fsm.CeremonyCreate, func(row *fsm.Ceremony, open *fsm.Open) error {
		bent, err := dkek.Deal(open.Plan, c.node.id, nil)
		if err != nil {
			return err
		}
		others := slices.DeleteFunc(slices.Clone(open.Plan.Holders), func(h dkek.Holder) bool { return h.Node == c.node.id })
		bent.Bend(others[len(others)-1].Node)
		return c.dealInstead(row, bent, nil)
	})
}

func (c *ceremonyRoom) dealInstead(row *fsm.Ceremony, wrong *dkek.SubShares, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.dealt[row.ID] = wrong
	}
	return err
}

// reportUnseen reports the check value that everybody knows or that another node has
// found, from no device.
func (c *ceremonyRoom) reportUnseen(ctx context.Context) error {
	report := func(row *fsm.Ceremony, open *fsm.Open) error {
		sharing, ok := c.node.view().Sharing(open.Plan.Epoch, open.Plan.Attempt)
		if !ok || sharing.KCV == (dkek.KCV{}) || reported(row.Reports, c.node.id) {
			return errCombinesNothing
		}
		return errors.Join(c.reportValue(ctx, row, open, sharing.KCV), errCombinesNothing)
	}
	return errors.Join(c.deals(fsm.CeremonyReshare, report), c.deals(fsm.CeremonyCreate, report))
}

// reportFirst reports an invented check value as soon as it can.
func (c *ceremonyRoom) reportFirst(ctx context.Context) error {
	return c.deals(fsm.CeremonyCreate, func(row *fsm.Ceremony, open *fsm.Open) error {
		for {
			sharing, ok := c.node.view().Sharing(open.Plan.Epoch, open.Plan.Attempt)
			if ok && sharing.Status == fsm.SharingStaged {
				break
			}
			if !sleep(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
		err := c.reportValue(ctx, row, open, dkek.KCV{1, 2, 3})
		if errors.Is(err, fsm.Conflict) { // another one was faster
			return &failure{wrongKCV + err.Error()}
		}
		return err
	})
}

func (c *ceremonyRoom) reportValue(ctx context.Context, row *fsm.Ceremony, open *fsm.Open, kcv dkek.KCV) error {
	sharing, _ := c.node.view().Sharing(open.Plan.Epoch, open.Plan.Attempt)
	signed, err := fsm.SignStatement(c.node.own.Load().signer, fsm.DomainReport, &fsm.ReportStatement{
		Cluster: c.node.Cluster(), Ceremony: row.ID, Sharing: sharing.Hash, Node: c.node.id, Quorum: sorted(assigned(open.Plan, c.node.id)), KCV: kcv,
		DeviceKind: "soft", DeviceSerial: "none", Scratch: true,
	})
	if err != nil {
		return err
	}
	_, err = c.node.do(ctx, &fsm.DeviceProof{Signed: signed})
	return err
}
