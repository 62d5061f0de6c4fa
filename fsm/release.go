package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// ReleasePurpose says what a released share is for.
type ReleasePurpose string

const (
	ReleaseDeal   ReleasePurpose = "deal"   // a dealer's sub-share for a new holder
	ReleaseGather ReleasePurpose = "gather" // a holder's share for a device
)

// ReleaseRecord is one share that may leave its holder.
type ReleaseRecord struct {
	Holder    dkek.NodeID    `cbor:"1,keyasint"`
	Recipient dkek.NodeID    `cbor:"2,keyasint"`
	Purpose   ReleasePurpose `cbor:"3,keyasint"`
	Key       dkek.Hash      `cbor:"4,keyasint"` // see RecipientStatement.KeyHash
	Index     uint64         `cbor:"5,keyasint"` // in the log
	Time      int64          `cbor:"6,keyasint"`
}

// Release commits that a holder releases to a recipient, before it does. Only
// the holder itself commits it; once more is no change and answers the first
// index. It is legal while the ceremony is approved, unexpired and not closed at
// this command's own index and time.
type Release struct {
	Ceremony  CeremonyID     `cbor:"1,keyasint"`
	Holder    dkek.NodeID    `cbor:"2,keyasint"`
	Recipient dkek.NodeID    `cbor:"3,keyasint"`
	Purpose   ReleasePurpose `cbor:"4,keyasint"`
	Key       dkek.Hash      `cbor:"5,keyasint"` // of the HPKE key in the approved Open
}

func (*Release) Kind() Kind { return KindRelease }

func (b *Release) apply(t *txn) (Value, *Error) {
	if err := t.bySelf(b.Holder); err != nil {
		return Value{}, err
	}
	c, err := t.liveCeremony(b.Ceremony)
	if err != nil {
		return Value{}, err
	}
	if err := t.checkRelease(b, c); err != nil {
		return Value{}, err
	}
	for _, r := range c.Releases {
		if r.Holder == b.Holder && r.Recipient == b.Recipient && r.Purpose == b.Purpose {
			return Value{Number: r.Index}, nil // the key is the same: checkRelease
		}
	}
	next := *c
	next.Releases = append(slices.Clone(c.Releases), ReleaseRecord{
		Holder: b.Holder, Recipient: b.Recipient, Purpose: b.Purpose, Key: b.Key, Index: t.index, Time: t.now,
	})
	t.put(&next)
	t.audit("share release", c.ID.String(), string(b.Purpose)+" "+b.Holder.String()+" to "+b.Recipient.String())
	return Value{Number: t.index}, nil
}

// checkRelease checks who gives and who gets.
func (t *txn) checkRelease(b *Release, c *Ceremony) *Error {
	o, err := parseOpen(c.Open)
	if err != nil {
		return err
	}
	recipients, err := o.recipients()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(recipients, func(r *RecipientStatement) bool { return r.Node.Node == b.Recipient })
	if at < 0 || recipients[at].KeyHash() != b.Key {
		return refuse(NotAllowed, "node %v with this key is no recipient of ceremony %v", b.Recipient, c.ID)
	}
	if m, ok := t.Member(b.Recipient); !ok || m.Holder() != recipients[at].Node {
		return refuse(NotAllowed, "recipient %v is not a member with its key any more", b.Recipient)
	}
	sharing, err := t.reportedOn(c)
	if err != nil {
		return err
	}
	switch b.Purpose {
	case ReleaseDeal:
		if o.Plan == nil || o.Plan.DealerIndex(b.Holder) < 0 {
			return refuse(NotAllowed, "node %v is no dealer in ceremony %v", b.Holder, c.ID)
		}
		if proven, ok := t.Proven(); ok != (o.Source != SharingRef{}) || ok && proven.Ref() != o.Source {
			return refuse(Conflict, "the ceremony's source is not the sharing in force any more")
		}
	case ReleaseGather:
		if !sharing.holds(b.Holder) {
			return refuse(NotAllowed, "node %v is no holder of sharing %d.%d", b.Holder, sharing.Plan.Epoch, sharing.Plan.Attempt)
		}
		if sharing.Status != SharingStaged && sharing.Status != SharingProven {
			return refuse(WrongState, "sharing %d.%d is %s", sharing.Plan.Epoch, sharing.Plan.Attempt, sharing.Status)
		}
	default:
		return refuse(BadRequest, "unknown purpose %.40q", b.Purpose)
	}
	return nil
}
