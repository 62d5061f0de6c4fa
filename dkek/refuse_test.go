package dkek_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

var nobody dkek.NodeID

// changed returns a copy of the plan's sharing as another cluster, epoch or
// attempt would have it.
func changed(s sharing, change func(*dkek.Plan)) *dkek.Sharing {
	other := *s.Sharing
	change(&other.Plan)
	return &other
}

// Every way in which a release can be wrong has its reason and names its holder.
func TestReleaseRefusals(t *testing.T) {
	s := deal(t, firstPlan(3, 2), nil)
	stranger := deal(t, firstPlan(3, 2), nil) // same numbers, other dealings
	key := newKey(t, dkek.Hybrid())
	good, err := s.bundles[id(2)].SealRelease(s.Sharing, key.Public(), transcript)
	check(t, err)
	data := s.open(t, id(2))
	with := func(change func(*dkek.Sealed)) dkek.Sealed {
		c := good
		c.Ciphertext = bytes.Clone(good.Ciphertext)
		change(&c)
		return c
	}
	forged := func(change func([]byte) []byte) dkek.Sealed {
		return forge(t, release(s, id(2)), s.Hash(), key.Public(), change(bytes.Clone(data)))
	}
	for _, c := range []struct {
		name   string
		sealed dkek.Sealed
		info   string
		reason dkek.Reason
		dealer dkek.NodeID
	}{
		{name: "other cluster", sealed: with(func(s *dkek.Sealed) { s.Cluster[0]++ }), reason: dkek.WrongCluster},
		{name: "other epoch", sealed: with(func(s *dkek.Sealed) { s.Epoch++ }), reason: dkek.WrongEpoch},
		{name: "other attempt", sealed: with(func(s *dkek.Sealed) { s.Attempt++ }), reason: dkek.WrongAttempt},
		{name: "other holder", sealed: with(func(s *dkek.Sealed) { s.Holder = id(1) }), reason: dkek.WrongHolder},
		{name: "a dealer where none belongs", sealed: with(func(s *dkek.Sealed) { s.Dealer = id(1) }), reason: dkek.WrongDealer},
		{name: "a sub-share for a release", sealed: with(func(s *dkek.Sealed) { s.Kind = dkek.KindSubShare }), reason: dkek.WrongKind},
		{name: "other suite", sealed: with(func(s *dkek.Sealed) { s.Suite = dkek.X25519() }), reason: dkek.WrongSuite},
		{name: "oversized", sealed: with(func(s *dkek.Sealed) { s.Ciphertext = make([]byte, 1<<20) }), reason: dkek.BadLength},
		{name: "cut short", sealed: with(func(s *dkek.Sealed) { s.Ciphertext = s.Ciphertext[:100] }), reason: dkek.Unopened},
		{name: "empty", sealed: with(func(s *dkek.Sealed) { s.Ciphertext = nil }), reason: dkek.Unopened},
		{name: "other transcript", sealed: good, info: "another ceremony", reason: dkek.Unopened},
		{name: "other sharing of the same numbers", sealed: forge(t, release(s, id(2)), stranger.Hash(), key.Public(), data), reason: dkek.Unopened},
		{name: "no plaintext", sealed: forged(func([]byte) []byte { return nil }), reason: dkek.BadLength},
		{name: "one byte short", sealed: forged(func(b []byte) []byte { return b[1:] }), reason: dkek.BadLength},
		{name: "one sub-share more", sealed: forged(func(b []byte) []byte { return append(b, b[:49]...) }), reason: dkek.BadLength},
		{name: "lies in y of dealer 2", sealed: forged(func(b []byte) []byte { b[49+5] ^= 1; return b }), reason: dkek.Forged, dealer: id(2)},
		{name: "lies in x of dealer 3", sealed: forged(func(b []byte) []byte { b[98+32] ^= 128; return b }), reason: dkek.Forged, dealer: id(3)},
		{name: "lies in the salt of dealer 1", sealed: forged(func(b []byte) []byte { b[48] ^= 1; return b }), reason: dkek.Forged, dealer: id(1)},
		{name: "x = 0", sealed: forged(func(b []byte) []byte { b[49+32] = 0; return b }), reason: dkek.ZeroX, dealer: id(2)},
		{name: "sub-shares swapped", sealed: forged(func(b []byte) []byte { return append(append(b[49:98:98], b[:49]...), b[98:]...) }), reason: dkek.Forged, dealer: id(1)},
		{name: "holder 1's share under 2's name", sealed: forge(t, release(s, id(2)), s.Hash(), key.Public(), s.open(t, id(1))), reason: dkek.Forged, dealer: id(1)},
		{name: "a share of another dealing", sealed: forge(t, release(s, id(2)), s.Hash(), key.Public(), stranger.open(t, id(2))), reason: dkek.Forged, dealer: id(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			info := transcript
			if c.info != "" {
				info = []byte(c.info)
			}
			_, err := dkek.OpenRelease(key, c.sealed, info, s.Sharing, id(2))
			refused(t, err, c.reason, id(2), c.dealer)
			if !strings.Contains(err.Error(), id(2).String()) {
				t.Fatalf("%q does not name the holder", err)
			}
		})
	}
	_, err = dkek.OpenRelease(newKey(t, dkek.Hybrid()), good, transcript, s.Sharing, id(2))
	refused(t, err, dkek.Unopened, id(2), nobody)
	_, err = dkek.OpenRelease(key, good, transcript, s.Sharing, id(9))
	refused(t, err, dkek.NotHolder, id(9), nobody)
	bundle, err := dkek.OpenRelease(key, good, transcript, s.Sharing, id(2))
	check(t, err) // and the good one is good
	key.Wipe()
	_, err = dkek.OpenRelease(key, good, transcript, s.Sharing, id(2))
	refused(t, err, dkek.Wiped, id(2), nobody)
	refused(t, bundle.Check(stranger.Sharing), dkek.WrongSharing, id(2), nobody)
	bundle.Wipe()
	refused(t, bundle.Check(s.Sharing), dkek.Wiped, id(2), nobody)
	_, err = bundle.SealRelease(s.Sharing, newKey(t, dkek.X25519()).Public(), transcript)
	refused(t, err, dkek.Wiped, id(2), nobody)
}

