package dkek_test

import (
	"bytes"
	"testing"

	"github.com/hashicorp/vault/shamir"
	"pgregory.net/rapid"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// pick draws t distinct holders in random order.
func pick(r *rapid.T, holders []dkek.Holder, t int) []dkek.NodeID {
	return rapid.Permutation(ids(holders)).Draw(r, "quorum")[:t]
}

func xor(secrets ...[]byte) []byte {
	sum := make([]byte, dkek.Size)
	for _, s := range secrets {
		for i := range sum {
			sum[i] ^= s[i]
		}
	}
	return sum
}

// Any t holders give the XOR of what the dealers dealt, whatever n and t are,
// and the same as hashicorp's own Combine of every dealer's sub-shares.
func TestAnyQuorumGivesTheXOROfAllDealersSecrets(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, dkek.MaxHolders).Draw(r, "n")
		threshold := rapid.IntRange(2, n).Draw(r, "t")
		dealers := rapid.IntRange(1, 4).Draw(r, "dealers")
		plan := firstPlan(n, threshold)
		plan.Origin, plan.Dealers = dkek.Imported, nodes(upTo(dealers)...) // imported: the test may choose the secrets
		secrets, all := make(map[dkek.NodeID]*dkek.Secret), [][]byte{}
		for _, dealer := range plan.Dealers {
			s := rapid.SliceOfN(rapid.Byte(), dkek.Size, dkek.Size).Draw(r, "secret")
			all = append(all, s)
			secrets[dealer.Node] = secret.Take(bytes.Clone(s))
		}
		s := deal(r, plan, secrets)
		quorum := pick(r, plan.Holders, threshold)
		got := reveal(s.combine(r, quorum))
		if !bytes.Equal(got, xor(all...)) {
			r.Fatalf("quorum %v: not the XOR of the dealers' secrets", quorum)
		}
		if !bytes.Equal(got, s.shamirCombine(r, quorum)) {
			r.Fatalf("quorum %v: not what shamir.Combine gives", quorum)
		}
	})
}

// shamirCombine opens releases by hand, combines each dealer's sub-shares with
// hashicorp's code and XORs the results.
func (s sharing) shamirCombine(t fataler, quorum []dkek.NodeID) []byte {
	t.Helper()
	opened := make([][]byte, len(quorum))
	for i, holder := range quorum {
		opened[i] = s.open(t, holder)
	}
	var all [][]byte
	for d := range s.Dealings {
		var points [][]byte
		for i := range quorum {
			points = append(points, opened[i][d*49:d*49+33])
		}
		one, err := shamir.Combine(points)
		check(t, err)
		all = append(all, one)
	}
	return xor(all...)
}

// A fresh dealing, from 1 of 1 to 15 of 15: every proof quorum gives the same
// check value and every holder is in one of them.
func TestProofQuorumsOfAFreshDealingAgree(t *testing.T) {
	for _, c := range []struct{ n, t int }{{1, 1}, {2, 1}, {2, 2}, {3, 2}, {5, 3}, {5, 5}, {7, 2}, {15, 8}} {
		plan := firstPlan(c.n, c.t)
		s := deal(t, plan, nil)
		quorums := dkek.ProofQuorums(plan)
		if len(quorums) != c.n-c.t+1 {
			t.Fatalf("%d of %d: %d quorums, want %d", c.t, c.n, len(quorums), c.n-c.t+1)
		}
		seen, kcv := make(map[dkek.NodeID]bool), dkek.KCV{}
		for i, quorum := range quorums {
			for _, holder := range quorum {
				seen[holder] = true
			}
			got := dkek.KCVOf(s.combine(t, quorum))
			if i > 0 && got != kcv {
				t.Fatalf("%d of %d: quorum %d gives %v, the first %v", c.t, c.n, i, got, kcv)
			}
			kcv = got
		}
		if len(seen) != c.n {
			t.Fatalf("%d of %d: %d holders are in a proof quorum", c.t, c.n, len(seen))
		}
	}
}

// The DKEK survives any chain of reshares, with n and t changing each time, and
// with only t of the old holders there to deal.
func TestReshareChainKeepsTheDKEK(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(r, "n")
		threshold := rapid.IntRange(1, n).Draw(r, "t")
		s := deal(r, firstPlan(n, threshold), nil)
		want := s.combine(r, ids(s.Plan.Holders[:threshold]))
		for range rapid.IntRange(1, 4).Draw(r, "reshares") {
			var dealers []dkek.Holder
			for _, id := range sorted(pick(r, s.Plan.Holders, s.Plan.Threshold)) {
				dealers = append(dealers, s.Plan.Holders[s.Plan.HolderIndex(id)])
			}
			var numbers []int
			for i := 1; i <= 9; i++ {
				if len(numbers) < 7 && rapid.Bool().Draw(r, "member") {
					numbers = append(numbers, i)
				}
			}
			if len(numbers) == 0 {
				numbers = []int{1}
			}
			threshold := rapid.IntRange(1, len(numbers)).Draw(r, "new t")
			if threshold == 1 && len(numbers) > 1 && s.Plan.Origin == dkek.Dealt && rapid.Bool().Draw(r, "stay split") {
				threshold = 2
			}
			s = s.reshare(r, dealers, nodes(numbers...), threshold)
			if !s.combine(r, pick(r, s.Plan.Holders, s.Plan.Threshold)).Equal(want) {
				r.Fatalf("epoch %d has another DKEK", s.Plan.Epoch)
			}
		}
	})
}

