package dkek

import (
	"github.com/keycustodian/keycustodian/internal/secret"
)

// Bundle is a holder's share: one sub-share per dealer, in locked memory, with
// every commitment checked. Its methods may be called concurrently.
type Bundle struct {
	hidden
	holder  NodeID
	sharing Hash
	data    *Secret // subShareSize bytes per dealer, in the order of Plan.Dealers
}

// NewBundle joins the holder's sub-shares, one of every dealer, in any order,
// and checks each. It copies them: the caller wipes its own.
func NewBundle(sharing *Sharing, holder NodeID, subs []*SubShare) (*Bundle, error) {
	const op = "new bundle"
	if err := sharing.Validate(); err != nil {
		return nil, err
	}
	fail := func(dealer NodeID, reason Reason) (*Bundle, error) {
		return nil, &ShareError{Op: op, Holder: holder, Dealer: dealer, Reason: reason}
	}
	data := secret.New(len(sharing.Dealings) * subShareSize)
	seen := make(map[NodeID]bool)
	for _, sub := range subs {
		place := sharing.Plan.DealerIndex(sub.dealer)
		reason := Reason("")
		switch {
		case place < 0:
			reason = NotHolder
		case seen[sub.dealer]:
			reason = Duplicate
		case sub.holder != holder:
			reason = WrongHolder
		case sub.data.Len() != subShareSize:
			reason = Wiped
		}
		if reason != "" {
			data.Wipe()
			return fail(sub.dealer, reason)
		}
		seen[sub.dealer] = true
		data.With(func(q []byte) {
			sub.data.With(func(p []byte) { copy(q[place*subShareSize:], p) })
		})
	}
	for _, dealer := range sharing.Plan.Dealers {
		if !seen[dealer.Node] {
			data.Wipe()
			return fail(dealer.Node, TooFew)
		}
	}
	return newBundle(op, sharing, holder, data)
}

// newBundle takes data over: it is wiped unless the bundle is good.
func newBundle(op string, sharing *Sharing, holder NodeID, data *Secret) (*Bundle, error) {
	b := &Bundle{holder: holder, sharing: sharing.Hash(), data: data}
	if data.Len() != len(sharing.Dealings)*subShareSize {
		data.Wipe()
		return nil, &ShareError{Op: op, Holder: holder, Reason: BadLength}
	}
	if err := b.check(op, sharing); err != nil {
		data.Wipe()
		return nil, err
	}
	return b, nil
}

// Check compares every sub-share with its commitment and names the dealer of
// the first that differs.
func (b *Bundle) Check(sharing *Sharing) error {
	if err := sharing.Validate(); err != nil {
		return err
	}
	return b.check("check share", sharing)
}

func (b *Bundle) check(op string, sharing *Sharing) error {
	fail := func(dealer NodeID, reason Reason) error {
		return &ShareError{Op: op, Holder: b.holder, Dealer: dealer, Reason: reason}
	}
	i := sharing.Plan.HolderIndex(b.holder)
	if i < 0 {
		return fail(NodeID{}, NotHolder)
	}
	if b.sharing != sharing.Hash() {
		return fail(NodeID{}, WrongSharing)
	}
	var err error
	b.data.With(func(p []byte) {
		if len(p) != len(sharing.Dealings)*subShareSize {
			err = fail(NodeID{}, Wiped)
			return
		}
		for d := range sharing.Dealings {
			sub := p[d*subShareSize : (d+1)*subShareSize]
			if reason := checkSub(&sharing.Plan, &sharing.Dealings[d], i, sub); reason != "" {
				err = fail(sharing.Dealings[d].Dealer, reason)
				return
			}
		}
	})
	return err
}

// Holder says whose share it is.
func (b *Bundle) Holder() NodeID { return b.holder }

// SharingHash says of which sharing.
func (b *Bundle) SharingHash() Hash { return b.sharing }

// Wipe forgets the share in memory.
func (b *Bundle) Wipe() { b.data.Wipe() }

// SealRelease seals the whole share, unscaled, to a recipient: a share leaves
// its holder here and nowhere else. info is the whole transcript of the
// ceremony; that it is approved and recorded is the caller's to ensure, before.
func (b *Bundle) SealRelease(sharing *Sharing, to PublicKey, info []byte) (Sealed, error) {
	if err := b.Check(sharing); err != nil {
		return Sealed{}, err
	}
	return claim(KindBundle, &sharing.Plan, NodeID{}, b.holder).seal(to, b.sharing, info, b.data)
}

// OpenRelease opens what a holder released and checks every sub-share in it:
// the error names the holder, and the dealer whose sub-share is not what it
// committed to.
func OpenRelease(key *RecipientKey, sealed Sealed, info []byte, sharing *Sharing, holder NodeID) (*Bundle, error) {
	const op = "open release"
	if err := sharing.Validate(); err != nil {
		return nil, err
	}
	if sharing.Plan.HolderIndex(holder) < 0 {
		return nil, &ShareError{Op: op, Holder: holder, Reason: NotHolder}
	}
	data, err := sealed.open(op, claim(KindBundle, &sharing.Plan, NodeID{}, holder), key, sharing.Hash(), info)
	if err != nil {
		return nil, err
	}
	return newBundle(op, sharing, holder, data)
}
