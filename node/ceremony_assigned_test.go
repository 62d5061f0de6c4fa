package node

import (
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
)

// One holder may have dealt wrongly and report what it has not seen. What all others
// prove leaves, for every number of holders and every threshold, nothing but shares
// that lie on one polynomial: as many unknowns as that has coefficients.
func TestAnyHoldersButOneProveASharing(t *testing.T) {
	for n := 2; n <= dkek.MaxHolders; n++ {
		for threshold := n/2 + 1; threshold <= n; threshold++ {
			plan := &dkek.Plan{Threshold: threshold}
			for i := range n {
				plan.Holders = append(plan.Holders, dkek.Holder{Node: dkek.NodeID{byte(i + 1)}})
			}
			for liar := range n {
				var equations [][]int
				for i, h := range plan.Holders {
					if i != liar {
						equations = append(equations, combining(plan, assigned(plan, h.Node)))
					}
				}
				if unknown := n + 1 - rank(equations); unknown != threshold {
					t.Errorf("%d of %d, without what holder %d proves: %d unknowns", threshold, n, liar, unknown)
				}
			}
		}
	}
}

// field is the prime of the numbers in these equations: x of a holder is its place.
const field = 65537

// combining is the equation "the quorum's shares make the secret": a coefficient for
// each holder's share, and one for the secret.
func combining(plan *dkek.Plan, quorum []dkek.NodeID) []int {
	equation := make([]int, len(plan.Holders)+1)
	for _, id := range quorum {
		x, coefficient := plan.HolderIndex(id)+1, 1
		for _, other := range quorum {
			if y := plan.HolderIndex(other) + 1; y != x {
				coefficient = coefficient * y % field * inverse(y-x) % field
			}
		}
		equation[x-1] = coefficient
	}
	equation[len(plan.Holders)] = field - 1
	return equation
}

func inverse(a int) int {
	result, base := 1, (a%field+field)%field
	for e := field - 2; e > 0; e >>= 1 {
		if e&1 == 1 {
			result = result * base % field
		}
		base = base * base % field
	}
	return result
}

// rank is by Gauss.
func rank(rows [][]int) (rank int) {
	for column := range rows[0] {
		pivot := rank
		for pivot < len(rows) && rows[pivot][column] == 0 {
			pivot++
		}
		if pivot == len(rows) {
			continue
		}
		rows[rank], rows[pivot] = rows[pivot], rows[rank]
		for _, row := range rows[rank+1:] {
			factor := row[column] * inverse(rows[rank][column]) % field
			for i := range row {
				row[i] = ((row[i]-factor*rows[rank][i])%field + field) % field
			}
		}
		if rank++; rank == len(rows) {
			break
		}
	}
	return rank
}