// The XOR of t-1 partials never is the DKEK, and nothing is scaled for a quorum
// of t-1.
func TestFewerThanThresholdDoNotCombine(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(r, "n")
		threshold := rapid.IntRange(2, n).Draw(r, "t")
		s := deal(r, firstPlan(n, threshold), nil)
		quorum := pick(r, s.Plan.Holders, threshold)
		want := reveal(s.combine(r, quorum))
		var sum [][]byte
		for _, holder := range quorum[1:] {
			sum = append(sum, reveal(s.partial(r, quorum, holder)))
		}
		if bytes.Equal(xor(sum...), want) {
			r.Fatalf("%d of %d partials are the DKEK", threshold-1, threshold)
		}
		_, err := dkek.Partial(s.Sharing, quorum[1:], s.bundles[quorum[1]])
		refused(r, err, dkek.TooFew, dkek.NodeID{}, dkek.NodeID{})
	})
}

// A dealer that deals another secret than its partial keeps all its own
// promises; only the check value of the result shows it, and another old quorum
// without it mends it.
func TestBadDealerInReshareShowsAsWrongKCV(t *testing.T) {
	s := deal(t, firstPlan(5, 3), nil)
	plan, secrets := s.resharePlan(t, nodes(1, 2, 3), nodes(1, 2, 3, 4, 6), 3)
	secrets[id(2)] = secret.Random(dkek.Size)
	bad := deal(t, plan, secrets)
	for _, quorum := range dkek.ProofQuorums(plan) {
		var partials []*dkek.Secret
		for _, holder := range quorum {
			partials = append(partials, bad.partial(t, quorum, holder))
		}
		_, err := dkek.Combine(plan, partials, plan.KCV)
		refused(t, err, dkek.WrongKCV, dkek.NodeID{}, dkek.NodeID{})
	}
	good := s.reshare(t, nodes(1, 3, 4), nodes(1, 2, 3, 4, 6), 3)
	if dkek.KCVOf(good.combine(t, ids(nodes(2, 4, 6)))) != plan.KCV {
		t.Fatal("the reshare without the bad dealer has another DKEK")
	}
}

// A dealer whose sub-shares do not lie on one polynomial of degree t-1 is found
// by the proof quorums: they disagree.
func TestInconsistentDealerIsFoundByProofQuorums(t *testing.T) {
	a, b := deal(t, firstPlan(4, 2), nil), deal(t, firstPlan(4, 2), nil)
	// Holder 4 gets dealer 1's sub-share from another polynomial, with a
	// commitment to match: dealer 1 lies about nothing else.
	mixed := *a.Sharing
	mixed.Dealings = append([]dkek.Dealing(nil), a.Dealings...)
	mixed.Dealings[0].X = bytes.Clone(a.Dealings[0].X)
	mixed.Dealings[0].Commitments = append([]dkek.Hash(nil), a.Dealings[0].Commitments...)
	sub := b.open(t, id(4))[:49]
	for bytes.IndexByte(a.Dealings[0].X[:3], sub[32]) >= 0 {
		b = deal(t, firstPlan(4, 2), nil)
		sub = b.open(t, id(4))[:49]
	}
	mixed.Dealings[0].X[3], mixed.Dealings[0].Commitments[3] = b.Dealings[0].X[3], b.Dealings[0].Commitments[3]
	key := newKey(t, dkek.X25519())
	bundles := make(map[dkek.NodeID]*dkek.Bundle)
	for i := 1; i <= 4; i++ {
		data := a.open(t, id(i))
		if i == 4 {
			copy(data, sub)
		}
		bundle, err := dkek.OpenRelease(key, forge(t, release(a, id(i)), mixed.Hash(), key.Public(), data), transcript, &mixed, id(i))
		check(t, err)
		bundles[id(i)] = bundle
	}
	s, found := sharing{&mixed, bundles}, make(map[dkek.KCV]bool)
	for _, quorum := range dkek.ProofQuorums(&mixed.Plan) {
		found[dkek.KCVOf(s.combine(t, quorum))] = true
	}
	if len(found) != 2 {
		t.Fatalf("%d check values, want 2: the lie in holder 4's sub-share went unseen", len(found))
	}
}
