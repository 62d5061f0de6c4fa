package dkek

import (
	"crypto/sha256"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// Partial scales the bundle for one quorum: for every dealer the Lagrange
// coefficient at 0 times y, XORed over the dealers. The XOR of the partials of
// the whole quorum is the DKEK; a device does that itself. quorum is exactly t
// distinct holders, the bundle's among them, in any order. The caller wipes the
// result.
func Partial(sharing *Sharing, quorum []NodeID, bundle *Bundle) (*Secret, error) {
	const op = "partial"
	if err := bundle.Check(sharing); err != nil {
		return nil, err
	}
	if err := validateQuorum(op, &sharing.Plan, quorum); err != nil {
		return nil, err
	}
	own := -1
	for i, id := range quorum {
		if id == bundle.holder {
			own = i
		}
	}
	if own < 0 {
		return nil, &ShareError{Op: op, Holder: bundle.holder, Reason: NotHolder, Detail: "not in this quorum"}
	}
	partial, wiped := secret.New(Size), false
	x := make([]byte, len(quorum))
	bundle.data.With(func(p []byte) {
		if wiped = len(p) == 0; wiped { // between Check and here
			return
		}
		for d := range sharing.Dealings {
			for i, id := range quorum {
				x[i] = sharing.Dealings[d].X[sharing.Plan.HolderIndex(id)]
			}
			y := p[d*subShareSize : d*subShareSize+Size]
			partial.With(func(sum []byte) { addScaled(sum, y, coefficient(x, own)) })
		}
	})
	if wiped {
		partial.Wipe()
		return nil, &ShareError{Op: op, Holder: bundle.holder, Reason: Wiped}
	}
	return partial, nil
}

func validateQuorum(op string, plan *Plan, quorum []NodeID) error {
	seen := make(map[NodeID]bool)
	for _, id := range quorum {
		if plan.HolderIndex(id) < 0 {
			return &ShareError{Op: op, Holder: id, Reason: NotHolder}
		}
		if seen[id] {
			return &ShareError{Op: op, Holder: id, Reason: Duplicate}
		}
		seen[id] = true
	}
	if len(quorum) < plan.Threshold {
		return tooFew(op, len(quorum), plan.Threshold)
	}
	if len(quorum) > plan.Threshold {
		return &ShareError{Op: op, Reason: BadLength, Detail: fmt.Sprintf("a quorum of %d where the threshold is %d", len(quorum), plan.Threshold)}
	}
	return nil
}

func tooFew(op string, have, want int) error {
	return &ShareError{Op: op, Reason: TooFew, Detail: fmt.Sprintf("%d of %d", have, want)}
}

// Combine XORs the t partials of one quorum: for devices that cannot. The
// result exists in this process's memory: use it, wipe it, and say so. want is
// the DKEK's check value; zero only where nobody knows it yet.
func Combine(plan *Plan, partials []*Secret, want KCV) (*Secret, error) {
	const op = "combine"
	if len(partials) < plan.Threshold {
		return nil, tooFew(op, len(partials), plan.Threshold)
	}
	if len(partials) > plan.Threshold {
		return nil, &ShareError{Op: op, Reason: BadLength, Detail: fmt.Sprintf("%d partials where the threshold is %d", len(partials), plan.Threshold)}
	}
	sum := secret.New(Size)
	for _, partial := range partials {
		if partial.Len() != Size {
			sum.Wipe()
			return nil, &ShareError{Op: op, Reason: BadLength}
		}
		sum.With(func(q []byte) {
			partial.With(func(p []byte) { addScaled(q, p, 1) })
		})
	}
	if want != (KCV{}) && KCVOf(sum) != want {
		sum.Wipe()
		return nil, &ShareError{Op: op, Reason: WrongKCV}
	}
	return sum, nil
}

// KCVOf returns a DKEK's check value: the first 8 bytes of its SHA-256.
func KCVOf(s *Secret) KCV {
	var kcv KCV
	s.With(func(p []byte) {
		hash := sha256.Sum256(p)
		copy(kcv[:], hash[:])
	})
	return kcv
}

// ProofQuorums returns the n-t+1 quorums that prove a sharing: the first t-1
// holders with each of the others in turn, so that every holder is in one. When
// each gives the same check value, then all quorums do: t-1 points and the value at
// 0 fix the polynomial that the others lie on.
func ProofQuorums(plan *Plan) [][]NodeID {
	var quorums [][]NodeID
	for last := plan.Threshold - 1; last < len(plan.Holders); last++ {
		var quorum []NodeID
		for _, holder := range plan.Holders[:plan.Threshold-1] {
			quorum = append(quorum, holder.Node)
		}
		quorums = append(quorums, append(quorum, plan.Holders[last].Node))
	}
	return quorums
}
