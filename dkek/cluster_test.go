package dkek_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// fataler is a *testing.T, a *testing.F or a *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

var transcript = []byte("cluster, incarnation, ceremony, open, approvals")

// id makes a node's identity from a number; ascending in the number.
func id(n int) (node dkek.NodeID) {
	node[0], node[15] = 0xA0, byte(n)
	return node
}

func nodes(numbers ...int) []dkek.Holder {
	var list []dkek.Holder
	for _, n := range numbers {
		list = append(list, dkek.Holder{Node: id(n), Fingerprint: sha256.Sum256([]byte{byte(n)})})
	}
	return list
}

func ids(list []dkek.Holder) []dkek.NodeID {
	var out []dkek.NodeID
	for _, h := range list {
		out = append(out, h.Node)
	}
	return out
}

func upTo(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i+1)
	}
	return numbers
}

// firstPlan is a create with n holders, numbered from 1.
func firstPlan(n, t int) *dkek.Plan {
	origin := dkek.Dealt
	if t == 1 {
		origin = dkek.Single
	}
	return &dkek.Plan{Cluster: dkek.ClusterID{1, 2, 3}, Epoch: 1, Attempt: 1, Threshold: t, Origin: origin,
		Holders: nodes(upTo(n)...), Dealers: nodes(upTo(n)...)}
}

// sharing is a dealt sharing with all its bundles, as the nodes hold them.
type sharing struct {
	*dkek.Sharing
	bundles map[dkek.NodeID]*dkek.Bundle
}

// deal runs one dealing through every public door: deal, seal, open, join.
// secrets holds what each dealer deals; none at a create.
func deal(t fataler, plan *dkek.Plan, secrets map[dkek.NodeID]*dkek.Secret) sharing {
	t.Helper()
	// One key serves all holders: what binds a sub-share to its holder is the
	// claim and the commitment. X25519 alone is quicker than the hybrid.
	key := newKey(t, dkek.X25519())
	var dealings []dkek.Dealing
	subs := make(map[dkek.NodeID][]*dkek.SubShare)
	for _, dealer := range plan.Dealers {
		dealt, err := dkek.Deal(plan, dealer.Node, secrets[dealer.Node])
		check(t, err)
		public := dealt.Public()
		dealings = append(dealings, public)
		for _, holder := range plan.Holders {
			sealed, err := dealt.SealFor(holder.Node, key.Public(), transcript)
			check(t, err)
			sub, err := dkek.OpenSubShare(key, sealed, transcript, plan, &public, holder.Node)
			check(t, err)
			subs[holder.Node] = append(subs[holder.Node], sub)
		}
		dealt.Wipe()
	}
	joined, err := dkek.NewSharing(plan, dealings)
	check(t, err)
	s := sharing{joined, make(map[dkek.NodeID]*dkek.Bundle)}
	for _, holder := range plan.Holders {
		bundle, err := dkek.NewBundle(joined, holder.Node, subs[holder.Node])
		check(t, err)
		s.bundles[holder.Node] = bundle
	}
	return s
}

// combine puts the DKEK together from one quorum.
func (s sharing) combine(t fataler, quorum []dkek.NodeID) *dkek.Secret {
	t.Helper()
	var partials []*dkek.Secret
	for _, holder := range quorum {
		partials = append(partials, s.partial(t, quorum, holder))
	}
	whole, err := dkek.Combine(&s.Plan, partials, dkek.KCV{})
	check(t, err)
	return whole
}

func (s sharing) partial(t fataler, quorum []dkek.NodeID, holder dkek.NodeID) *dkek.Secret {
	t.Helper()
	partial, err := dkek.Partial(s.Sharing, quorum, s.bundles[holder])
	check(t, err)
	return partial
}

// reshare deals the partials of dealers (t of the old holders) to new holders.
func (s sharing) reshare(t fataler, dealers, holders []dkek.Holder, threshold int) sharing {
	t.Helper()
	plan, secrets := s.resharePlan(t, dealers, holders, threshold)
	return deal(t, plan, secrets)
}