func TestSubShareRefusals(t *testing.T) {
	plan := firstPlan(3, 2)
	key := newKey(t, dkek.X25519())
	dealt, err := dkek.Deal(plan, id(1), nil)
	check(t, err)
	public := dealt.Public()
	good, err := dealt.SealFor(id(2), key.Public(), transcript)
	check(t, err)
	claimed := good
	claimed.Ciphertext = nil

	open := func(s dkek.Sealed, d dkek.Dealing, holder dkek.NodeID) error {
		_, err := dkek.OpenSubShare(key, s, transcript, plan, &d, holder)
		return err
	}
	check(t, open(good, public, id(2)))
	refused(t, open(good, public, id(3)), dkek.WrongHolder, id(3), id(1))
	refused(t, open(good, public, id(7)), dkek.NotHolder, id(7), nobody)
	other, err := dkek.Deal(plan, id(2), nil)
	check(t, err)
	refused(t, open(good, other.Public(), id(2)), dkek.WrongDealer, id(2), id(2))
	refused(t, open(forge(t, claimed, plan.Hash(), key.Public(), make([]byte, 48)), public, id(2)), dkek.BadLength, id(2), id(1))
	refused(t, open(forge(t, claimed, plan.Hash(), key.Public(), make([]byte, 49)), public, id(2)), dkek.ZeroX, id(2), id(1))
	refused(t, open(forge(t, claimed, plan.Hash(), key.Public(), bytes.Repeat([]byte{1}, 49)), public, id(2)), dkek.Forged, id(2), id(1))

	next := *plan
	next.Attempt = 2
	_, err = dkek.OpenSubShare(key, good, transcript, &next, &public, id(2))
	refused(t, err, dkek.WrongAttempt, id(2), id(1))
	_, err = dealt.SealFor(id(9), key.Public(), transcript)
	refused(t, err, dkek.NotHolder, id(9), nobody)
	dealt.Wipe()
	_, err = dealt.SealFor(id(2), key.Public(), transcript)
	refused(t, err, dkek.Wiped, id(2), nobody)
}

