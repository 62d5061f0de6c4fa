//go:build faults

package dkek

// Bend moves a holder's point off the dealer's polynomial and commits to where it is
// then: a lie for tests.
func (d *SubShares) Bend(holder NodeID) {
	i := d.plan.HolderIndex(holder)
	d.subs[i].data.With(func(q []byte) {
		q[0] ^= 1
		d.public.Commitments[i] = commitment(&d.plan, d.public.Dealer, holder, q)
	})
}