func (s sharing) resharePlan(t fataler, dealers, holders []dkek.Holder, threshold int) (*dkek.Plan, map[dkek.NodeID]*dkek.Secret) {
	t.Helper()
	kcv := dkek.KCVOf(s.combine(t, ids(dealers)))
	plan := &dkek.Plan{Cluster: s.Plan.Cluster, Epoch: s.Plan.Epoch + 1, Attempt: 1, Threshold: threshold,
		Origin: s.Plan.Origin, Holders: holders, Dealers: dealers, Previous: s.Hash(), KCV: kcv}
	if threshold == 1 {
		plan.Origin = dkek.Single
	}
	check(t, plan.Follows(s.Sharing, kcv))
	secrets := make(map[dkek.NodeID]*dkek.Secret)
	for _, dealer := range dealers {
		secrets[dealer.Node] = s.partial(t, ids(dealers), dealer.Node)
	}
	return plan, secrets
}

func newKey(t fataler, suite dkek.Suite) *dkek.RecipientKey {
	t.Helper()
	key, err := dkek.NewRecipientKey(suite)
	check(t, err)
	return key
}

func newBox(t fataler, fill byte) *secret.Box {
	t.Helper()
	box, err := secret.NewBox(secret.Take(bytes.Repeat([]byte{fill}, secret.KeySize)), dkek.SealPurpose)
	check(t, err)
	return box
}

func check(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected: %v", err)
	}
}

// refused asserts that err has this reason and names this holder and dealer.
func refused(t fataler, err error, reason dkek.Reason, holder, dealer dkek.NodeID) {
	t.Helper()
	var share *dkek.ShareError
	switch {
	case !errors.Is(err, reason):
		t.Fatalf("got %v, want reason %q", err, reason)
	case !errors.As(err, &share):
		t.Fatalf("%v is not a ShareError", err)
	case share.Holder != holder || share.Dealer != dealer:
		t.Fatalf("%v names holder %v and dealer %v, want %v and %v", err, share.Holder, share.Dealer, holder, dealer)
	}
}

// reveal copies a secret's bytes out, for tests that compare or forge.
func reveal(s *dkek.Secret) []byte {
	var out []byte
	s.With(func(p []byte) { out = bytes.Clone(p) })
	return out
}

// forge seals any bytes as if they were what claimed says: docs/format.md's
// "Sealed sub-shares and releases", written a second time.
func forge(t fataler, claimed dkek.Sealed, about dkek.Hash, to dkek.PublicKey, plaintext []byte) dkek.Sealed {
	t.Helper()
	kem, err := hpke.NewKEM(to.Suite.KEM)
	check(t, err)
	public, err := kem.NewPublicKey(to.Bytes)
	check(t, err)
	claimed.Suite = to.Suite
	claimed.Ciphertext, err = hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), hpkeInfo(claimed, about), plaintext)
	check(t, err)
	return claimed
}

func hpkeInfo(claimed dkek.Sealed, about dkek.Hash) []byte {
	info := []byte("keycustodian dkek seal v1\x00")
	info = append(info, byte(claimed.Kind))
	info = append(info, claimed.Cluster[:]...)
	info = binary.BigEndian.AppendUint64(info, claimed.Epoch)
	info = binary.BigEndian.AppendUint64(info, claimed.Attempt)
	info = append(info, claimed.Dealer[:]...)
	info = append(info, claimed.Holder[:]...)
	info = append(info, about[:]...)
	info = append(info, transcript...)
	return info
}

// release is the claim of a holder's release, without ciphertext.
func release(s sharing, holder dkek.NodeID) dkek.Sealed {
	return dkek.Sealed{Kind: dkek.KindBundle, Cluster: s.Plan.Cluster, Epoch: s.Plan.Epoch, Attempt: s.Plan.Attempt, Holder: holder}
}

// open releases a holder's share to a key of the test and returns its bytes:
// 49 for every dealer.
func (s sharing) open(t fataler, holder dkek.NodeID) []byte {
	t.Helper()
	private, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	check(t, err)
	sealed, err := s.bundles[holder].SealRelease(s.Sharing, dkek.PublicKey{Suite: dkek.X25519(), Bytes: private.PublicKey().Bytes()}, transcript)
	check(t, err)
	data, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), hpkeInfo(sealed, s.Hash()), sealed.Ciphertext)
	check(t, err)
	return data
}

func sorted(list []dkek.NodeID) []dkek.NodeID {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b dkek.NodeID) int { return bytes.Compare(a[:], b[:]) })
	return list
}