func TestDealingRefusals(t *testing.T) {
	s := deal(t, firstPlan(3, 2), nil)
	for _, c := range []struct {
		name   string
		change func(*dkek.Dealing)
		reason dkek.Reason
		holder dkek.NodeID
	}{
		{"x = 0", func(d *dkek.Dealing) { d.X[1] = 0 }, dkek.ZeroX, id(2)},
		{"x twice", func(d *dkek.Dealing) { d.X[2] = d.X[0] }, dkek.Duplicate, id(3)},
		{"x missing", func(d *dkek.Dealing) { d.X = d.X[:2] }, dkek.BadLength, nobody},
		{"commitment missing", func(d *dkek.Dealing) { d.Commitments = d.Commitments[:2] }, dkek.BadLength, nobody},
		{"no commitment", func(d *dkek.Dealing) { d.Commitments[0] = dkek.Hash{} }, dkek.BadFormat, id(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := s.Dealings[1]
			bad.X, bad.Commitments = bytes.Clone(bad.X), append([]dkek.Hash(nil), bad.Commitments...)
			c.change(&bad)
			_, err := dkek.NewSharing(&s.Plan, []dkek.Dealing{s.Dealings[0], bad, s.Dealings[2]})
			refused(t, err, c.reason, c.holder, id(2))
		})
	}
	_, err := dkek.NewSharing(&s.Plan, s.Dealings[:2])
	if !errors.Is(err, dkek.ErrPlan) {
		t.Fatalf("a dealing short: %v", err)
	}
	_, err = dkek.NewSharing(&s.Plan, []dkek.Dealing{s.Dealings[0], s.Dealings[0], s.Dealings[2]})
	refused(t, err, dkek.WrongDealer, nobody, id(2))
}

func TestBundleRefusals(t *testing.T) {
	plan := firstPlan(2, 2)
	key := newKey(t, dkek.X25519())
	var dealings []dkek.Dealing
	subs := make(map[dkek.NodeID][]*dkek.SubShare) // by holder, in dealers' order
	for _, dealer := range plan.Dealers {
		dealt, err := dkek.Deal(plan, dealer.Node, nil)
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
	}
	s, err := dkek.NewSharing(plan, dealings)
	check(t, err)
	one, two := subs[id(1)], subs[id(2)]
	join := func(holder dkek.NodeID, subs ...*dkek.SubShare) error {
		_, err := dkek.NewBundle(s, holder, subs)
		return err
	}
	check(t, join(id(1), one[1], one[0]))
	refused(t, join(id(1), one[0]), dkek.TooFew, id(1), id(2))
	refused(t, join(id(1), one[0], one[0]), dkek.Duplicate, id(1), id(1))
	refused(t, join(id(1), one[0], two[1]), dkek.WrongHolder, id(1), id(2))
	refused(t, join(id(5), one...), dkek.WrongHolder, id(5), id(1))
	other := deal(t, plan, nil)
	_, err = dkek.NewBundle(other.Sharing, id(1), one)
	refused(t, err, dkek.Forged, id(1), id(1))
	one[1].Wipe()
	refused(t, join(id(1), one...), dkek.Wiped, id(1), id(2))
}

