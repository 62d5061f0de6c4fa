package dkek

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/vault/shamir"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// SubShares is what one dealer has dealt and not yet handed over. Wipe it when every
// holder has acknowledged, or the attempt has ended.
type SubShares struct {
	hidden
	plan   Plan
	public Dealing
	subs   []*SubShare // in the order of plan.Holders
}

// SubShare is what one dealer gave one holder: y (32) || x (1) || salt (16).
type SubShare struct {
	hidden
	dealer, holder NodeID
	data           *Secret
}

// Deal splits a secret of Size bytes for the plan's holders. At the first
// dealing of a DKEK of origin dealt or single, s is nil and the secret is drawn
// here and forgotten; at a reshare it is the dealer's [Partial] of the previous
// sharing, and at an import what was typed in. The caller wipes s.
func Deal(plan *Plan, dealer NodeID, s *Secret) (*SubShares, error) {
	const op = "deal"
	if err := plan.Validate(); err != nil {
		return nil, err
	}
	if plan.DealerIndex(dealer) < 0 {
		return nil, &ShareError{Op: op, Dealer: dealer, Reason: NotHolder}
	}
	first := plan.Previous == Hash{}
	switch {
	case s == nil && (!first || plan.Origin == Imported):
		return nil, fmt.Errorf("dkek: deal: a reshare deals a partial and an import what was typed: no secret was given")
	case s != nil && first && plan.Origin == Dealt:
		return nil, fmt.Errorf("dkek: deal: origin %q means that the secret is drawn here: none may be given", Dealt)
	case s == nil:
		s = secret.Random(Size)
		defer s.Wipe()
	}
	if s.Len() != Size {
		return nil, &ShareError{Op: op, Dealer: dealer, Reason: BadLength}
	}
	points, err := split(s, len(plan.Holders), plan.Threshold)
	if err != nil {
		return nil, err
	}
	defer wipeAll(points)
	d := &SubShares{plan: plan.clone(), public: Dealing{Dealer: dealer}}
	for i, holder := range plan.Holders {
		sub := &SubShare{dealer: dealer, holder: holder.Node, data: secret.New(subShareSize)}
		d.subs = append(d.subs, sub)
		sub.data.With(func(q []byte) {
			points[i].With(func(p []byte) { copy(q, p) })
			rand.Read(q[Size+1:])
			d.public.X = append(d.public.X, q[Size])
			d.public.Commitments = append(d.public.Commitments, commitment(plan, dealer, holder.Node, q))
		})
	}
	if err := d.public.Validate(plan); err != nil {
		d.Wipe()
		return nil, err
	}
	return d, nil
}

// split returns n points of random polynomials of degree t-1 through s, each
// y (32) || x (1). Their x are distinct, not 0, and public: shamir draws them
// from math/rand, which is enough for that.
func split(s *Secret, n, t int) ([]*Secret, error) {
	points := make([]*Secret, n)
	for i := range points {
		points[i] = secret.New(Size + 1)
	}
	var err error
	s.With(func(p []byte) {
		if t == 1 { // not split: a polynomial of degree 0 is its secret everywhere
			for i := range points {
				points[i].With(func(q []byte) { q[copy(q, p)] = byte(i + 1) })
			}
			return
		}
		var raw [][]byte
		if raw, err = shamir.Split(p, n, t); err != nil {
			return
		}
		for i := range points {
			points[i].With(func(q []byte) { copy(q, raw[i]) })
			secret.Wipe(raw[i])
		}
	})
	if err != nil {
		wipeAll(points)
		return nil, fmt.Errorf("dkek: split: %w", err)
	}
	return points, nil
}

func wipeAll(secrets []*Secret) {
	for _, s := range secrets {
		s.Wipe()
	}
}

func (p *Plan) clone() Plan {
	c := *p
	c.Holders = append([]Holder(nil), p.Holders...)
	c.Dealers = append([]Holder(nil), p.Dealers...)
	return c
}

// commitment binds a sub-share to its place. It hides y: the salt's 128 random
// bits are as secret as y is, so no guess of a y can be checked against it.
func commitment(plan *Plan, dealer, holder NodeID, sub []byte) Hash {
	b := make([]byte, 0, len(commitmentDomain)+16+8+8+16+16+subShareSize)
	b = append(b, commitmentDomain...)
	b = append(b, plan.Cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, plan.Epoch)
	b = binary.BigEndian.AppendUint64(b, plan.Attempt)
	b = append(b, dealer[:]...)
	b = append(b, holder[:]...)
	b = append(b, sub[Size])
	b = append(b, sub[:Size]...)
	b = append(b, sub[Size+1:]...)
	hash := sha256.Sum256(b)
	secret.Wipe(b)
	return hash
}

// checkSub says what is wrong with a sub-share of the i-th holder, or "".
func checkSub(plan *Plan, dealing *Dealing, i int, sub []byte) Reason {
	switch {
	case len(sub) != subShareSize:
		return BadLength
	case sub[Size] == 0:
		return ZeroX
	case sub[Size] != dealing.X[i] || commitment(plan, dealing.Dealer, plan.Holders[i].Node, sub) != dealing.Commitments[i]:
		return Forged
	}
	return ""
}

// Public returns the half that is recorded in the sharing.
func (d *SubShares) Public() Dealing {
	return Dealing{
		Dealer:      d.public.Dealer,
		X:           append([]byte(nil), d.public.X...),
		Commitments: append([]Hash(nil), d.public.Commitments...),
	}
}

// SealFor seals the holder's sub-share to the key that it made for this attempt.
// info is the whole transcript of the ceremony.
func (d *SubShares) SealFor(holder NodeID, to PublicKey, info []byte) (Sealed, error) {
	i := d.plan.HolderIndex(holder)
	if i < 0 {
		return Sealed{}, &ShareError{Op: "seal sub-share", Holder: holder, Reason: NotHolder}
	}
	return claim(KindSubShare, &d.plan, d.public.Dealer, holder).seal(to, d.plan.Hash(), info, d.subs[i].data)
}

// Wipe forgets every sub-share.
func (d *SubShares) Wipe() {
	for _, sub := range d.subs {
		sub.Wipe()
	}
}

// OpenSubShare opens what a dealer sealed to this holder and checks it against
// the dealer's commitment. info must be what the dealer was given.
func OpenSubShare(key *RecipientKey, sealed Sealed, info []byte, plan *Plan, dealing *Dealing, holder NodeID) (*SubShare, error) {
	const op = "open sub-share"
	if err := plan.Validate(); err != nil {
		return nil, err
	}
	if err := dealing.Validate(plan); err != nil {
		return nil, err
	}
	i := plan.HolderIndex(holder)
	if i < 0 {
		return nil, &ShareError{Op: op, Holder: holder, Reason: NotHolder}
	}
	data, err := sealed.open(op, claim(KindSubShare, plan, dealing.Dealer, holder), key, plan.Hash(), info)
	if err != nil {
		return nil, err
	}
	var reason Reason
	data.With(func(p []byte) { reason = checkSub(plan, dealing, i, p) })
	if reason != "" {
		data.Wipe()
		return nil, &ShareError{Op: op, Holder: holder, Dealer: dealing.Dealer, Reason: reason}
	}
	return &SubShare{dealer: dealing.Dealer, holder: holder, data: data}, nil
}

// Dealer says who dealt this sub-share.
func (s *SubShare) Dealer() NodeID { return s.dealer }

// Wipe forgets the sub-share.
func (s *SubShare) Wipe() { s.data.Wipe() }