func TestShareFileRefusals(t *testing.T) {
	s := deal(t, firstPlan(3, 2), nil)
	box := newBox(t, 1)
	content, err := s.bundles[id(2)].SealAtRest(box, s.Sharing)
	check(t, err)
	open := func(content []byte, s *dkek.Sharing, holder dkek.NodeID) error {
		_, err := dkek.OpenAtRest(box, content, s, holder)
		return err
	}
	check(t, open(content, s.Sharing, id(2)))
	refused(t, open(content, changed(s, func(p *dkek.Plan) { p.Cluster[0]++ }), id(2)), dkek.WrongCluster, id(2), nobody)
	refused(t, open(content, changed(s, func(p *dkek.Plan) { p.Epoch++ }), id(2)), dkek.WrongEpoch, id(2), nobody)
	refused(t, open(content, changed(s, func(p *dkek.Plan) { p.Attempt++ }), id(2)), dkek.WrongAttempt, id(2), nobody)
	refused(t, open(content, s.Sharing, id(1)), dkek.WrongHolder, id(1), nobody)
	refused(t, open(content, deal(t, firstPlan(3, 2), nil).Sharing, id(2)), dkek.WrongSharing, id(2), nobody)
	for n := range len(content) {
		if err := open(content[:n], s.Sharing, id(2)); !errors.Is(err, dkek.Truncated) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
	refused(t, open(append(bytes.Clone(content), 0), s.Sharing, id(2)), dkek.Damaged, id(2), nobody)
	refused(t, open(bytes.Repeat([]byte("no share"), 100), s.Sharing, id(2)), dkek.BadFormat, id(2), nobody)
	refused(t, open(make([]byte, 1<<20), s.Sharing, id(2)), dkek.BadLength, id(2), nobody)
	_, err = dkek.OpenAtRest(newBox(t, 2), content, s.Sharing, id(2))
	refused(t, err, dkek.WrongSeal, id(2), nobody)

	// Without any seal secret the file still tells whose it is, and of what.
	file, err := dkek.ParseShareFile(content)
	check(t, err)
	if file.Holder != id(2) || file.Sharing.Hash() != s.Hash() {
		t.Fatal("the public half of a share file is wrong")
	}
}

func TestGather(t *testing.T) {
	s := deal(t, firstPlan(4, 3), nil)
	want := dkek.KCVOf(s.combine(t, ids(nodes(1, 2, 4))))
	key := newKey(t, dkek.Hybrid())
	g, err := dkek.NewGather(s.Sharing, key)
	check(t, err)
	send := func(n int) dkek.Sealed {
		sealed, err := s.bundles[id(n)].SealRelease(s.Sharing, key.Public(), transcript)
		check(t, err)
		return sealed
	}
	check(t, g.AddOwn(s.bundles[id(4)]))
	refused(t, g.AddOwn(s.bundles[id(4)]), dkek.Duplicate, id(4), nobody)
	check(t, g.Add(id(2), send(2), transcript))
	refused(t, g.Add(id(2), send(2), transcript), dkek.Duplicate, id(2), nobody)
	_, err = g.Quorum()
	refused(t, err, dkek.TooFew, nobody, nobody)
	if !strings.Contains(err.Error(), "2 of 3") {
		t.Fatalf("%q does not count", err)
	}
	// A lie is named and changes nothing; the truth is still taken after it.
	lie := s.open(t, id(1))
	lie[0] ^= 1
	refused(t, g.Add(id(1), forge(t, release(s, id(1)), s.Hash(), key.Public(), lie), transcript), dkek.Forged, id(1), id(1))
	refused(t, g.Add(id(1), send(2), transcript), dkek.WrongHolder, id(1), nobody)
	_, err = g.Partial(ids(nodes(1, 2, 4)), id(1))
	refused(t, err, dkek.NotHolder, id(1), nobody)
	check(t, g.Add(id(1), send(1), transcript))
	quorum, err := g.Quorum()
	check(t, err)
	check(t, g.Add(id(3), send(3), transcript))
	again, err := g.Quorum()
	check(t, err)
	if len(quorum) != 3 || quorum[0] != again[0] || quorum[1] != again[1] || quorum[2] != again[2] {
		t.Fatalf("the quorum moved from %v to %v", quorum, again)
	}
	var all []*dkek.Secret
	for _, holder := range quorum {
		partial, err := g.Partial(quorum, holder)
		check(t, err)
		all = append(all, partial)
	}
	whole, err := dkek.Combine(&s.Plan, all, want)
	check(t, err)
	whole.Wipe()

	_, err = g.Partial([]dkek.NodeID{id(1), id(1), id(2)}, id(1))
	refused(t, err, dkek.Duplicate, id(1), nobody)
	_, err = g.Partial([]dkek.NodeID{id(1), id(2), id(9)}, id(1))
	refused(t, err, dkek.NotHolder, id(9), nobody)
	_, err = g.Partial(ids(nodes(1, 2, 3, 4)), id(1))
	refused(t, err, dkek.BadLength, nobody, nobody)
	_, err = g.Partial(ids(nodes(1, 2, 3)), id(4))
	refused(t, err, dkek.NotHolder, id(4), nobody)
	_, err = dkek.Combine(&s.Plan, all[:2], want)
	refused(t, err, dkek.TooFew, nobody, nobody)
	_, err = dkek.Combine(&s.Plan, []*dkek.Secret{all[0], all[1], secret.New(31)}, want)
	refused(t, err, dkek.BadLength, nobody, nobody)
	_, err = dkek.Combine(&s.Plan, []*dkek.Secret{all[0], all[1], all[1]}, want)
	refused(t, err, dkek.WrongKCV, nobody, nobody)
}

// Each single bit of a share file or a release that flips is noticed, whichever
// it is, and never gives a share.
func TestEveryFlippedBitOfAShareFile(t *testing.T) {
	s := deal(t, firstPlan(2, 2), nil)
	box := newBox(t, 1)
	content, err := s.bundles[id(1)].SealAtRest(box, s.Sharing)
	check(t, err)
	for bit := range len(content) * 8 {
		content[bit/8] ^= 1 << (bit % 8)
		_, err := dkek.OpenAtRest(box, content, s.Sharing, id(1))
		content[bit/8] ^= 1 << (bit % 8)
		want := dkek.Damaged
		switch at := bit / 8; {
		case at < 8: // the magic
			want = dkek.BadFormat
		case at >= 10 && at < 14 && errors.Is(err, dkek.Truncated): // the length says more than there is
			want = dkek.Truncated
		}
		refused(t, err, want, id(1), nobody)
	}
}

func TestEveryFlippedBitOfARelease(t *testing.T) {
	s := deal(t, firstPlan(2, 2), nil)
	for _, suite := range []dkek.Suite{dkek.Hybrid(), dkek.X25519(), dkek.P256()} {
		key := newKey(t, suite)
		sealed, err := s.bundles[id(1)].SealRelease(s.Sharing, key.Public(), transcript)
		check(t, err)
		wire, err := sealed.Encode()
		check(t, err)
		for bit := range len(wire) * 8 {
			if suite == dkek.Hybrid() && bit/8 > 200 && bit/8 < len(wire)-150 && bit%8 != bit/8%8 {
				continue // of the middle of ML-KEM's ciphertext, one bit in eight
			}
			wire[bit/8] ^= 1 << (bit % 8)
			parsed, err := dkek.ParseSealed(wire)
			wire[bit/8] ^= 1 << (bit % 8)
			if err == nil {
				_, err = dkek.OpenRelease(key, *parsed, transcript, s.Sharing, id(1))
			}
			var share *dkek.ShareError
			if !errors.As(err, &share) {
				t.Fatalf("%v: bit %d: %v", suite, bit, err)
			}
		}
	}
}
